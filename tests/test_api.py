"""The page's verbs for programs, called as docs/api.md shows, over real HTTP; and what they
refuse.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

gradio_client = pytest.importorskip("gradio_client")

from studio.page.api import VERBS, _run_status  # noqa: E402
from studio.processes import process  # noqa: E402
from studio.processes.queue import Queue  # noqa: E402
from tests.test_page import drawn_pictures, free_port, page_process  # noqa: E402
from training import events  # noqa: E402
from training.storage.paths import Workspace  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api") / "workspace"


@pytest.fixture(scope="module")
def page(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, base_folder: Path
) -> Iterator[Any]:
    (workspace / "models").mkdir(parents=True)
    (workspace / "models" / "tiny").symlink_to(base_folder)
    port = free_port()
    with page_process("--port", str(port), "--workspace", str(workspace)) as process:
        process.stdout.readline()
        yield gradio_client.Client(
            f"http://127.0.0.1:{port}/",
            verbose=False,
            download_files=str(tmp_path_factory.mktemp("downloads")),
        )
        for job in Queue(Workspace(workspace), None).jobs():
            Queue(Workspace(workspace), None).cancel(job.id)


def waited(ask: Any, done: Any, seconds: float = 180.0) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while not done(found := ask()):
        assert time.monotonic() < end, found
        time.sleep(0.3)
    return found


def test_from_upload_to_grid_by_program(page: Any, workspace: Path, tmp_path: Path) -> None:
    files = [gradio_client.handle_file(path) for path in drawn_pictures(tmp_path / "pictures")]
    added = page.predict("balls", files, api_name="/upload")
    assert (
        added["dataset"] == "balls"
        and len(added["kept"]) == 4
        and added["refused"][0][0] == "page.png"
    )
    base = str(workspace / "models" / "tiny")
    wanted = {
        "base.model": base,
        "save.name": "balls",
        "optim.steps": 3,
        "optim.batch_size": 1,
        "preview.every": 0,
        "report.minutes": 0.0,
    }
    assert page.predict("balls", wanted, api_name="/train")["run"] == "balls"
    run = waited(
        lambda: page.predict("balls", api_name="/status"),
        lambda s: s["state"] in ("finished", "failed"),
    )
    assert (
        run["state"] == "finished" and run["step"] == run["steps"] == 3 and run["id"] == "run:balls"
    )
    assert (
        Path(run["style"]).read_bytes()
        == (workspace / "runs" / "balls" / "balls.safetensors").read_bytes()
    )
    drawn = page.predict(
        base, ["run:balls", ["run:balls", 0.5]], ["a ball"], [0], 2, 1.0, 0, api_name="/compare"
    )
    grid = waited(
        lambda: page.predict(drawn["comparison"], api_name="/comparison"),
        lambda g: g["state"] != "drawing",
    )
    assert grid["state"] == "finished", grid
    assert Image.open(grid["grid"]).width > 96


def test_a_run_that_ends_while_it_is_asked_about_has_its_style(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, style = tmp_path / "balls", tmp_path / "balls" / "balls.safetensors"
    run.mkdir()
    log = run / "events.jsonl"
    events.append(log, events.Started(0, 3, 4, 10, 100, "cpu", "float32"))

    def ends(folder: Path) -> str:
        style.write_bytes(b"style")
        events.append(log, events.Finished(3, style.name, stopped=False, seconds=1.0))
        return "finished"

    monkeypatch.setattr(process, "state", ends)
    found = _run_status(run)
    assert found["state"] == "finished" and found["step"] == 3 and found["id"] == "run:balls"


BAD = [
    ("/upload", ("../out", [])),
    ("/upload", ("x", [{"path": "/etc/passwd"}])),
    ("/upload", ("x", [{"path": "../../../../etc/passwd"}])),
    ("/upload", ("x", "/etc/passwd")),
    ("/upload", ("x", [7])),
    ("/train", ("no such dataset", {})),
    ("/train", ("../../etc", {})),
    ("/train", ("linocut", {"data.folder": "/etc"})),
    ("/train", ("linocut", {"prior.folder": "/etc"})),
    ("/train", ("linocut", {"adapter.start": "/etc/passwd"})),
    ("/train", ("linocut", {"report.held_out": "/etc"})),
    ("/train", ("linocut", {"save.folder": "/tmp"})),
    ("/train", ("linocut", {"save.webhook": "http://127.0.0.1:1/"})),
    ("/train", ("linocut", {"base.model": "/etc"})),
    ("/train", ("linocut", {"optim.steps": 0})),
    ("/train", ("linocut", {"optim.steps": "many"})),
    ("/train", ("linocut", {"save.name": "../x"})),
    ("/train", ("linocut", {"nonsense": 1})),
    ("/train", ("linocut", [1])),
    ("/status", ("../x",)),
    ("/status", (None,)),
    ("/stop", ("nothing",)),
    ("/compare", ("/etc", [], ["a"], [0])),
    ("/compare", ("mini", ["run:nothing"], ["a"], [0])),
    ("/compare", ("mini", [["run:nothing", "x"]], ["a"], [0])),
    ("/compare", ("mini", "run", ["a"], [0])),
    ("/compare", ("mini", [], [], [0])),
    ("/compare", ("mini", [], ["a" * 2000], [0])),
    ("/compare", ("mini", [], ["a"], [-1])),
    ("/compare", ("mini", [], ["a"], ["0; rm -rf /"])),
    ("/compare", ("mini", [], ["a"], [0], 0)),
    ("/compare", ("mini", [], ["a"], [0], 25, True)),
    ("/compare", ("mini", [], ["a"] * 9, list(range(9)))),
    ("/comparison", ("../../etc",)),
]


@pytest.mark.parametrize(("verb", "given"), BAD)
def test_what_is_wrong_is_reported_and_nothing_begins(
    page: Any, workspace: Path, verb: str, given: tuple[Any, ...]
) -> None:
    before = {
        p.name
        for folder in ("runs", "comparisons", "datasets")
        for p in (workspace / folder).glob("*")
    }
    with pytest.raises(Exception) as caught:
        page.predict(*given, api_name=verb)
    words = str(caught.value)
    assert type(caught.value).__name__ == "AppError", caught.value
    assert words and "Traceback" not in words and len(words) < 2000
    assert {
        p.name
        for folder in ("runs", "comparisons", "datasets")
        for p in (workspace / folder).glob("*")
    } == before


def test_the_page_in_words_names_every_verb() -> None:
    reference = (ROOT / "docs" / "api.md").read_text()
    assert len(VERBS) == 6 and all(f"`/{verb}`" in reference for verb in VERBS)
