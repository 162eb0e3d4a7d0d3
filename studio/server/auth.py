"""Who may come in: names the page answers to, pages it takes requests from, and a password where others can reach it. Knows no gradio.

See SECURITY.md for what this promises. On a loopback address there is no password: whoever is logged in on this machine may use the page.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from training.errors import ConfigError

USER = "studio"  # the one name that the login asks for
VARIABLE = "STYLE_STUDIO_PASSWORD"
SHORTEST = 12  # characters of a password
LONGEST = 1024
MOST_ERRORS, FORGIVEN = 10, 60.0  # wrong passwords within so many seconds, after which all are refused for as long
READS = ("GET", "HEAD", "OPTIONS")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def password(host: str, file: Path | None, *, port: int) -> str | None:
    """The password that the page needs at that address, None where only this machine reaches it and none is given. Raises ConfigError."""
    found = _from_file(file) if file is not None else os.environ.get(VARIABLE)
    if found is None and not is_loopback(host):
        raise ConfigError(
            f"--host is {host}, which other machines reach, so the page needs a password: put one of {SHORTEST} characters or more into a file that "
            f"only you can read and give --password-file FILE, or into the variable {VARIABLE}. Safer, and with no password: leave out --host, and "
            f"from the other machine use `ssh -L {port}:127.0.0.1:{port} THIS_MACHINE`."
        )
    if found is not None and not SHORTEST <= len(found) <= LONGEST:
        raise ConfigError(f"The page's password has {len(found)} characters, {SHORTEST} to {LONGEST} were expected. Choose another one.")
    return found


def _from_file(file: Path) -> str:
    try:
        if os.name == "posix" and file.stat().st_mode & 0o077:
            raise ConfigError(f"--password-file {file} can be read by others on this machine. Say `chmod 600 {file}` first.")
        return file.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--password-file {file} cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'}).") from None


class Lock:
    """Says whether name and password are right; after MOST_ERRORS wrong ones nobody is let in for FORGIVEN seconds."""

    def __init__(self, secret: str) -> None:
        self._secret, self._errors, self._turn = secret.encode(), [], threading.Lock()

    def __call__(self, user: str, given: str) -> bool:
        with self._turn:
            now = time.monotonic()
            self._errors = [then for then in self._errors if now - then < FORGIVEN]
            if len(self._errors) >= MOST_ERRORS:
                return False
            named = hmac.compare_digest(user.encode(), USER.encode())
            right = hmac.compare_digest(given.encode(), self._secret) and named
            if not right:
                self._errors.append(now)
            return right


def names(host: str) -> list[str]:
    """What a request may call this page: another name means that a foreign page made its own name lead here (DNS rebinding)."""
    found = ["localhost", "127.0.0.1", "::1", "[::1]", host]
    if not is_loopback(host):
        name = socket.gethostname()
        addresses = [a.address.partition("%")[0] for all_of in psutil.net_if_addrs().values() for a in all_of]
        found += [name, f"{name}.local", *(a if ":" not in a else f"[{a}]" for a in addresses)]
    return list(dict.fromkeys(found))


class SameOrigin:
    """Refuses what another site's page sends here in the user's browser: all that changes something has to come from this page itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            origin, host = headers.get(b"origin"), headers.get(b"host", "")
            writes = scope["type"] == "websocket" or scope["method"] not in READS
            foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
            if writes and (foreign or headers.get(b"sec-fetch-site") == "cross-site"):
                refusal = PlainTextResponse("This request came from another site's page and was refused. Use the page's own address.", 403)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)
