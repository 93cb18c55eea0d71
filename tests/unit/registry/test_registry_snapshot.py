"""The read model's document, as a gateway sees it."""

import json
import subprocess
import sys

import pytest

from registry.errors import SnapshotError
from registry.snapshot import (
    SnapshotDoc,
    encode_snapshot,
    generate_key,
    key_digest,
    looks_like_key,
    parse_snapshot,
)

EMPTY: SnapshotDoc = {
    "version": 1,
    "built_at_ms": 2,
    "keys": {},
    "tenants": {},
    "models": {},
    "aliases": {"chat": {"smol": 1}},
    "policies": {"small": {"*": {"mode": "reject", "after_s": 0, "fallback": None}}},
    "hold": {"max_requests": 1, "max_bytes": 2, "deadline_s": 3},
}


def test_a_snapshot_survives_the_way_through_redis() -> None:
    assert parse_snapshot(encode_snapshot(EMPTY)) == EMPTY


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"version": 1}', b"\xff\xfe", b"null"])
def test_what_is_no_snapshot_is_an_error(raw: bytes) -> None:
    with pytest.raises(SnapshotError, match="hyd:snapshot"):
        parse_snapshot(raw)


def test_the_wrong_field_is_named_but_no_digest_is_shown() -> None:
    document = json.loads(encode_snapshot(EMPTY))
    document["keys"] = {"a" * 64: {"key_id": 7}}
    with pytest.raises(SnapshotError, match=r"keys\.key_id") as caught:
        parse_snapshot(json.dumps(document))
    assert "a" * 64 not in str(caught.value)


def test_keys_have_their_shape_and_differ() -> None:
    keys = {generate_key()[0] for _ in range(100)}
    assert len(keys) == 100
    assert all(looks_like_key(key) and len(key) == 56 for key in keys)
    plaintext, prefix = generate_key()
    assert plaintext.startswith(f"hyd-{prefix}-")


@pytest.mark.parametrize("text", ["", "hyd-", "sk-abc", "hyd-abcdefgh-" + "x" * 42, "hyd-ABCDEFGH-" + "x" * 43])
def test_other_text_does_not_look_like_a_key(text: str) -> None:
    assert not looks_like_key(text)


def test_a_digest_depends_on_key_and_pepper_as_rfc_2104_says() -> None:
    # The HMAC-SHA-256 test vector 2 of RFC 4231.
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert key_digest("Jefe", "what do ya want for nothing?") == expected
    assert key_digest("jefe", "what do ya want for nothing?") != expected


def test_the_data_plane_can_read_snapshots_without_the_orm() -> None:
    program = "import sys, registry.snapshot; print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
