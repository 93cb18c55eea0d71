"""The lab's store: exactly the bytes that are asked for, to anyone in the lab, and to a node's noded."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.labs import lab_namespaces, skipped_where_forbidden
from support.weights_source import write_model

from bench.lab import Lab, NodeSettings
from bench.lab.shaping import PAYLOAD
from cli.services import ROOT

CONTENT = random.Random(7).randbytes(3_000_001)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a file, and one behind a link."""
    directory = tmp_path_factory.mktemp("files")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (directory / "weights").write_bytes(CONTENT)
    (elsewhere / "config.json").write_text("{}")
    (directory / "model").symlink_to(elsewhere)
    return directory


@pytest.fixture(scope="module")
def url(files: Path) -> Iterator[str]:
    """A store on this machine's loopback, as anybody can start it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bench.lab.store", files, "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"serving\n"
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        assert process.wait(20) == 0


def get(url: str, wanted: str | None = None) -> tuple[int, bytes, str | None]:
    """Status, bytes and Content-Range of one request, for the range `wanted`."""
    request = urllib.request.Request(url, headers={"Range": wanted} if wanted else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read(), answer.headers["Content-Range"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers["Content-Range"]


@pytest.mark.parametrize(
    ("wanted", "begin", "end"),
    [("0-0", 0, 1), ("17-1048592", 17, 1_048_593), ("2999999-", 2_999_999, 3_000_001), ("-5", 2_999_996, 3_000_001)],
)
def test_a_range_is_exactly_what_was_asked_for(url: str, wanted: str, begin: int, end: int) -> None:
    status, content, told = get(f"{url}/weights", f"bytes={wanted}")
    assert (status, told) == (206, f"bytes {begin}-{end - 1}/{len(CONTENT)}")
    assert content == CONTENT[begin:end]


def test_whole_files_links_and_what_is_not_there(url: str) -> None:
    assert get(f"{url}/weights")[:2] == (200, CONTENT)
    assert get(f"{url}/model/config.json")[:2] == (200, b"{}")
    assert get(f"{url}/none")[0] == 404
    assert get(f"{url}/../etc/passwd")[0] in (400, 403, 404)
    assert get(f"{url}/weights", f"bytes={len(CONTENT)}-")[0] == 416


def test_a_node_fetches_from_the_store_over_its_link(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", [4_000_000, 1_000_000])
    settings = [NodeSettings("node-1", core=0, warm=False)]
    with skipped_where_forbidden():
        lab = Lab(settings, tmp_path, node_mbit=200)
    with lab:
        node = lab.nodes["node-1"]
        report = node.client.report()
        assert (report["node"], report["address"]) == ("node-1", lab.addresses["node-1"])
        assert report["link_bps"] == int(PAYLOAD * 25_000_000)
        before = lab.network.counters()["node-1"]
        node.client.apply(model.effect("stg_1", source=f"{lab.store_url}/model"))
        node.wait(lambda: node.stage("stg_1")["marks"].get("prefetch_end"), "the bytes", within_s=30)
        stage, moved = node.stage("stg_1"), lab.network.counters()["node-1"] - before
        assert stage["bytes_fetched"] == stage["bytes_total"] == 5_000_000
        assert 5_000_000 < moved.received < 5_200_000
        kept = [node.home, node.config.store_dir, node.config.temp_dir]
    assert not any(path.exists() for path in kept)
    assert lab_namespaces() == []


def test_a_store_without_its_directory_is_told_of(tmp_path: Path) -> None:
    with skipped_where_forbidden(), Lab([], tmp_path):
        """It can be made here."""
    with pytest.raises(Exception, match=r"^the store did not start: .*No such file.*/none'$"):
        Lab([], tmp_path / "none")
    assert lab_namespaces() == []
