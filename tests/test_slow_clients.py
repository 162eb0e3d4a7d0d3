"""Clients that hold on to the server over real sockets: bodies that never end, addresses that are
made up.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from studio.server import rate_limit

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = 64
PAUSE = 200.0  # seconds without an answer after which a client gives up
# A server with the page's own guards, without gradio behind them. Says its port, and at its end
# how much memory it took at most, in bytes above what it began with.
SERVER = """
import asyncio, resource, sys
from gradio import http_server
from studio.server import auth, gradio_patches, rate_limit
from tests.test_limits import echo
most, public_name = int(sys.argv[1]), sys.argv[2]
rate_limit.LONGEST_BODY = float(sys.argv[3])
if sys.argv[4] == "unbounded":
    rate_limit.MOST_HELD = 2**40
gradio_patches.bound_server(behind_proxy=bool(public_name))
guarded = auth.SameOrigin(rate_limit.Limits(echo, events=5, most=most), public_name)
config = http_server.uvicorn.Config(guarded, port=0, lifespan="off", log_level="error")
server = http_server.uvicorn.Server(config)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
async def main():
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    before = peak()
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    server.should_exit = True
    await serving
    print(peak() - before, flush=True)
asyncio.run(main())
"""


@contextmanager
def serving(
    most: int = 1000, public_name: str = "", longest_body: float = 30.0, held: str = "bounded"
) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The port of a server that is ended at the end, and its process."""
    given = [str(most), public_name, str(longest_body), held]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, *given],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield int(process.stdout.readline()), process
    finally:
        process.kill()
        process.wait(PAUSE)


def status(port: int, forwarded: str = "") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PAUSE)
    named = {"X-Forwarded-For": forwarded} if forwarded else {}
    connection.request("POST", "/gradio_api/reset", "x", named)
    found = connection.getresponse().status
    connection.close()
    return found


def test_without_a_public_name_a_forwarded_address_is_not_believed() -> None:
    with serving(most=3) as (port, _):
        found = [status(port, f"192.0.2.{number}") for number in range(5)]
    assert found == [200, 200, 200, 429, 429]


def test_behind_a_proxy_each_forwarded_address_has_its_own_limit() -> None:
    with serving(most=3, public_name="studio.invalid") as (port, _):
        first = [status(port, "192.0.2.1") for _ in range(4)]
        other = status(port, "192.0.2.2")
        # What a client put there itself stands before the address that the proxy adds
        forged = [status(port, f"198.51.100.{number}, 192.0.2.1") for number in range(2)]
    assert first == [200, 200, 200, 429] and other == 200 and forged == [429, 429]


def send_unfinished(port: int) -> bytes:
    """Send all but the last byte of the largest event, and wait: b"" or the answer's first line."""
    size = rate_limit.LARGEST_EVENT
    head = f"POST /gradio_api/reset HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), PAUSE) as client:
        try:
            client.sendall(head.encode() + b"x" * (size - 1))
            answer = client.recv(100)
        except ConnectionError:  # refused and closed while it was still sending
            return b""
        return answer.partition(b"\r\n")[0]


def held_by_unfinished_bodies(held: str, longest_body: float) -> tuple[list[bytes], int]:
    """What each of 64 clients was answered, and how many bytes the server took for them."""
    with serving(longest_body=longest_body, held=held) as (port, process):
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(send_unfinished, [port] * CLIENTS))
        assert status(port) == 200  # others are served again
        return answers, int(process.communicate("end\n", timeout=PAUSE)[0])


def test_unfinished_bodies_take_bounded_memory_and_are_closed() -> None:
    answers, taken = held_by_unfinished_bodies("bounded", 6.0)
    assert {answer[9:12] for answer in answers} <= {b"", b"408", b"503"}
    assert taken < 3 * rate_limit.MOST_HELD, f"{taken / 2**20:.0f} MiB"


@pytest.mark.long
def test_unfinished_bodies_take_much_without_the_bound() -> None:
    """So the test above can fail."""
    assert held_by_unfinished_bodies("unbounded", 150.0)[1] > 3 * rate_limit.MOST_HELD
