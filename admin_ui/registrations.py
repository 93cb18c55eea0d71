"""Registering a model reads every byte of its source, which can take minutes: a thread does it, the page follows.

Jobs live in this process's memory. `python -m admin_ui` serves everything from one process; a restart in the middle
loses only the reading, and the page then says to begin again.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from sqlalchemy.exc import SQLAlchemyError

from registry.errors import RegistryError
from registry.ids import new_id, now_ms
from registry.manifest import ManifestDoc
from registry.sources import inspect_source

log = structlog.get_logger(__name__)

MOST_AT_ONCE = 2
"""Hashing is bound by disk and processor: more at once would only make each slower."""
KEPT_MS = 3_600_000
"""A job that ended is remembered for an hour."""

Register = Callable[[ManifestDoc], str]


@dataclass
class Registration:
    """One model being read and registered. `state`: reading, done or failed."""

    id: str
    name: str
    source: str
    started_at_ms: int
    state: str = "reading"
    read_bytes: int = 0
    total_bytes: int = 0
    error: str | None = None
    model_id: str | None = None
    ended: threading.Event = field(default_factory=threading.Event)


@dataclass
class Registrations:
    """The registrations of this process."""

    jobs: dict[str, Registration] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, name: str, source: str, register: Register) -> Registration | None:
        """Reads `source` in a thread, then calls `register(manifest)`, which returns the model's id.

        None while as many as are allowed are being read.
        """
        with self.lock:
            self._forget_old()
            if sum(job.state == "reading" for job in self.jobs.values()) >= MOST_AT_ONCE:
                return None
            job = Registration(new_id("reg"), name, source, now_ms())
            self.jobs[job.id] = job
        threading.Thread(target=_run, args=(job, register), name=job.id, daemon=True).start()
        return job

    def get(self, job_id: str) -> Registration | None:
        """The registration of this id; None when this process does not know it (any more)."""
        return self.jobs.get(job_id)

    def _forget_old(self) -> None:
        for job in list(self.jobs.values()):
            if job.state != "reading" and now_ms() - job.started_at_ms > KEPT_MS:
                del self.jobs[job.id]


def _run(job: Registration, register: Register) -> None:
    def progress(done: int, total: int) -> None:
        job.read_bytes, job.total_bytes = done, total

    try:
        job.model_id = register(inspect_source(job.source, progress))
        job.state = "done"
    except RegistryError as error:
        job.error, job.state = error.message, "failed"
    except SQLAlchemyError:
        log.exception("model_not_registered", model=job.name)
        job.error, job.state = "The database did not take the model; the server's log says why. Try again.", "failed"
    except Exception:  # a thread's error would otherwise go unseen, and the page would wait for ever
        log.exception("model_not_read", model=job.name)
        job.error, job.state = "Reading the source failed in an unforeseen way; the server's log says how.", "failed"
    finally:
        job.ended.set()
