"""Loading a stage's tensors in a thread, beside the rest of SGLang's start.

SGLang loads first and then makes KV memory, attention backends, the scheduler and the HTTP server. None of that looks
at a weight's value, so here it is done while tensors still land; whatever computes with weights waits for the load.

Only models without quantization: a quantizer replaces parameters when the load has ended, and what comes after it (the
size of KV memory, for one) looks at what it made of them.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any

from engine.sglang_plugin import signals

logger = logging.getLogger(__name__)


class LoadFailed(Exception):
    """The weights did not come; nothing can be computed. The load's own error is the cause."""


WANTED = "wanted"
"""The event that a start can go no further without weights: what it has taken so far, no link makes shorter."""


class Load:
    """One load in a thread of its own. `wanted`: something has waited for it."""

    def __init__(self, work: Callable[[], None]) -> None:
        """Start `work`, with the context variables of the caller."""
        self._work = work
        self._error: Exception | None = None
        self.wanted = False
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="hydrant-load", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - whatever it was, it ends the stage, as it does in SGLang's own thread
            self._error = error
            end_stage()

    @property
    def running(self) -> bool:
        """Whether it has neither ended nor failed."""
        return self._thread.is_alive()

    def wait(self) -> None:
        """Return when everything is loaded. Raises LoadFailed."""
        self._thread.join()
        if self._error is not None:
            raise LoadFailed(f"the weights did not come: {self._error}") from self._error


_loads: list[Load] = []
"""The load of this process, once it has begun: an engine starts once."""


def end_stage() -> None:
    """Log the exception that is being handled as SGLang's scheduler would, and end the stage as it does."""
    logger.error("Scheduler hit an exception: %s", traceback.format_exc())
    os.kill(os.getppid(), signal.SIGQUIT)


def load_beside(original: Callable[..., Any], model: Any, weights: Any, target_device: Any) -> Any:
    """AROUND DefaultModelLoader.load_weights_and_postprocess: begin the load and return.

    Steps aside outside a stage of Hydrant's, for quantized models, and for every load after the first (an update of the
    weights of a serving engine).
    """
    if _loads or not os.environ.get(signals.EVENTS_VARIABLE):
        return original(model, weights, target_device)
    if getattr(model, "quant_config", None) is not None:
        signals.emit(WANTED)
        return original(model, weights, target_device)

    def work() -> None:
        import torch

        # A thread has its own current device and its own switch for gradients.
        if target_device.type == "cuda":
            torch.cuda.set_device(target_device)
        with torch.no_grad(), staged_copies(target_device):
            original(model, weights, target_device)
        if target_device.type == "cuda":
            torch.cuda.synchronize(target_device)

    _loads.append(Load(work))
    return None


def staged_copies(target_device: Any) -> contextlib.AbstractContextManager[None]:
    """Within it, what this thread copies to a GPU goes through pinned buffers, where memory can be pinned."""
    if target_device.type != "cuda":
        return contextlib.nullcontext()
    from sglang.srt.utils.common import is_pin_memory_available

    from engine.weights import pinned_ring

    if not is_pin_memory_available(target_device):
        logger.warning("weights go to the device from unpinned memory: SGLang says that none can be pinned here")
        return contextlib.nullcontext()
    return pinned_ring.copies_through(pinned_ring.Cuda())


def wait_for_load(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """AROUND whatever computes with weights: only when they are there. Raises LoadFailed."""
    for load in _loads:
        if load.running and not load.wanted:
            load.wanted = True
            signals.emit(WANTED)
        load.wait()
    return original(*args, **kwargs)


def wait_before_capture(original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    """AROUND Scheduler.init_all_cuda_graphs: copies to the GPU and a capture must not meet, so there it waits."""
    if scheduler.server_args.device != "cpu":
        return wait_for_load(original, scheduler, *args, **kwargs)
    return original(scheduler, *args, **kwargs)
