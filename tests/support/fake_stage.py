"""Stands in for SGLang in tests of noded: `fake_stage.py -m engine.stage_main DIR`, the real life of a stage around it.

What the stage does is told by its model name: "ok" serves; "dies" fails while starting; "stubborn" ignores SIGTERM;
"children" starts two more processes; "loads" maps its segments and loads until there is a file `go` in its directory;
"quiet" never wakes noded; "slow" answers when there is a file `go` in its directory, "refuses" answers 500, "faints"
ends at the first question;
"shares" keeps a file of its own in shared memory; "talks" fills its log. It is used as a node's `engine_python`.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

METRICS = (
    'sglang:prompt_tokens_total{model_name="m"} 7.0\n'
    'sglang:prompt_tokens_total{model_name="m",x="2"} 3.0\n'
    'sglang:generation_tokens_total{model_name="m"} 5.0\n'
)


class Answers(BaseHTTPRequestHandler):
    """One completion for every POST, the counters for every GET; 401 without the right key."""

    key = ""
    name = ""

    def do_GET(self) -> None:
        self._answer(METRICS)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        while self.name == "slow" and not Path("go").exists():
            time.sleep(0.01)
        if self.name == "faints":
            print("RuntimeError: no breath", flush=True)
            os._exit(1)
        if self.name == "refuses":
            self.send_error(500)
            return
        self._answer(json.dumps({"choices": [{"text": "b"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}))

    def _answer(self, body: str) -> None:
        allowed = self.headers["Authorization"] == f"Bearer {self.key}"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


def main() -> None:
    """Be the stage."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from engine.runtime import stage

    directory = Path(sys.argv[-1])
    serve(directory, stage.become_stage(directory))


def serve(directory: Path, spec: dict[str, Any]) -> None:
    """What SGLang does once the process is the stage's."""
    from engine.runtime import stage
    from engine.sglang_plugin import signals

    argv = spec["argv"]
    name, port = argv[argv.index("--served-model-name") + 1], int(argv[argv.index("--port") + 1])
    Answers.name = name
    Answers.key = argv[argv.index("--api-key") + 1]
    if name == "quiet":
        del os.environ[signals.SIGNAL_VARIABLE]
    signals.emit("runtime")
    model = stage.wait_for_model(directory)
    signals.emit("load_start")
    mapped = []
    if name == "loads":
        mapped = [map_whole(path) for path in segments_of(Path(model["load_spec"]))]
        while not (directory / "go").exists():
            time.sleep(0.01)
    if name == "dies":
        print(f"RuntimeError: no luck with key {Answers.key}", flush=True)
        sys.exit(1)
    if name == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if name == "children":
        for _ in range(2):
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    for each in mapped:
        each.close()
    signals.emit("load_end")
    if name == "shares":
        mapped = [map_whole(shared_file())]
    if name == "talks":
        print("x" * 100_000, flush=True)
    server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
    if "--node-rank" not in argv or argv[argv.index("--node-rank") + 1] == "0":
        Path(os.environ["TMPDIR"], "left-behind").touch()
    signals.emit("up")
    server.serve_forever()


def segments_of(load_spec: Path) -> set[Path]:
    """The segments that the stage reads, all of them made."""
    paths = {Path(tensor["segment"]) for tensor in json.loads(load_spec.read_text())["tensors"]}
    while not all(path.exists() for path in paths):
        time.sleep(0.01)
    return paths


def shared_file() -> Path:
    """A file in shared memory that the stage would leave behind."""
    path = Path(f"/dev/shm/hydrant-test-{os.getpid()}")
    path.write_bytes(b"x" * 4096)
    return path


def map_whole(path: Path) -> mmap.mmap:
    """The file, mapped as the real loader maps it."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


if __name__ == "__main__":
    main()
