"""CSV downloads that are sent while they are read, so a year of usage needs no more memory than a day."""

from collections.abc import Iterator

from flask import Response, stream_with_context


def csv_download(name: str, pieces: Iterator[str]) -> Response:
    """`pieces` of CSV text as the file `name`.csv."""
    return Response(
        stream_with_context(pieces),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )
