"""Tests of studio.library.library:

what is listed, and that an id is looked up and never opened as a path.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from studio.library import library
from training import events
from training.config.loading import from_mapping, to_toml
from training.errors import StudioError
from training.storage.paths import Workspace

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def style_file(path: Path, **metadata: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    down, up = np.ones((4, 32), np.float32), np.ones((32, 4), np.float32)
    tensors = {
        f"{LAYER}.lora_down.weight": down,
        f"{LAYER}.lora_up.weight": up,
        f"{LAYER}.alpha": np.array(4, np.float32),
    }
    save_file(tensors, path, metadata)


def finished_run(workspace: Workspace, name: str, *, age: float = 0.0) -> Path:
    run = workspace.runs() / name
    run.mkdir(parents=True)
    config = from_mapping(
        {
            "save": {"name": name, "folder": str(workspace.runs())},
            "data": {"trigger": "inky"},
            "base": {"model": "./bases/one"},
        }
    )
    (run / "run.toml").write_text(to_toml(config))
    said = [
        events.Previewed(5, ("previews/0.png",), ("old",)),
        events.Previewed(9, ("previews/1.png", "previews/2.png"), ("a cat", "a dog")),
    ]
    (run / "events.jsonl").write_text("".join(events.to_line(e) + "\n" for e in said))
    os.utime(run / "events.jsonl", (1e9 - age, 1e9 - age))
    style_file(run / f"{name}.safetensors", ss_network_dim="4")
    return run


def test_an_empty_workspace_has_nothing(workspace: Workspace) -> None:
    assert (library.runs(workspace), library.styles(workspace)) == ([], [])
    assert library.free_run_name(workspace, "my-style") == "my-style"


def test_the_run_that_spoke_last_comes_first(workspace: Workspace) -> None:
    finished_run(workspace, "old", age=100)
    finished_run(workspace, "new")
    (workspace.runs() / "no run").mkdir()
    assert library.runs(workspace) == ["new", "old"]


def test_styles_of_runs_and_files_are_listed_with_trigger_rank_and_base(
    workspace: Workspace,
) -> None:
    run = finished_run(workspace, "ink")
    style_file(
        workspace.styles() / "brought.safetensors",
        **{"modelspec.trigger_phrase": "oily", "ss_network_dim": "8", "ss_sd_model_name": "mini"},
    )
    ink, brought = library.styles(workspace)
    assert ink == library.Style(
        "run:ink", "ink", run / "ink.safetensors", "inky", "4", "./bases/one"
    )
    assert (brought.id, brought.trigger, brought.rank, brought.base) == (
        "file:brought",
        "oily",
        "8",
        "mini",
    )
    assert "inky" in ink.title and "rank 4" in ink.title


def test_a_damaged_style_is_left_out(workspace: Workspace) -> None:
    workspace.styles().mkdir(parents=True)
    (workspace.styles() / "bad.safetensors").write_bytes(b"\x80\x04pickle")
    style_file(workspace.styles() / "good.safetensors")
    assert [s.name for s in library.styles(workspace)] == ["good"]


@pytest.mark.parametrize(
    "id",
    [
        "",
        "run:",
        "run:../x",
        "file:../../etc/passwd",
        "/etc/passwd",
        "file:missing",
        "run:ink/../ink",
        "ink",
    ],
)
def test_an_id_that_is_not_listed_is_refused(workspace: Workspace, id: str) -> None:
    finished_run(workspace, "ink")
    with pytest.raises(StudioError):
        library.style(workspace, id)
    assert library.prompts(workspace, id) == ()


@pytest.mark.parametrize("name", [None, "", "..", "../runs/ink", "/", "missing"])
def test_a_run_that_is_not_listed_is_refused(workspace: Workspace, name: str | None) -> None:
    finished_run(workspace, "ink")
    with pytest.raises(StudioError):
        library.run(workspace, name)


def test_the_last_previews_prompts_are_offered(workspace: Workspace) -> None:
    finished_run(workspace, "ink")
    assert library.prompts(workspace, "run:ink") == ("a cat", "a dog")


def test_a_style_says_the_guidance_its_previews_were_drawn_with(workspace: Workspace) -> None:
    for name, recipe in {
        "two": '{"preview": {"guidance": 2.0}}',
        "none": "",
        "odd": '{"preview": {"guidance": 900}}',
        "list": '{"preview": [2]}',
    }.items():
        style_file(
            workspace.styles() / f"{name}.safetensors",
            **({"style_studio.recipe": recipe} if recipe else {}),
        )
    found = {style.name: library.guidance(style) for style in library.styles(workspace)}
    assert found == {"two": 2.0, "none": None, "odd": None, "list": None}


def test_a_free_name_counts_on(workspace: Workspace) -> None:
    for name in ("ink", "ink-2", "Oil-7"):
        finished_run(workspace, name)
    assert library.free_run_name(workspace, "ink") == "ink-3"
    assert library.free_run_name(workspace, "ink-2") == "ink-3"
    assert library.free_run_name(workspace, "oil-7") == "oil-2"


@pytest.mark.parametrize(
    ("prompt", "template", "left"),
    [
        ("a cat, zorp style", "{caption}, {trigger} style", "a cat"),
        ("zorp, a cat", "{trigger}, {caption}", "a cat"),
        ("a Zorp cat on a mat", "{caption}, {trigger} style", "a cat on a mat"),
        ("zorp", "{caption}, {trigger} style", "zorp"),
        ("a zorpish cat", "{caption}, {trigger} style", "a zorpish cat"),
    ],
)
def test_a_prompt_without_the_words_that_call_the_style(
    prompt: str, template: str, left: str
) -> None:
    assert library.without_trigger(prompt, "zorp", template) == left
    assert library.without_trigger(prompt, "", template) == prompt
