"""Tests of studio.server.rate_limit over real HTTP:

what a page does goes through, everything else is refused in words and leaves no traceback.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from uvicorn.server import ServerState

from studio.processes import queue
from studio.server import auth, gradio_patches, rate_limit
from tests.test_door import Asked
from tests.test_page import free_port, page_process
from training.config.loading import from_mapping
from training.errors import StudioError
from training.storage.paths import Workspace

TYPED = {"Content_Type": "application/json"}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """A page that others' requests reach; at the end, nothing went wrong in it."""
    port = free_port()
    with page_process(
        "--port", str(port), "--workspace", str(tmp_path_factory.mktemp("limits") / "w")
    ) as process:
        assert "open at" in process.stdout.readline()
        yield Asked(port)
        process.terminate()
        said = process.stdout.read()
    assert "Traceback" not in said, said[-3000:]


EVENT = {"fn_index": 3, "data": [], "session_hash": "abc"}
JOINS: dict[str, str] = {
    f"{key} = {value!r:.30}": json.dumps({**EVENT, key: value})
    for key, values in {
        "fn_index": (None, -1, 9999, 10**30, "x", 1.5, True, [], {}, "0"),
        "session_hash": (None, "", 5, [], {}, "x" * 65, "a/b", "../..", "a\0", "é" * 70, "a\nb"),
        "data": (None, "x", 5, {}, True),
    }.items()
    for value in values
}
JOINS |= {
    "nothing": "",
    "half": "{",
    "a list": "[]",
    "null": "null",
    "a word": '"x"',
    "a number": "5",
    "no keys": "{}",
    "binary": "\x80\x04.",
}
JOINS |= {
    "nested": "[" * 100_000,
    "nested data": '{"data":' * 50_000,
    "many digits": '{"fn_index": ' + "9" * 9999 + "}",
}
ADDRESSES = [
    "run/predict",
    "run/offered_example",
    "api/predict",
    "api/",
    "call/predict",
    "call/predict/1",
    "call/v2/predict",
    "stream/1",
    "stream/1/close",
    "component_server",
    "component_server/",
    "process_recording",
    "dev/reload",
    "mcp/",
    "mcp/sse",
    "openapi.json",
    "proxy=http://127.0.0.1/",
    "proxy=https://example.hf.space/x",
    "deep_link",
    "run-history/connect",
    "runs",
]


@pytest.mark.parametrize("name", JOINS)
def test_what_is_no_event_is_refused_in_words(name: str, asked: Asked) -> None:
    status, text = asked("POST", "/gradio_api/queue/join", JOINS[name], **TYPED)
    assert status == 400 and 10 < len(text) < 300


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_the_page_never_asks_is_not_there(address: str, asked: Asked) -> None:
    for method in ("GET", "POST"):
        for root in ("/gradio_api/", "/"):
            status, _ = asked(
                method, root + address, json.dumps(EVENT) if method == "POST" else None, **TYPED
            )
            assert status in (404, 405), (method, root, status)


def test_what_is_too_large_is_refused_before_it_is_read(asked: Asked) -> None:
    for path, most in (
        ("queue/join", rate_limit.LARGEST_EVENT),
        ("upload", rate_limit.LARGEST_UPLOAD),
    ):
        status, text = asked(
            "POST", f"/gradio_api/{path}", "{}", Content_Length=str(most + 1), **TYPED
        )
        assert status == 413 and "MiB is the most" in text


def test_the_page_itself_goes_through(asked: Asked) -> None:
    config = json.loads(asked("GET", "/config")[1])
    first = next(
        one["id"]
        for one in config["dependencies"]
        if one["queue"] and not one["inputs"] and [to for _, to in one["targets"]] == ["load"]
    )
    status, text = asked(
        "POST", "/gradio_api/queue/join", json.dumps({**EVENT, "fn_index": first}), **TYPED
    )
    assert status == 200 and json.loads(text)["event_id"]
    assert asked("GET", "/")[0] == 200


# Without a server


def answered(
    app: rate_limit.Limits,
    path: str,
    body: list[bytes],
    client: str = "1.2.3.4",
    method: str = "POST",
) -> tuple[int, str]:
    """Status and words of a request whose body comes in these pieces, its length not told."""
    scope = {"type": "http", "method": method, "path": path, "headers": [], "client": (client, 1)}
    pieces, sent = (
        [{"type": "http.request", "body": b, "more_body": True} for b in body]
        + [{"type": "http.request"}],
        [],
    )

    async def receive() -> dict:
        return pieces.pop(0)

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()


async def echo(scope: dict, receive: object, send: object) -> None:
    """Answers with the length of what came."""
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send(
        {"type": "http.response.start", "status": 200 if message["type"] == "http.request" else 499}
    )
    await send({"type": "http.response.body", "body": str(size).encode()})


def test_a_length_that_is_not_declared_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "LARGEST_EVENT", 100)
    monkeypatch.setattr(rate_limit, "LARGEST_UPLOAD", 1000)
    app = rate_limit.Limits(echo, events=5)
    assert answered(app, "/gradio_api/reset", [b"x" * 60, b"x" * 40]) == (200, "100")
    assert answered(app, "/gradio_api/reset", [b"x" * 60, b"x" * 41])[0] == 413
    assert answered(app, "/gradio_api/upload", [b"x" * 500] * 2) == (200, "1000")
    assert answered(app, "/gradio_api/upload", [b"x" * 500] * 3)[0] == 499


