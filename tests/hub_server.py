"""A hub on this machine that holds a few repositories, for tests: the addresses that
huggingface_hub asks for a listing, for a file's head and for its bytes, ranges included.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "5" * 40
BLOCK = 2**14  # bytes


@dataclass
class Hub:
    """repositories: name -> file -> content; gated: names that are only given to the accepted;
    breaks: bytes after which the next large answer breaks off, None for never; damaged: whether
    contents arrive with another first byte; slow: seconds between two blocks of a content; sent:
    bytes of contents so far.
    """

    address: str
    repositories: Mapping[str, Mapping[str, bytes]]
    gated: set[str] = field(default_factory=set)
    breaks: int | None = None
    damaged: bool = False
    slow: float = 0.0
    sent: int = 0
    ranges: list[str] = field(default_factory=list)


class _Answers(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        listed = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path)
        asked = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        name = (listed or tree or asked or [None, ""])[1]
        files = self.hub.repositories.get(name)
        if files is None:
            return self._say(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if name in self.hub.gated:
            return self._say(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if listed:
            return self._say(200, json.dumps(self._listing(name, files)).encode())
        if tree:
            return self._say(200, json.dumps(_tree(files)).encode())
        content = files.get(asked[2]) if asked else None
        if content is None:
            return self._say(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        return self._give(content)

    def _listing(self, name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
        siblings = [{"rfilename": n, "size": len(c), "blobId": "0"} for n, c in files.items()]
        card = {"license": "other", "license_name": "a licence for tests"}
        return {"id": name, "sha": COMMIT, "siblings": siblings, "cardData": card, "tags": []}

    def _give(self, content: bytes) -> None:
        head = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        begin, status = 0, 200
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin, status = int(found[1]), 206
            self.hub.ranges.append(found[0])
            head["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        body = content[begin:]
        if self.hub.damaged and not begin:
            body = bytes([body[0] ^ 1]) + body[1:]
        self._say(status, body, head)

    def _say(self, status: int, body: bytes, head: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (head or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        breaks = self.hub.breaks
        if breaks is not None and len(body) > breaks:
            self.hub.breaks = None
            body = body[:breaks]
            self.close_connection = True
        content = "ETag" in (head or {})
        for begin in range(0, len(body), BLOCK):
            if content:
                time.sleep(self.hub.slow)
                self.hub.sent += len(body[begin : begin + BLOCK])
            try:
                self.wfile.write(body[begin : begin + BLOCK])
            except OSError:  # nobody reads on
                self.close_connection = True
                return


def _tree(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
        for name, content in files.items()
    ]


@contextmanager
def hub(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    """A hub on loopback while inside."""
    made = Hub("", repositories)
    answers = type("Answers", (_Answers,), {"hub": made})
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    made.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
