"""Tests of studio.server.auth and studio.system.doctor:

who is let in, over real HTTP, and that the doctor gives nothing away.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from studio.server import auth
from studio.system import doctor, storage
from tests.test_page import ROOT, free_port, page_process
from training.errors import ConfigError, StudioError, without_controls
from training.storage.paths import Workspace

SECRET = "correct horse battery"


def test_an_address_that_others_reach_needs_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(auth.VARIABLE, raising=False)
    for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.8.9.10"):
        assert auth.password(host, None, port=1) is None
    for host in ("0.0.0.0", "::", "192.168.1.5", "studio.example", "127.0.0.1.example"):
        with pytest.raises(ConfigError, match="needs a password"):
            auth.password(host, None, port=1)
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    assert (
        auth.password("0.0.0.0", file, port=1) == auth.password("127.0.0.1", file, port=1) == SECRET
    )
    monkeypatch.setenv(auth.VARIABLE, "short")
    with pytest.raises(ConfigError, match="5 characters"):
        auth.password("0.0.0.0", None, port=1)
    monkeypatch.setenv(auth.VARIABLE, SECRET)
    assert auth.password("0.0.0.0", None, port=1) == SECRET
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        auth.password("0.0.0.0", file, port=1)
    with pytest.raises(ConfigError, match="cannot be read"):
        auth.password("0.0.0.0", tmp_path / "none", port=1)


def test_the_lock_opens_for_one_pair_and_stays_shut_after_many_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(auth.time, "monotonic", lambda: now)
    lock = auth.Lock(SECRET)
    assert (
        lock(auth.USER, SECRET)
        and not lock("admin", SECRET)
        and not lock(auth.USER, SECRET + " ")
        and not lock(auth.USER, "")
    )
    for _ in range(auth.MOST_ERRORS):
        lock(auth.USER, "ünknown")
    assert not lock(auth.USER, SECRET)
    now += auth.FORGIVEN
    assert lock(auth.USER, SECRET)


def test_a_strangers_guesses_lock_nobody_else_out() -> None:
    lock = auth.Lock(SECRET)

    def given(client: str, word: str) -> bool:
        held = auth.CLIENT.set(client)
        try:
            return lock(auth.USER, word)
        finally:
            auth.CLIENT.reset(held)

    for client in ("192.0.2.1", "127.0.0.1"):
        for _ in range(auth.MOST_ERRORS + 1):
            assert not given(client, "wrong")
    assert not given("192.0.2.1", SECRET)
    assert given("192.0.2.2", SECRET) and given("127.0.0.1", SECRET)


def test_a_public_name_is_a_name() -> None:
    assert (
        auth.checked_public_name("Studio.example.org")
        == "studio.example.org"
        in auth.names("127.0.0.1", "studio.example.org")
    )
    assert auth.checked_public_name("") == "" and "" not in auth.names("127.0.0.1")
    for name in (
        "https://studio.example.org",
        "studio.example.org:443",
        "a/b",
        "*",
        "-",
        "*.example.org",
    ):
        with pytest.raises(ConfigError, match="--public-name"):
            auth.checked_public_name(name)


def test_names_of_a_public_address_hold_this_machine_and_no_other() -> None:
    assert set(auth.names("127.0.0.1")) == {"localhost", "127.0.0.1", "::1", "[::1]"}
    assert "evil.example" not in auth.names("0.0.0.0") and "*" not in auth.names("0.0.0.0")


# Over HTTP


class Asked:
    """A page's address; asks it and keeps the cookies."""

    def __init__(self, port: int) -> None:
        self.port, self.cookies = port, ""

    def __call__(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {"Host": f"127.0.0.1:{self.port}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        connection.request(
            method, path, body, named | ({"Cookie": self.cookies} if self.cookies else {})
        )
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        if found := re.search(r"access-token-unsecure-[^=]+=[^;]+", answer.headers.as_string()):
            self.cookies = found[0]
        connection.close()
        return answer.status, text


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("locked")
    secret, port = folder / "secret", free_port()
    secret.write_text(SECRET)
    secret.chmod(0o600)
    with page_process(
        "--host",
        "0.0.0.0",
        "--port",
        str(port),
        "--password-file",
        str(secret),
        "--workspace",
        str(folder / "w"),
    ) as process:
        assert "open at" in process.stdout.readline()
        yield Asked(port)


FORM = {"Content_Type": "application/x-www-form-urlencoded"}
EVERYTHING = (
    ("GET", "/config"),
    ("GET", "/gradio_api/info"),
    ("GET", "/gradio_api/file=/etc/passwd"),
    ("POST", "/gradio_api/upload"),
    ("POST", "/gradio_api/queue/join"),
    ("GET", "/gradio_api/queue/data?session_hash=a"),
    ("GET", "/gradio_api/heartbeat/a"),
    ("POST", "/gradio_api/run/predict"),
)


def test_without_the_password_nothing_is_to_be_had(locked: Asked) -> None:
    for method, path in EVERYTHING:
        event = (
            json.dumps({"fn_index": 0, "data": [], "session_hash": "a"})
            if method == "POST"
            else None
        )
        status, text = locked(method, path, event, Content_Type="application/json")
        assert status in (401, 403, 404), (path, status)
        assert "root:" not in text
    status, text = locked("GET", "/")
    assert status == 401 or '"auth_required":true' in text.replace(" ", "")
    assert "linocut" not in text
    wrong = urllib.parse.urlencode({"username": auth.USER, "password": "wrong wrong wrong"})
    assert locked("POST", "/login", wrong, **FORM)[0] == 400 and not locked.cookies


def test_with_the_password_the_page_is_there(locked: Asked) -> None:
    right = urllib.parse.urlencode({"username": auth.USER, "password": SECRET})
    assert locked("POST", "/login", right, **FORM)[0] == 200 and locked.cookies
    status, text = locked("GET", "/config")
    assert status == 200 and "Dataset" in text
    assert locked("GET", "/gradio_api/file=/etc/passwd")[0] in (403, 404)


def test_other_sites_are_refused(locked: Asked) -> None:
    own = f"http://127.0.0.1:{locked.port}"
    assert locked("POST", "/login", "", Origin="http://evil.example", **FORM)[0] == 403
    assert locked("POST", "/login", "", Origin="null", **FORM)[0] == 403
    assert locked("POST", "/login", "", Sec_Fetch_Site="cross-site", **FORM)[0] == 403
    assert locked("POST", "/login", "", Origin=own, **FORM)[0] != 403
    assert locked("GET", "/", Host="evil.example")[0] == 400
    assert locked("POST", "/login", "", Origin="http://[", **FORM)[0] == 403
    for path in ("/config", "/gradio_api/info", "/theme.css"):
        assert locked("GET", path, Origin="http://evil.example")[0] == 403
        assert locked("GET", path, Sec_Fetch_Site="same-site")[0] == 403
    assert locked("GET", "/", Sec_Fetch_Site="cross-site")[0] == 403
    assert (
        locked(
            "GET",
            "/",
            Sec_Fetch_Site="cross-site",
            Sec_Fetch_Mode="navigate",
            Sec_Fetch_Dest="document",
        )[0]
        == 200
    )


# The doctor


def test_the_doctor_tells_what_works_and_no_names(tmp_path: Path) -> None:
    home = tmp_path / "home of anna"
    home.mkdir()
    command = [
        sys.executable,
        "-m",
        "studio",
        "doctor",
        "--json",
        "--workspace",
        str(home / "workspace"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {one["about"]: one for one in json.loads(done.stdout)}
    assert (
        found["convolution and attention there"]["told"] == "works"
        and found["built-in base"]["state"] == "good"
    )
    assert {
        "device",
        "memory",
        "workspace folder",
        "room for the workspace",
        "torch",
        "CLIP's vocabulary",
    } <= set(found)
    assert (
        "anna" not in done.stdout
        and str(Path.home()) not in done.stdout
        and str(tmp_path) not in done.stdout
    )


def test_the_doctor_says_what_is_bad_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> dict[str, str]:
        raise StudioError("The device could not be asked for.")

    monkeypatch.setattr(storage, "device", broken)
    monkeypatch.setattr(storage, "LIBRARIES", ("torch", "no-such-library"))
    (tmp_path / "file").write_text("")
    found = {f.about: f for f in doctor.examined(Workspace(tmp_path / "file" / "workspace"))}
    for about in ("device", "no-such-library", "workspace folder"):
        assert found[about].state == "bad" and found[about].advice, about
    assert "pip install" in doctor.summary_line(found["no-such-library"])


@pytest.mark.parametrize(
    ("name", "is_known"),
    [
        *(("127.0.0.1:7860", True), ("localhost", True), ("[::1]:7860", True)),
        *(("Studio.Example.org", True), ("box.lan:7860", False)),
        *(("studio.example.org.evil", False), ("127.0.0.1.evil:7860", False)),
        *(("\x1b[31m", False), ("a" * 500, False)),
    ],
)
def test_another_name_is_named_and_how_to_give_it(name: str, is_known: bool) -> None:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("the page")(scope, receive, send)

    names = auth.names("127.0.0.1", "studio.example.org")
    asker = TestClient(auth.KnownNames(page, names), base_url="http://127.0.0.1")
    answer = asker.get("/", headers={"host": name})
    assert answer.status_code == (200 if is_known else 400)
    if is_known:
        assert answer.text == "the page"
    else:
        assert f"asked for as {without_controls(name)[:100]}, " in answer.text
        assert "--public-name NAME" in answer.text
        assert "studio.example.org" not in answer.text.replace(name, "")
