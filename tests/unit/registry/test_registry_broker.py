"""The broker's URL: one spelling for all processes, and TLS that verifies."""

import ssl

import pytest
from kombu import Connection

from registry.broker import broker_url


def test_a_unix_socket_and_a_plain_url() -> None:
    assert broker_url("unix:///run/redis.sock") == "redis+socket:///run/redis.sock"
    assert broker_url("redis://:secret@host:6379/2") == "redis://:secret@host:6379/2"


@pytest.mark.parametrize(
    ("url", "demanded"),
    [
        ("rediss://:pw@host:6379/0", ssl.CERT_REQUIRED),
        ("rediss://host/0?ssl_ca_certs=/etc/ca.pem", ssl.CERT_REQUIRED),
        ("rediss://host/0?ssl_cert_reqs=none", ssl.CERT_NONE),
        ("rediss://host/0?ssl_cert_reqs=optional&ssl_ca_certs=/etc/ca.pem", ssl.CERT_OPTIONAL),
    ],
)
def test_a_certificate_is_verified_unless_the_url_says_otherwise(url: str, demanded: ssl.VerifyMode) -> None:
    assert Connection(broker_url(url)).ssl["ssl_cert_reqs"] is demanded