def test_unfinished_bodies_are_bounded_in_sum_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MOST_HELD", 100)
    app = rate_limit.Limits(echo, events=5)
    assert answered(app, "/gradio_api/reset", [b"x" * 60, b"x" * 60])[0] == 503
    assert app._held == 0
    assert answered(app, "/gradio_api/reset", [b"x" * 60])[0] == 200 and app._held == 0
    monkeypatch.setattr(rate_limit, "LONGEST_BODY", 0.05)
    sent: list[dict] = []

    async def receive() -> dict:
        await asyncio.sleep(60)
        return {"type": "http.request"}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/gradio_api/reset",
        "headers": [],
        "client": ("192.0.2.1", 1),
    }
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408 and app._held == 0


def test_an_upload_that_stands_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "LONGEST_PAUSE", 0.05)
    pieces = [{"type": "http.request", "body": b"x", "more_body": True}]
    sent: list[dict] = []

    async def receive() -> dict:
        if not pieces:
            await asyncio.Event().wait()
        return pieces.pop()

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/gradio_api/upload",
        "headers": [],
        "client": ("192.0.2.1", 1),
    }
    asyncio.run(rate_limit.Limits(echo, events=5)(scope, receive, send))
    assert sent[0]["status"] == 499


def test_a_head_that_never_ends_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a real socket: a new connection and a kept one, both sending a byte at a time."""
    monkeypatch.setattr(gradio_patches, "LONGEST_HEAD", 0.3)

    async def app(scope: dict, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def closed(port: int, first: bytes) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        if first:
            assert b" 204 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        try:
            for _ in range(600):  # far longer than the limit
                writer.write(b"a")
                await writer.drain()
                try:
                    return await asyncio.wait_for(reader.read(1), 0.05) == b""
                except TimeoutError:
                    continue
        except ConnectionError:
            return True
        finally:
            writer.close()
        return False

    async def main() -> None:
        config = uvicorn.Config(
            app, http=gradio_patches.BoundedHead, ws="none", lifespan="off", log_level="error"
        )
        config.load()
        state = ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: gradio_patches.BoundedHead(config, state, {}), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        assert await closed(port, b"")
        assert await closed(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        server.close()

    asyncio.run(main())


def test_nothing_is_read_before_the_login() -> None:
    app = rate_limit.Limits(echo, events=5, is_logged_in=lambda _: False)
    for path in ("/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/cancel"):
        assert answered(app, path, [])[0] == 401


def test_before_the_login_no_connection_is_kept(tmp_path: Path) -> None:
    """A thousand heartbeats of strangers would leave no connection for anybody else."""
    app = rate_limit.Limits(echo, events=5, upload_folder=tmp_path, is_logged_in=lambda _: False)
    streams = ("heartbeat/abc", "queue/data", "upload_progress", f"file={tmp_path}/a", "info")
    for path in streams:
        assert answered(app, f"/gradio_api/{path}", [], method="GET")[0] == 401
    for path in ("/", "/theme.css", "/assets/a.js", "/gradio_api/login_check", "/logout"):
        assert answered(app, path, [], method="GET")[0] == 200
    assert answered(app, "/", [])[0] == 401  # and what is sent there is not read


def test_one_machine_does_not_take_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradio_patches, "MOST_OF_ONE", 3)

    class Transport(asyncio.Transport):
        def __init__(self, peer: str) -> None:
            super().__init__({"peername": (peer, 1), "sockname": ("192.0.2.9", 80)})
            self.is_open = True

        def abort(self) -> None:
            self.is_open = False

        close = abort

        def is_closing(self) -> bool:
            return not self.is_open

    async def main() -> None:
        config = uvicorn.Config(echo, http=gradio_patches.BoundedHead, lifespan="off")
        config.load()
        state = ServerState()

        def opened(peer: str) -> bool:
            connection = gradio_patches.BoundedHead(config, state, {})
            connection.connection_made(transport := Transport(peer))
            if not transport.is_open:
                connection.connection_lost(None)
            return transport.is_open

        assert [opened("192.0.2.1") for _ in range(5)] == [True] * 3 + [False] * 2
        assert opened("192.0.2.2")
        # A machine has all addresses of its network, in IPv6
        assert [opened(f"2001:db8::{n}") for n in range(5)] == [True] * 3 + [False] * 2
        assert opened("2001:db8:0:1::1")
        for own in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):  # a proxy
            assert all(opened(own) for _ in range(5))
        assert len(state.connections) == 8 + 15

    asyncio.run(main())


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::1", "::2", False),
        ("", "testclient", False),
    ],
)
def test_clients_are_counted_by_their_network(one: str, other: str, is_same: bool) -> None:
    assert (auth.network(one) == auth.network(other)) == is_same


def test_a_client_that_asks_too_often_waits_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(rate_limit.time, "monotonic", lambda: now)
    app = rate_limit.Limits(echo, events=5, most=3)
    assert [answered(app, "/gradio_api/reset", [])[0] for _ in range(4)] == [200, 200, 200, 429]
    assert answered(app, "/gradio_api/reset", [], client="5.6.7.8")[0] == 200
    now += rate_limit.MINUTE + 1
    assert answered(app, "/gradio_api/reset", [])[0] == 200 and len(app._asked) == 1


def test_a_full_line_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MOST_WAITING", 2)
    space = Workspace(tmp_path)
    line = queue.Queue(space, worker=None)

    def config(name):
        return from_mapping(
            {
                "data": {"folder": "x"},
                "base": {"device": "cpu"},
                "save": {"folder": str(space.runs()), "name": name},
            }
        )

    ids = [line.add(config(name)) for name in ("a", "b")]
    with pytest.raises(StudioError, match="2 runs wait in the queue, which is the most"):
        line.add(config("c"))
    line.cancel(ids[0])
    line.add(config("c"))
