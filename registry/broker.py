"""The Redis URL as Celery's kombu spells it. One place: a process that builds its own would forget the certificate."""

from urllib.parse import parse_qs, urlsplit


def broker_url(redis_url: str) -> str:
    """`redis_url` for Celery: a unix socket is `redis+socket://`, and TLS demands a certificate that can be verified.

    kombu takes a bare `rediss://` to mean that no certificate is looked at; whoever wants that must say so in the URL
    (`?ssl_cert_reqs=none`).
    """
    if redis_url.startswith("unix://"):
        return "redis+socket://" + redis_url.removeprefix("unix://")
    parts = urlsplit(redis_url)
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(parts.query):
        return redis_url + ("&" if parts.query else "?") + "ssl_cert_reqs=required"
    return redis_url
