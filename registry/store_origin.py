"""Which store a model lies in. Without the library that reads it: settings are loaded everywhere."""

from urllib.parse import urlsplit


def origin(url: str) -> str:
    """The store that a source lies in, as HYDRANT_STORE_GBPS names it: s3://bucket, http://host:port, file://."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
