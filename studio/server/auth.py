"""Who may come in: names the page answers to, pages it takes requests from, and a password where
others can reach it. Knows no gradio.

See SECURITY.md for what this promises. On a loopback address there is no password: whoever is
logged in on this machine may use the page.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import psutil
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from training.errors import ConfigError, without_controls
from training.storage.disk_errors import not_read

USER = "studio"  # the one name that the login asks for
VARIABLE = "STYLE_STUDIO_PASSWORD"
SHORTEST = 12  # characters of a password
LONGEST = 1024
MOST_ERRORS, FORGIVEN = (
    10,
    60.0,
)  # wrong passwords within so many seconds, after which all are refused for as long
CLIENT: ContextVar[str] = ContextVar(
    "client", default=""
)  # whose request is being answered, see network
READS = ("GET", "HEAD", "OPTIONS")


def checked_public_name(name: str) -> str:
    """A name as browsers send it in Host, in lower case.

    Raises ConfigError for an address with a scheme, port or path.
    """
    if name and re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name.lower()) is None:
        raise ConfigError(
            f"--public-name is {name}, a name such as studio.example.org was expected, with no "
            "https://, port or path."
        )
    return name.lower()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def network(client: str) -> str:
    """What stands for a client where clients are counted: an IPv4 address, or the /64 of an IPv6
    one, of which a single machine has every address.
    """
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    mapped = getattr(address, "ipv4_mapped", None)
    if address.version == 4 or mapped or address.is_loopback:
        return str(mapped or address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def password(host: str, file: Path | None, *, port: int) -> str | None:
    """The password that the page needs at that address, None where only this machine reaches it and
    none is given. Raises ConfigError.
    """
    found = _from_file(file) if file is not None else os.environ.get(VARIABLE)
    if found is None and not is_loopback(host):
        raise ConfigError(
            f"--host is {host}, which other machines reach, so the page needs a password: put "
            f"one of {SHORTEST} characters or more into a file that "
            "only you can read and give --password-file FILE, or into the variable "
            f"{VARIABLE}. Safer, and with no password: leave out --host, and "
            f"from the other machine use `ssh -L {port}:127.0.0.1:{port} THIS_MACHINE`."
        )
    if found is not None and not SHORTEST <= len(found) <= LONGEST:
        raise ConfigError(
            f"The page's password has {len(found)} characters, {SHORTEST} to {LONGEST} were "
            "expected. Choose another one."
        )
    return found


def _from_file(file: Path) -> str:
    try:
        if os.name == "posix" and file.stat().st_mode & 0o077:
            raise ConfigError(
                f"--password-file {file} can be read by others on this machine. Say `chmod 600 "
                f"{file}` first. Where its drive keeps no permissions, put it elsewhere or set "
                f"{VARIABLE}."
            )
        return file.read_text(encoding="utf-8").strip("\r\n")
    except OSError as error:
        raise ConfigError(not_read(f"--password-file {file}", error)) from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"--password-file {file} is not UTF-8 text. Save it so, or give another file."
        ) from None


class Lock:
    """Says whether name and password are right; after MOST_ERRORS wrong ones an address is not let
    in for FORGIVEN seconds.

    Errors are counted for each address, so that a stranger's guesses lock nobody else out; this
    machine's own is never locked for who has the right password.
    """

    def __init__(self, secret: str) -> None:
        self._secret, self._turn = secret.encode(), threading.Lock()
        self._errors: defaultdict[str, list[float]] = defaultdict(list)

    def __call__(self, user: str, given: str) -> bool:
        client = CLIENT.get()
        with self._turn:
            now = time.monotonic()
            recent = {
                name: [then for then in errors if now - then < FORGIVEN]
                for name, errors in self._errors.items()
            }
            self._errors = defaultdict(
                list, {name: errors for name, errors in recent.items() if errors}
            )
            if len(self._errors.get(client, ())) >= MOST_ERRORS and not is_loopback(client):
                return False
            named = hmac.compare_digest(user.encode(), USER.encode())
            right = hmac.compare_digest(given.encode(), self._secret) and named
            if not right:
                self._errors[client].append(now)
            return right


def names(host: str, public_name: str = "") -> list[str]:
    """What a request may call this page:

    another name means that a foreign page made its own name lead here (DNS rebinding).
    """
    found = [
        "localhost",
        "127.0.0.1",
        "::1",
        "[::1]",
        host,
        *([public_name] if public_name else []),
    ]
    if not is_loopback(host):
        name = socket.gethostname()
        addresses = [
            a.address.partition("%")[0] for all_of in psutil.net_if_addrs().values() for a in all_of
        ]
        found += [name, f"{name}.local", *(a if ":" not in a else f"[{a}]" for a in addresses)]
    return list(dict.fromkeys(found))


class KnownNames:
    """Refuses what is asked under a name that is not this page's (DNS rebinding), and says under
    which one and what to do. It names no address of this machine: another site's script may read
    the answer.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_known = False

        async def known(*asked: Any) -> None:
            nonlocal is_known
            is_known = True
            await self.app(scope, receive, send)

        async def unsaid(message: Message) -> None:
            """What starlette says of a name, in place of which ours is said."""

        check = TrustedHostMiddleware(known, allowed_hosts=self.names, www_redirect=False)
        await check(scope, receive, unsaid)
        if not is_known:
            found = without_controls(Headers(scope=scope).get("host", ""))[:100] or "no name"
            words = (
                f"This page was asked for as {found}, which is none of its names. Open it as "
                "127.0.0.1 or localhost on its own machine. Behind a proxy, or for another name, "
                "start it with --public-name NAME --password-file FILE; for other machines of the "
                "network, with --host ADDRESS and the address that is opened."
            )
            await PlainTextResponse(words, 400)(scope, receive, send)


class SameOrigin:
    """Refuses what another site's page asks in the user's browser, reading and writing: only
    following a link to the page itself is allowed.

    public_name: the name behind a TLS proxy on this machine, "" without one; only then is a
    forwarded protocol believed.
    """

    def __init__(self, app: ASGIApp, public_name: str = "") -> None:
        self.app, self.public_name = app, public_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        CLIENT.set(network(scope["client"][0]) if scope.get("client") else "")
        scope = {**scope, "headers": self._believed(scope)}
        if _is_foreign(scope, self.public_name):
            words = (
                "This request came from another site's page and was refused. Use the "
                "page's own address. Behind a proxy, start the page with --public-name NAME."
            )
            await PlainTextResponse(words, 403)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _believed(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """The headers without those by which a client could give this page another name or
        protocol.
        """
        forged = {b"x-forwarded-host", b"x-gradio-server"}
        if not self.public_name:
            forged |= {b"x-forwarded-proto", b"x-forwarded-for", b"forwarded"}
        return [(name, value) for name, value in scope["headers"] if name.lower() not in forged]


def _is_foreign(scope: Scope, public_name: str = "") -> bool:
    """Whether a browser asks for another site's page. Programs send none of these headers.

    public_name: the browser's name for this page, also where the proxy asks under its own.
    """
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", "none")
    host = headers.get(b"host", "").lower()
    own = {f"http://{host}", f"https://{host}"}
    own |= {f"https://{public_name.lower()}"} if public_name else set()
    if origin is not None and origin.lower() not in own:
        return True
    if site in ("none", "same-origin"):
        return False
    navigates = (
        headers.get(b"sec-fetch-mode") == "navigate"
        and headers.get(b"sec-fetch-dest") == "document"
    )
    return not (navigates and scope["method"] in READS and scope["path"] == "/")
