"""Every registry test runs on both databases."""

from support.databases import empty_engine, postgres_server, session_factory

__all__ = ["empty_engine", "postgres_server", "session_factory"]
