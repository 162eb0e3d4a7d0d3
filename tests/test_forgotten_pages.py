"""Pages that the server has forgotten, and text with half a character in it: events are answered
all the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr
import orjson
import pytest

from studio.server import gradio_patches
from tests.test_door import Asked
from tests.test_limits import TYPED
from tests.test_page import free_port, page_process

HALF = "\udcff"  # what a byte that is no text becomes in a file's name


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    workspace, port = tmp_path_factory.mktemp("forgotten") / "w", free_port()
    (workspace / "datasets" / "ink").mkdir(parents=True)
    (workspace / "runs" / "ink").mkdir(parents=True)
    (workspace / "runs" / "ink" / "run.toml").write_text("")
    with page_process("--port", str(port), "--workspace", str(workspace)) as process:
        assert "open at" in process.stdout.readline()
        yield Asked(port)


def dependency(asked: Asked, of: str, event: str, elem_id: str) -> tuple[int, list[int]]:
    """Number and inputs of the first event of a component that takes another one in."""
    config = json.loads(asked("GET", "/config")[1])
    named = {one["props"].get("elem_id"): one["id"] for one in config["components"]}
    return next(
        (one["id"], one["inputs"])
        for one in config["dependencies"]
        if [named[of], event] in [list(target) for target in one["targets"]]
        and named[elem_id] in one["inputs"]
    )


def answer(asked: Asked, number: int, data: list[Any], session: str) -> dict[str, Any]:
    """What an event ends with."""
    event = {"fn_index": number, "data": data, "session_hash": session}
    status, text = asked("POST", "/gradio_api/queue/join", json.dumps(event), **TYPED)
    assert status == 200, text
    stream = asked("GET", f"/gradio_api/queue/data?session_hash={session}")[1]
    messages = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
    return next(one for one in messages if one["msg"] == "process_completed")


def test_what_a_forgotten_page_had_chosen_is_still_found(asked: Asked) -> None:
    """A session of which the server has never heard, as after MOST_SESSIONS others."""
    number, inputs = dependency(asked, "run", "input", "run")
    found = answer(asked, number, ["ink", *[None] * (len(inputs) - 1)], "forgotten")
    assert found["success"], found


def test_what_is_not_there_is_reported_in_words(asked: Asked) -> None:
    number, inputs = dependency(asked, "run", "input", "run")
    for place, name in enumerate(("../../etc", "not there", "x" * 5000, "a\0b")):
        found = answer(asked, number, [name, *[None] * (len(inputs) - 1)], f"other{place}")
        assert found["success"] or "Traceback" not in str(found["output"])


def test_a_lone_surrogate_does_not_break_the_stream(asked: Asked) -> None:
    number, inputs = dependency(asked, "run", "input", "run")
    for session in ("half1", "half2"):
        found = answer(asked, number, [HALF, *[None] * (len(inputs) - 1)], session)
        assert found["msg"] == "process_completed"


def test_half_characters_of_the_servers_own_are_sent() -> None:
    gradio_patches.send_half_characters()
    from gradio import routes

    value = {"name": f"a{HALF}.png", "of": [HALF, 5, {"x": (HALF,)}]}
    with pytest.raises(TypeError):
        orjson.dumps(value)  # else the patch can go
    sent = json.loads(routes.orjson.dumps(value, default=str))
    assert sent == {"name": "a\ufffd.png", "of": ["\ufffd", 5, {"x": ["\ufffd"]}]}
    assert json.loads(routes.orjson.dumps("😀")) == "😀"


def test_only_empty_lists_let_anything_through() -> None:
    gradio_patches.pass_forgotten_choices()
    assert gr.Dropdown([]).preprocess("a run") == "a run"
    assert gr.Dropdown([], multiselect=True).preprocess(["a", "b"]) == ["a", "b"]
    assert gr.CheckboxGroup([]).preprocess(["title"]) == ["title"]
    for refused in (
        lambda: gr.Dropdown(["a"]).preprocess("b"),
        lambda: gr.CheckboxGroup(["a"]).preprocess(["b"]),
        lambda: gr.Dropdown([]).preprocess({"not": "text"}),
        lambda: gr.Dropdown([]).preprocess(["a"]),
        lambda: gr.Dropdown([], multiselect=True).preprocess([5]),
    ):
        with pytest.raises(gr.Error, match="not in the list of choices"):
            refused()


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "//", "http://a]b", "[", "null"])
def test_an_origin_that_is_no_address_is_refused(asked: Asked, origin: str) -> None:
    for path in ("/", "/config", "/gradio_api/queue/join"):
        method = "POST" if path.endswith("join") else "GET"
        body = "{}" if method == "POST" else None
        assert asked(method, path, body, Origin=origin, **TYPED)[0] in (400, 403)
        both = {"Origin": origin, "Host": origin.partition("//")[2] or "["}
        assert asked(method, path, body, **both, **TYPED)[0] in (400, 403)
