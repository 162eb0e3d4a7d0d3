"""Every handler of the page, called with what no browser would send:

answered in words, no file of ours or of anybody's opened, nothing hangs.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.context import LocalContext
from gradio.state_holder import SessionState

from studio.page import app
from training.storage.paths import Workspace

MARK = "not for anybody's eyes"
LONGEST = 20.0  # seconds of one answer, on a machine that is busy; most take a few hundredths
OURS = tuple(str(Path(__file__).resolve().parents[1] / part) for part in ("studio", "training"))
OPENED: list[str] = []
LISTENING = [False]


def _listen(event: str, details: tuple[Any, ...]) -> None:
    if event == "open" and LISTENING[0]:
        OPENED.append(str(details[0]))


sys.addaudithook(_listen)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text(MARK)
    return path


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gr.Blocks:
    """The page over an empty workspace, on a machine that begins no process:

    no training and no drawing starts here.
    """

    def none(*args: object, **keys: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    made = app.build(Workspace(tmp_path / "workspace"))
    made.has_launched, made.allowed_paths, made.blocked_paths = (
        True,
        [],
        [],
    )  # as when it is served: else gradio looks at no path
    monkeypatch.setattr(subprocess, "Popen", none)
    monkeypatch.setattr(subprocess, "run", none)
    return made


def values(secret: Path) -> list[Any]:
    sent = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    paths = ["../../etc/passwd", str(secret), "run:../../secret", "/etc/passwd", sent, [sent]]
    return [
        None,
        7,
        -1,
        1e308,
        True,
        "",
        "x",
        *paths,
        [],
        {},
        [["a"]],
        "a\x00b",
        "x" * 100_000,
        [None] * 3,
        {"at": "../x"},
    ]


def test_no_handler_opens_falls_or_hangs(page: gr.Blocks, secret: Path) -> None:
    asked, untold = 0, []
    state = SessionState(page)

    async def ask_all() -> None:
        nonlocal asked
        LocalContext.blocks.set(page)
        for handler in page.fns.values():
            for value in values(secret) if handler.fn else ():
                asked += 1
                began = time.monotonic()
                event = gr.EventData(
                    None, dict.fromkeys(("at", "act", "id", "of", "across", "down"), value)
                )
                try:
                    answer = await page.process_api(
                        handler,
                        [value] * len(handler.inputs),
                        state=state,
                        session_hash="s",
                        event_data=event,
                    )
                except gr.Error as error:
                    answer = error.message
                # gradio's own, of values that fit no control of its: the client hears nothing of it
                except Exception as error:
                    answer = ""
                    ours = [
                        frame
                        for frame in traceback.extract_tb(error.__traceback__)
                        if frame.filename.startswith(OURS)
                    ]
                    if ours:
                        untold.append(
                            f"{handler.name}({str(value)[:30]!r}): {type(error).__name__} at "
                            f"{ours[-1].filename}:{ours[-1].lineno}"
                        )
                assert MARK not in str(answer), handler.name
                assert time.monotonic() - began < LONGEST, (handler.name, str(value)[:30])

    LISTENING[0] = True
    try:
        asyncio.run(ask_all())
    finally:
        LISTENING[0] = False
    assert asked > 1000 and not untold, untold
    assert not [
        path
        for path in OPENED
        if path in (str(secret), "/etc/passwd") or Path(path).name == "passwd"
    ]
    assert secret.read_text() == MARK
