"""What stands before Gradio's server and decides which requests reach it. It is an ASGI middleware.

    from where     a Host that is this machine's (another could be a foreign site's name that leads here: DNS
                   rebinding), and an Origin that is the page's own: forms and scripts of other sites are refused
    what           the page's own requests; Gradio answers others too, some of which fetch addresses or write files
    how much       bytes in one request, and in the uploads of one visitor and of all that lie here at a time
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..console import describe

Messages = Callable[..., Awaitable[Any]]
ROUTES = {
    "GET": re.compile(r"/|/(assets|static|svelte)/.+|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)|"
                      r"/gradio_api/(info|app_id|startup-events|upload_progress|queue/(data|status)|heartbeat/[^/]+|"
                      r"file=(?!\w+://).+)"),
    "POST": re.compile(r"/gradio_api/(upload|queue/join|run/predict|cancel|reset)"),
}
UPLOAD = "/gradio_api/upload"
TEXT_BYTES = 2**18      # of a request that is no upload: what the controls hold
OVERHEAD = 2**16        # of an upload, beside its files
OF_VISITOR = 50         # one visitor's uploads take at most as much as so many files of the largest size
OF_ALL = 200            # the same for all files of the server, results too


class Guard:
    """Requests to `app` that are refused end here, with one line that says why.

    names: of hosts, besides this machine's own, under which the page is asked for; may be added to later.
    folder: where files lie. file_bytes: the largest upload.
    """

    def __init__(self, app: Messages, names: set[str], folder: Path, file_bytes: int) -> None:
        self.app, self.names, self.folder, self.file_bytes = app, names, folder, file_bytes
        self.uploads: defaultdict[str, dict[str, int]] = defaultdict(dict)      # visitor -> file -> bytes
        self.coming: Counter[str] = Counter()                                   # visitor -> bytes on their way

    async def __call__(self, scope: MutableMapping[str, Any], receive: Messages, send: Messages) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        refused = self.foreign(headers) or self.unknown(scope["method"], path) or self.too_long(headers, path)
        visitor, length = (scope.get("client") or ("?",))[0], 0
        if not refused and path == UPLOAD:
            length = int(headers["content-length"])
            refused = self.too_much(visitor, length)
        if refused:
            await answer(send, *refused)
            return
        # Gradio would send the request's headers back with a part of a file.
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"range"]
        self.coming[visitor] += length
        try:
            await self.passed(scope, receive, send, self.uploads[visitor] if length else None)
        finally:
            self.coming -= Counter({visitor: length})       # which drops those at 0

    async def passed(self, scope: MutableMapping[str, Any], receive: Messages, send: Messages,
                     files: dict[str, int] | None) -> None:
        """What Gradio answers. files: if this is an upload, where its files are noted."""
        begun, body = False, b""

        async def tell(message: MutableMapping[str, Any]) -> None:
            nonlocal begun, body
            begun = True
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            elif files is not None:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    with suppress(ValueError, TypeError, OSError):      # an error's text
                        files.update({path: os.path.getsize(path) for path in json.loads(body)})
            await send(message)

        try:
            await self.app(scope, receive, tell)
        except Exception as error:
            if begun:
                raise
            print(f"warning: {scope['path']}: {describe(error)}", file=sys.stderr)
            await answer(send, 400, "the page doesn't ask so")

    # ---- why a request is refused: a status and a line; None if it isn't

    def foreign(self, headers: dict[str, str]) -> tuple[int, str] | None:
        named = [headers[name] for name in ("host", "x-forwarded-host") if name in headers]
        hosts = [value.split(",")[0].strip().lower() for value in named]
        for host in hosts:
            if name_of(host) not in self.names and not is_own(name_of(host)):
                return 403, (f"the page is not offered under the name {ascii(name_of(host))}: if it should be, start "
                             "it with --allow-host and that name")
        if not hosts:
            return 400, "a request must name its host"
        origin = headers.get("origin", f"//{hosts[0]}").lower().partition("//")[2]      # the Origin of a file is "null"
        if origin not in hosts and name_of(origin) not in self.names:
            return 403, f"only the page itself may ask, not one of {ascii(headers['origin'])}"
        return None

    def unknown(self, method: str, path: str) -> tuple[int, str] | None:
        routes = ROUTES.get("GET" if method == "HEAD" else method)
        return None if routes and routes.fullmatch(path) else (404, "there is no such part of the page")

    def too_long(self, headers: dict[str, str], path: str) -> tuple[int, str] | None:
        length = headers.get("content-length", "" if path == UPLOAD else "0")
        if "transfer-encoding" in headers or not length.isdecimal():
            return 411, "a request must say its length"
        most = self.file_bytes + OVERHEAD if path == UPLOAD else TEXT_BYTES
        if int(length) > most:
            return 413, f"more than the maximum allowed size of {most} bytes"
        return None

    def too_much(self, visitor: str, length: int) -> tuple[int, str] | None:
        files = self.uploads[visitor] = {path: size for path, size in self.uploads[visitor].items()
                                         if os.path.exists(path)}
        if sum(files.values()) + self.coming[visitor] + length > OF_VISITOR * self.file_bytes:
            return 429, "too many uploads: older ones are deleted after an hour, or reload the page later"
        if bytes_in(self.folder) + self.coming.total() + length > OF_ALL * self.file_bytes:
            return 507, "the page holds too many files of others: they are deleted after an hour"
        return None


async def answer(send: Messages, status: int, line: str) -> None:
    """A line of plain text instead of what was asked for."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff"),
               (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": line.encode()})


def name_of(host: str) -> str:
    """The name in `name:port`; "" if there is none."""
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""


def is_own(name: str) -> bool:
    """Whether only this machine can be meant: by a number, which no other's name can stand for, or by its own name."""
    with suppress(ValueError):
        return bool(ip_address(name))
    return name in ("localhost", socket.gethostname().lower())


def bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):         # deleted meanwhile
            total += path.stat().st_size
    return total
