"""`python -m admin_ui`: gunicorn on 127.0.0.1, at HYDRANT_ADMIN_PORT. Put a TLS proxy in front for other machines."""

from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

from admin_ui.app import create_app
from admin_ui.config import AdminConfig
from registry.errors import RegistryError
from registry.logs import configure_logging
from registry.settings import load_settings

WORKERS = 1  # admin_ui.registrations keeps its jobs in memory
THREADS = 8
"""Pages wait for SQL, not for the processor: threads suffice, and one process keeps a small machine's memory free."""


class Server(BaseApplication):  # type: ignore[misc]
    """Gunicorn with our settings in place of its command line."""

    def __init__(self, app: Flask, port: int) -> None:
        self.app = app
        self.port = port
        super().__init__()

    def load_config(self) -> None:
        settings: dict[str, Any] = {
            "bind": f"127.0.0.1:{self.port}",
            "workers": WORKERS,
            "threads": THREADS,
            "worker_class": "gthread",
            "proc_name": "hydrant-admin",
            "graceful_timeout": 10,
            "control_socket_disable": True,
        }
        for name, value in settings.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        return self.app


def main() -> None:
    """Serves until stopped. A setting that is wrong ends it with one line that says which."""
    configure_logging()
    try:
        settings = load_settings()
        config = AdminConfig.from_settings(settings)
    except RegistryError as error:
        raise SystemExit(f"admin: {error}") from None
    Server(create_app(config), settings.admin_port).run()


if __name__ == "__main__":
    main()
