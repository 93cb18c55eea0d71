"""A source behind HTTPS whose certificate is signed by an authority of one's own."""

import ssl
import subprocess

import pytest
from support.range_server import RangeServer
from support.weights_source import read_back

from engine.weights.stage import WeightsUnavailable


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture
def authority(tmp_path):
    """Certificate of an authority, and the TLS context of a server at 127.0.0.1 that it vouches for."""
    ca, ca_key, cert, key, request, names = (
        str(tmp_path / name) for name in ("ca.pem", "ca.key", "cert.pem", "key.pem", "csr.pem", "names")
    )
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", ca_key, "-out", ca, "-subj", "/CN=test authority", "-days", "2")
    openssl("req", *curve, "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1")
    with open(names, "w") as file:
        file.write("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    signing = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", names]
    openssl("x509", "-req", "-in", request, "-out", cert, *signing)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return ca, context


@pytest.fixture
def secure(model, authority):
    """The model over HTTPS."""
    serving = RangeServer(model.folder, authority[1])
    yield serving
    serving.close()


async def test_an_authority_that_the_node_trusts(model, secure, store, authority, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", authority[0])
    stage = store.prefetch(model.request("s1", source=secure.url))
    await stage.wait_verified()
    assert read_back(stage.load_spec) == {t["name"]: model.data(t["name"]) for t in model.tensors}


async def test_an_authority_that_nobody_knows_is_refused(model, secure, store):
    stage = store.prefetch(model.request("s1", source=secure.url))
    with pytest.raises(WeightsUnavailable, match=secure.url):
        await stage.wait_verified()
    assert secure.weight_bytes() == 0
