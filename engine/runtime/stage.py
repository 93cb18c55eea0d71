"""The life of one stage process, from its directory to a serving SGLang.

The node daemon writes `stage.json` (how to run) before it asks for the process, and `model.json` (what to serve) once
the model's small files are on this machine; whichever way the process began, it does the same from here on.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

STAGE_FILE = "stage.json"
MODEL_FILE = "model.json"
LOCK_FILE = "lock"
LOG_FILE = "log"

MODEL_WAIT_S = 600.0
"""Bound on the wait for the model's small files; the daemon gives up and stops the stage long before."""

MODEL_POLL_S = 0.02


class AlreadyRunning(Exception):
    """A process of this stage is alive already."""


def become_stage(stage_dir: Path) -> dict[str, Any]:
    """Turn this process into the leader of the stage's own session and return the content of stage.json.

    Own session, directory, log, environment, temporary files and cores; from here on nothing ties it to its parent.
    """
    spec: dict[str, Any] = json.loads((stage_dir / STAGE_FILE).read_text())
    if os.getsid(0) != os.getpid():
        os.setsid()
    # The working directory marks every process of the stage as this node's own: see engine.noded.processes.
    os.chdir(stage_dir)
    os.umask(0o077)
    redirect_output(stage_dir / LOG_FILE)
    hold_lock(stage_dir / LOCK_FILE)
    os.environ.update(spec["env"])
    tempfile.tempdir = None
    if spec["cores"]:
        os.sched_setaffinity(0, spec["cores"])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    return spec


def redirect_output(log: Path) -> None:
    """Point standard input at nothing, and output and errors at the end of `log`."""
    with log.open("ab") as out, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)


def hold_lock(path: Path) -> None:
    """Hold the stage's lock until the last process of the stage ends. Raises AlreadyRunning."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyRunning(f"{path} is held: this stage has a process already") from None
    # Names the stage's session, also to a noded that has lost its record: see engine.noded.processes.
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def wait_for_model(stage_dir: Path) -> dict[str, Any]:
    """The content of model.json, as soon as it is there. Raises TimeoutError after MODEL_WAIT_S."""
    deadline = time.monotonic() + MODEL_WAIT_S
    path = stage_dir / MODEL_FILE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {MODEL_FILE} after {MODEL_WAIT_S:.0f} s: the model's files never arrived")
        time.sleep(MODEL_POLL_S)
    model: dict[str, Any] = json.loads(path.read_text())
    return model


def serve(stage_dir: Path, spec: dict[str, Any]) -> None:
    """Run SGLang with the stage's arguments until it ends. SGLang must be imported already."""
    import torch
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    from engine.sglang_plugin import hooks, signals

    signals.emit("runtime")
    if spec["cores"]:
        torch.set_num_threads(len(spec["cores"]))
    model = wait_for_model(stage_dir)
    os.environ[hooks.LOAD_SPEC_VARIABLE] = model["load_spec"]
    try:
        run_server(prepare_server_args([*spec["argv"], "--model-path", model["model_dir"]]))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


def run_forked(stage_dir: Path) -> None:
    """Be the stage, in a fresh fork of the warm runtime; never returns."""
    code = 1
    try:
        serve(stage_dir, become_stage(stage_dir))
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - whatever it was, it goes to the stage's log and ends the stage
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: the handlers registered so far belong to the warm runtime.
        os._exit(code)
