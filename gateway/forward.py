"""The management API, passed on to the admin process: one base URL does all. Nothing else of that process is passed on,
and no cookie in either direction, so its pages and its sign-in cannot be reached from here."""

from __future__ import annotations

import logging
import os
from typing import Any

import aiohttp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from yarl import URL

from gateway.clients.reply import ClientGone, Headers, Receive, Reply, Scope, read_body
from gateway.errors import ApiError, unavailable
from gateway.settings import Settings

log = logging.getLogger(__name__)

PREFIX = "/admin/v1/"
LITELLM_PATHS = frozenset(
    (
        *("/key/generate", "/key/info", "/key/update", "/key/delete"),
        *("/team/new", "/team/info", "/team/list", "/team/update", "/team/delete"),
        *("/user/new", "/user/info", "/user/list", "/user/update", "/user/delete"),
        *("/model/new", "/model/info", "/v1/model/info", "/model/delete", "/spend/logs"),
    )
)
MAX_BODY_BYTES = 1_000_000
"""What the admin process takes. Nobody has been authenticated yet when a body is read here."""
ANSWER_TIMEOUT_S = 60.0
_HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    )
)
# What says who asks is said by this gateway, not by the client; x-request-id is this gateway's own in the answer.
_NOT_SENT = frozenset(
    (b"host", b"content-length", b"cookie", b"forwarded", b"x-real-ip", b"accept-encoding", b"expect")
)
_NOT_RETURNED = frozenset((b"set-cookie", b"x-request-id", b"server", b"date"))


def is_forwarded(path: str) -> bool:
    """Whether the admin process answers this path. Paths that another server could read as a different one are not."""
    if path in LITELLM_PATHS:
        return True
    return path.startswith(PREFIX) and not set(path.split("/")[1:]) & {"", ".", ".."} and "\\" not in path


class Forward:
    """Calls of the admin process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        # uvicorn's own way to take a trusted proxy's word, which no other request has to pay for.
        trusted = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1")
        self._look_behind_proxy: Any = ProxyHeadersMiddleware(_nothing, trusted)

    async def open(self) -> None:
        """Creates the pool of connections; needs a running event loop."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._settings.connect_timeout_s, sock_read=ANSWER_TIMEOUT_S
            ),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()

    async def handle(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        """Answers one request. Raises `ApiError` 413, 502 or 503, and `ClientGone`."""
        assert self._session is not None
        await self._look_behind_proxy(scope, receive, _nowhere)
        body = await read_body(
            scope, receive, min(MAX_BODY_BYTES, self._settings.max_body_bytes), self._settings.body_timeout_s
        )
        # As it came: what was quoted stays quoted.
        query = scope["query_string"].decode("latin-1")
        target = self._settings.admin_url + scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in _request_headers(scope)]
        headers.append(("x-request-id", reply.request_id))
        try:
            async with self._session.request(
                scope["method"], URL(target, encoded=True), data=body or None, headers=headers, allow_redirects=False
            ) as answer:
                await reply.relay(answer.status, _answer_headers(answer.raw_headers), answer.content.iter_any())
        except aiohttp.ClientConnectorError as error:
            log.warning("the management API does not answer (%s)", type(error).__name__)
            raise unavailable(
                "The management API does not answer. Models are served meanwhile; try again.", "admin_unavailable"
            ) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning("the management API broke off (%s)", type(error).__name__)
            if reply.started:
                # The connection is cut, so that nobody takes a part for the whole.
                raise ClientGone from None
            raise ApiError(
                502,
                "The management API broke off. Whether a change was made is not known; look before you send it again, "
                "or send it with an Idempotency-Key.",
                type_="server_error",
                code="admin_failed",
                retry_after_s=2,
            ) from None


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application: the middleware around it has changed the scope."""


async def _nowhere(message: Any) -> None:
    """What it would answer to."""


def _request_headers(scope: Scope) -> Headers:
    dropped = _HOP_BY_HOP | _NOT_SENT | _named_by_connection(scope["headers"])
    kept = [
        (name, value)
        for name, value in scope["headers"]
        if name not in dropped and not name.startswith(b"x-forwarded-") and name != b"x-request-id"
    ]
    client = scope.get("client")
    if client is not None:
        kept.append((b"x-forwarded-for", client[0].encode()))
    return [*kept, (b"x-forwarded-proto", scope["scheme"].encode())]


def _answer_headers(raw: tuple[tuple[bytes, bytes], ...]) -> Headers:
    headers = [(name.lower(), value) for name, value in raw]
    dropped = _HOP_BY_HOP | _NOT_RETURNED | _named_by_connection(headers)
    return [(name, value) for name, value in headers if name not in dropped]


def _named_by_connection(headers: Headers) -> set[bytes]:
    """Headers that `Connection` declares to be for the next hop only."""
    return {part.strip().lower() for name, value in headers if name == b"connection" for part in value.split(b",")}
