"""Reading a model's files where they are: a local directory, HTTP(S), S3, GCS or Azure. Every wait is bounded."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError, NotFoundError
from obstore.store import from_url

from registry.errors import SourceError

if TYPE_CHECKING:  # obstore has these types in its stubs only
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

_REMOTE = ("http", "https", "s3", "gs", "az")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_CLIENT: "ClientConfig" = {"connect_timeout": "10s", "timeout": "120s", "allow_http": True}
_RETRY: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}


class SourceReader(Protocol):
    """Files of one model. Names are plain file names; every method raises SourceError when the source fails."""

    def size(self, name: str) -> int | None:
        """Bytes of a file, None if there is no such file."""

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Exactly the bytes `[begin, end)` of a file."""


def open_source(url: str) -> SourceReader:
    """A reader for a URL that `check_source` returned."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalReader(Path(unquote(parts.path)))
    return ObjectReader(url)


def check_source(source: str) -> str:
    """The source as a URL: file:///dir, http(s)://host/dir, s3://bucket/prefix, gs://bucket/prefix or
    az://container/prefix; a path becomes file://.

    A URL may carry neither credentials nor a query: sources are shown to people and sent to nodes.
    """
    text = source.strip()
    if not text.isprintable() or not text:
        raise SourceError("source must be a directory or a URL", "source")
    try:
        parts = urlsplit(text)
        _ = parts.port  # looked at only when asked for
    except ValueError as error:
        raise SourceError(f"source is not a URL: {error}", "source") from None
    if parts.scheme == "":
        try:
            return Path(text).expanduser().absolute().as_uri()
        except RuntimeError:
            person = text.partition("/")[0]
            raise SourceError(f"source begins with {person}, and nobody here has that name", "source") from None
    if parts.scheme not in ("file", *_REMOTE):
        known = ", ".join(f"{scheme}://" for scheme in _REMOTE)
        raise SourceError(f"source must be a directory, or start with file://, {known}", "source")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SourceError(
            "source must hold no user name, password, query or fragment; see docs/operations.md", "source"
        )
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise SourceError("source names another host; write file:///absolute/path", "source")
        return Path(unquote(parts.path)).absolute().as_uri()
    if not parts.netloc:
        raise SourceError("source lacks a host or bucket", "source")
    return text.rstrip("/")


def check_file_name(name: object) -> str:
    """`name`, if it is a plain file name: no directory, no `..`. Raises SourceError."""
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
        raise SourceError(f"the index names a file {str(name)[:80]!r}; shards must lie in the model's own directory")
    return name


class LocalReader:
    """A directory. Links are followed: download caches keep their files that way."""

    def __init__(self, directory: Path) -> None:
        try:
            found = directory.is_dir()
        except (OSError, ValueError):  # not permitted to look; a NUL in the name
            found = False
        if not found:
            raise SourceError(f"{directory} is not a directory that this process can read", "source")
        self._directory = directory

    def size(self, name: str) -> int | None:
        path = self._directory / name
        try:
            return path.stat().st_size if path.is_file() else None
        except OSError as error:
            raise SourceError(f"{name} cannot be read: {error.strerror}", "source") from None

    def read(self, name: str, begin: int, end: int) -> bytes:
        try:
            with open(self._directory / name, "rb", buffering=0) as file:
                data = os.pread(file.fileno(), end - begin, begin)
                while len(data) < end - begin:
                    more = os.pread(file.fileno(), end - begin - len(data), begin + len(data))
                    if not more:
                        raise SourceError(f"{name} ended at byte {begin + len(data)} while it was read; copy it again")
                    data += more
                return data
        except OSError as error:
            raise SourceError(f"{name} cannot be read: {error.strerror}", "source") from None


class ObjectReader:
    """An HTTP(S) directory or a prefix in S3, GCS or Azure, by obstore. Credentials come from the environment."""

    def __init__(self, url: str) -> None:
        try:
            self._store: ObjectStore = from_url(url, client_options=_CLIENT, retry_config=_RETRY)
        except (BaseError, ValueError) as error:
            raise SourceError(f"{url} cannot be opened: {_reason(error)}", "source") from None
        self._url = url

    def size(self, name: str) -> int | None:
        try:
            with self._readable_errors(name):
                return int(self._store.head(name)["size"])
        except (NotFoundError, FileNotFoundError):
            return None

    def read(self, name: str, begin: int, end: int) -> bytes:
        if end == begin:
            return b""
        try:
            with self._readable_errors(name):
                data = bytes(self._store.get_range(name, start=begin, end=end))
        except (NotFoundError, FileNotFoundError):
            raise SourceError(f"{self._url}/{name} is gone", "source") from None
        if len(data) != end - begin:
            raise SourceError(
                f"{self._url}/{name}: asked for {end - begin} bytes at {begin}, got {len(data)}", "source"
            )
        return data

    @contextmanager
    def _readable_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except (NotFoundError, FileNotFoundError):
            raise
        except (BaseError, OSError) as error:
            raise SourceError(f"{self._url}/{name} cannot be read: {_reason(error)}", "source") from None


def _reason(error: Exception) -> str:
    """The first line of the library's message, without its debugging dump."""
    return str(error).strip().partition("\n")[0][:300]
