"""The comparison command:

what it draws, what it says, and what it refuses before anything is loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio import grid_events, grid_spec
from studio.compare import main
from studio.grid import grid_of
from studio.grid_spec import Column, Taken
from studio.library.generator import Generator, loaded_style
from tests.test_apply_styles import changed, some_style
from training.cli.style_file import main as style_file
from training.errors import StyleFileError
from training.models.family import Parts
from training.prompt import KEY, Prompt
from training.style_files.reading import canonical_name, read_style
from training.style_files.strengths import Weight, mix, weighted
from training.style_files.writing import write_style

ROOT = Path(__file__).resolve().parents[1]
RECIPE = {"style_studio.recipe": json.dumps({"data": {"template": "{trigger} icon of {caption}"}})}


@pytest.fixture(scope="module")
def styles(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """plain: no metadata; called:

    trigger zorp, usual template; own: trigger zorp, a template of its own; foreign: for another
    base.
    """
    folder = tmp_path_factory.mktemp("styles")
    metadata = {
        "plain": {},
        "called": {"modelspec.title": "Zorp", "modelspec.trigger_phrase": "zorp"},
    }
    metadata["own"] = metadata["called"] | {"modelspec.title": "Own"} | RECIPE
    for seed, (name, said) in enumerate(metadata.items(), 1):
        modules = some_style(
            parts,
            rank=2 + seed,
            seed=seed,
            keep=lambda name: name.endswith(("to_q", "to_k", "to_v", "fc1", "conv1")),
        )
        write_style(
            folder / f"{name}.safetensors",
            {canonical_name(p, m, "sd1"): lora for (p, m), lora in modules.items()},
            said,
        )
    foreign = {
        canonical_name(p, m, "sd1") + "_more": lora for (p, m), lora in list(modules.items())[:2]
    }
    write_style(folder / "foreign.safetensors", foreign, {})
    return {path.stem: path for path in folder.iterdir()}


def asked(base: Path, out: Path, *more: object, prompts: tuple[str, ...] = ("a cat",)) -> list[str]:
    return [
        "--base",
        str(base),
        "--prompt",
        *prompts,
        "--steps",
        "2",
        "--dtype",
        "float32",
        "--out",
        str(out),
        *map(str, more),
    ]


def settings(path: Path) -> dict:
    with Image.open(path) as picture:
        return json.loads(picture.text[KEY])


def same(a: Image.Image, b: Image.Image) -> bool:
    """The same picture, but for one level of 255: sums of a batch run in another order."""
    return (
        a.size == b.size
        and int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max()) <= 1
    )


def test_a_comparison_from_end_to_end(
    base_folder: Path, styles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cells = tmp_path / "new" / "grid.png", tmp_path / "cells"
    chosen = [
        "--style",
        styles["called"],
        f"{styles['plain']}:0.5",
        "--seed",
        0,
        7,
        "--cells",
        cells,
    ]
    assert main(asked(base_folder, out, *chosen, prompts=("a cat", "a zorp icon"))) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(out)]
    assert "Traceback" not in said.err
    assert sorted(p.name for p in cells.iterdir()) == [
        f"{r}-{c}.png" for r in range(4) for c in range(3)
    ]
    found = settings(out)
    assert [c["title"] for c in found["columns"]] == ["base", "Zorp", "plain"]
    assert found["columns"][0]["prompts"] == ["a cat", "a zorp icon"]
    assert found["columns"][1]["prompts"] == ["a cat, zorp style", "a zorp icon"]  # not twice
    assert [c.get("strength") for c in found["columns"]] == [None, 1.0, 0.5]
    assert found["columns"][2]["sha256"] == read_style(styles["plain"]).sha256
    assert (found["seeds"], found["steps"], found["size"], found["prompts"]) == (
        [0, 7],
        2,
        32,
        ["a cat", "a zorp icon"],
    )
    with Image.open(out) as grid:
        assert str(tmp_path) not in json.dumps(grid.text) and str(
            base_folder.parent
        ) not in json.dumps(grid.text)
        assert grid.mode == "RGB" and grid.width > 3 * 192 and grid.height > 4 * 192


def test_cells_are_the_pictures_their_metadata_tells_of(
    base_folder: Path, styles: dict[str, Path], tmp_path: Path
) -> None:
    assert (
        main(
            asked(
                base_folder,
                tmp_path / "g.png",
                "--style",
                f"{styles['own']}:-1.5",
                "--seed",
                5,
                "--cells",
                tmp_path / "cells",
            )
        )
        == 0
    )
    generator = Generator("cpu", "float32")
    generator.load(str(base_folder))
    for column, active in ((0, []), (1, generator.wear([(styles["own"], -1.5)]))):
        with Image.open(tmp_path / "cells" / f"0-{column}.png") as cell:
            prompt = Prompt.from_json(cell.text[KEY])
            assert prompt == Prompt(
                "zorp icon of a cat" if column else "a cat", steps=2, seed=5, size=32
            )
            assert same(generator.draw([prompt], [active])[0], cell.convert("RGB"))
            assert json.loads(cell.text[f"{KEY}_column"]).get("strength") == (
                -1.5 if column else None
            )


def test_strength_zero_is_the_base_and_strength_one_is_not(
    base_folder: Path, styles: dict[str, Path], tmp_path: Path
) -> None:
    chosen = ["--style", f"{styles['plain']}:0", styles["plain"], "--cells", tmp_path / "cells"]
    assert main(asked(base_folder, tmp_path / "g.png", *chosen)) == 0
    base, zero, one = (Image.open(tmp_path / "cells" / f"0-{c}.png") for c in range(3))
    assert same(base, zero)
    assert not same(base, one)


def test_no_base_and_no_trigger(base_folder: Path, styles: dict[str, Path], tmp_path: Path) -> None:
    assert (
        main(
            asked(
                base_folder,
                tmp_path / "g.png",
                "--style",
                styles["called"],
                "--no-base",
                "--no-trigger",
            )
        )
        == 0
    )
    assert [(c["title"], c["prompts"]) for c in settings(tmp_path / "g.png")["columns"]] == [
        ("Zorp", ["a cat"])
    ]


def test_without_styles_it_draws_the_base(base_folder: Path, tmp_path: Path) -> None:
    assert main(asked(base_folder, tmp_path / "g.png", "--guidance", 1, "--size", 40)) == 0
    assert settings(tmp_path / "g.png")["size"] == 40


def test_an_existing_grid_is_replaced_and_a_failed_comparison_leaves_it(
    base_folder: Path, styles: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "g.png"
    out.write_bytes(b"old")
    assert main(asked(base_folder, out, "--style", styles["foreign"])) == 2
    assert out.read_bytes() == b"old"
    assert main(asked(base_folder, out)) == 0
    assert settings(out)["kind"] == "comparison"
    assert [p.name for p in tmp_path.iterdir()] == ["g.png"]


def test_a_prompt_that_the_base_cannot_read_whole_is_reported(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(base_folder, tmp_path / "g.png", prompts=("w" * 200,))) == 0
    assert "reads only the beginning" in capsys.readouterr().err


def test_a_drawing_reports_what_it_does(base_folder: Path, tmp_path: Path) -> None:
    """Notes and every denoising step, one JSON object a line."""
    file = tmp_path / "events.jsonl"
    flags = ["--every", 0, "--events", file, "--seed", 1, 2]
    assert main(asked(base_folder, tmp_path / "g.png", *flags, prompts=("w" * 200,))) == 0
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert "reads only the beginning" in records[0]["message"]
    assert [record["event"] for record in records] == ["noted", *["drawn"] * 4]
    assert [(record["done"], record["steps"]) for record in records[1:]] == [
        (1, 4),
        (2, 4),
        (3, 4),
        (4, 4),
    ]
    assert grid_events.last(file) == grid_events.Drawn(4, 4)


BAD = {
    "no prompt": (["--base", "{base}", "--out", "{out}"], "--prompt is missing"),
    "an empty list of prompts": (["--base", "{base}", "--out", "{out}", "--prompt"], "--prompt"),
    "no base": (["--prompt", "a cat", "--out", "{out}"], "--base"),
    "no out": (["--prompt", "a cat", "--base", "{base}"], "--out"),
    "an unknown option": (["+", "--sede", "1"], "--sede"),
    "a base that is not there": (["+", "--base", "{tmp}/nowhere"], "no such folder or file"),
    "a base that is a pickle": (["+", "--base", "{tmp}/model.ckpt"], "pickle"),
    "a base that is an empty folder": (["+", "--base", "{tmp}"], "model_index.json"),
    "a style that is not there": (
        ["+", "--style", "{tmp}/no.safetensors"],
        "no.safetensors is not there",
    ),
    "a style that is a folder": (["+", "--style", "{tmp}"], "is a folder"),
    "a style for another base": (["+", "--style", "{foreign}"], "foreign.safetensors: "),
    "a style with a Windows path": (
        ["+", "--style", r"C:\styles\no.safetensors:0.8"],
        r"C:\styles\no.safetensors is not there",
    ),
    "a Windows path without strength": (
        ["+", "--style", r"C:\styles\no.safetensors"],
        r"C:\styles\no.safetensors is not there",
    ),
    "a strength that is a word": (
        ["+", "--style", "{plain}:strong"],
        "strength of plain.safetensors is 'strong'",
    ),
    "an empty strength": (["+", "--style", "{plain}:"], "strength of plain.safetensors is ''"),
    "an infinite strength": (
        ["+", "--style", "{plain}:inf"],
        "strength of plain.safetensors is 'inf'",
    ),
    "a strength that is no number": (
        ["+", "--style", "{plain}:nan"],
        "strength of plain.safetensors is 'nan'",
    ),
    "three strengths": (["+", "--style", "{plain}:1:2:3"], "the weights '1:2:3'"),
    "an unknown group": (
        ["+", "--style", "{plain}:1:side=2"],
        "'side' in the weights of plain.safetensors is no group",
    ),
    "a group twice": (
        ["+", "--style", "{plain}:mid=1,mid=2"],
        "'mid' in the weights of plain.safetensors is there twice",
    ),
    "a group's word": (
        ["+", "--style", "{plain}:mid=strong"],
        "plain.safetensors in mid is 'strong'",
    ),
    "a mix with a missing file": (
        ["+", "--style", "{plain}:0.5+gone.safetensors"],
        "gone.safetensors is not there",
    ),
    "a huge strength": (["+", "--style", "{plain}:1e9"], "from -10 to 10"),
    "one bad style among good ones": (
        ["+", "--style", "{plain}", "{tmp}/no.safetensors"],
        "no.safetensors is not there",
    ),
    "no base and no style": (["+", "--no-base"], "--no-base"),
    "a seed that is a word": (["+", "--seed", "one"], "--seed is 'one'"),
    "a negative seed": (["+", "--seed", "-1"], "--seed is '-1'"),
    "a huge seed": (["+", "--seed", "99999999999999999999"], "--seed is"),
    "no steps": (["+", "--steps", "0"], "--steps is '0'"),
    "half a step": (["+", "--steps", "2.5"], "--steps is '2.5'"),
    "too many steps": (["+", "--steps", "100000"], "--steps is '100000'"),
    "guidance below one": (["+", "--guidance", "0.5"], "--guidance is '0.5'"),
    "guidance that is no number": (["+", "--guidance", "nan"], "--guidance is 'nan'"),
    "a size that does not fit the base": (["+", "--size", "36"], "multiple of 8 px"),
    "a huge size": (["+", "--size", "100000"], "--size is '100000'"),
    "an unknown dtype": (["+", "--dtype", "int4"], "--dtype"),
    "an unknown device": (["+", "--device", "abacus"], "--device is 'abacus'"),
    "a device that is not here": (["+", "--device", "cuda:99"], "cuda:99"),
    "a grid that is no picture": (["+", "--out", "{tmp}/grid.txt"], ".png"),
    "a grid that is a folder": (["+", "--out", "{tmp}/folder.png"], "is a folder"),
    "a grid below a file": (["+", "--out", "{plain}/grid.png"], "cannot be written"),
    "cells below a file": (["+", "--cells", "{plain}/cells"], "cannot be written"),
    "events below a file": (["+", "--events", "{plain}/events"], "cannot be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_message(
    case: str,
    base_folder: Path,
    styles: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from training.models import loader

    monkeypatch.setattr(loader, "load", lambda *_: pytest.fail("the base was loaded"))
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02.")
    (tmp_path / "folder.png").mkdir()
    known = {"base": base_folder, "tmp": tmp_path, "out": tmp_path / "grid.png", **styles}
    given, message = BAD[case]
    argv = asked(base_folder, tmp_path / "grid.png") if given[0] == "+" else []
    argv += [text.format(**known) if "{" in text else text for text in given if text != "+"]
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert (
        message in said.err
        and said.err.startswith("compare-styles: ")
        and "Traceback" not in said.err
    )
    assert not (tmp_path / "grid.png").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(base_folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert main(asked(base_folder, tmp_path / "g.png")) == 2


def test_arguments_are_checked_without_torch(styles: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys; from studio.grid_spec import grid_spec_from; grid_spec_from(sys.argv[1:]); "
        "assert "
        "not {'torch', 'diffusers', 'gradio'} & set(sys.modules)"
    )
    argv = asked(tmp_path / "no-base", tmp_path / "g.png", "--style", styles["plain"])
    assert (
        subprocess.run(
            [sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True
        ).returncode
        == 0
    )


def test_help_says_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(
        f"--{name}" in said
        for name in (
            "base",
            "style",
            "prompt",
            "seed",
            "steps",
            "guidance",
            "size",
            "out",
            "cells",
            "no-trigger",
            "events",
        )
    )


def test_a_file_whose_name_ends_like_a_strength_is_a_file(
    styles: dict[str, Path], tmp_path: Path
) -> None:
    odd = tmp_path / "odd:2"
    odd.write_bytes(styles["plain"].read_bytes())
    assert weighted(str(odd)) == (odd, Weight())
    assert weighted("a:b.safetensors:-.5") == (Path("a:b.safetensors"), Weight(-0.5, -0.5))
    assert weighted("style:0.5") == (Path("style"), Weight(0.5, 0.5))


@pytest.mark.parametrize(
    "recipe",
    [
        "",
        "[]",
        '{"data": 3}',
        '{"data": {"template": 5}}',
        '{"data": {"template": "{trigger.__class__}"}}',
        '{"data": {"template": "x"}}',
    ],
)
def test_a_strange_recipe_falls_back_to_the_usual_template(
    styles: dict[str, Path], recipe: str
) -> None:
    style = read_style(styles["called"])
    style.metadata["style_studio.recipe"] = recipe
    assert (
        Column("x", (Taken(styles["called"], Weight(), style),), True).text("a cat")
        == "a cat, zorp style"
    )


def test_styles_of_one_title_are_named_by_their_files(
    styles: dict[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "second.safetensors"
    copy.write_bytes(styles["called"].read_bytes())
    columns = grid_spec.grid_spec_from(
        asked(tmp_path, tmp_path / "g.png", "--style", styles["called"], copy, styles["own"])
    ).columns
    assert [c.title for c in columns] == ["base", "called", "second", "Own"]


@pytest.mark.parametrize("side", [32, 128, 512])
def test_a_grid_shows_every_picture_and_nothing_overlaps(side: int) -> None:
    colours = [["red", "lime", "blue"], ["cyan", "magenta", "yellow"]]
    pictures = [[Image.new("RGB", (side, side), c) for c in row] for row in colours]
    long = (
        "a very long prompt with many words and oneverylongwordthatdoesnotfitintoanylineatall " * 20
    )
    titles = [
        ("base", ""),
        ("a title that is far too long for a column " * 5, "strength 2"),
        ("x", ""),
    ]
    grid = grid_of(titles, [(long, "seed 0"), ("", "")], pictures, footer="a footer")
    cell = side * -(-192 // side) if side < 192 else side
    found = {colour: count for count, colour in grid.getcolors(grid.width * grid.height)}
    for colour in (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (0, 255, 255),
        (255, 0, 255),
        (255, 255, 0),
    ):
        assert found[colour] == cell * cell
    assert (
        np.asarray(grid)[:5].min() == 255
        and np.asarray(grid)[:, :5].min() == 255
        and np.asarray(grid)[:, -5:].min() == 255
    )


def test_the_generator_keeps_base_and_styles_warm(
    base_folder: Path, v_base_folder: Path, styles: dict[str, Path]
) -> None:
    generator = Generator("cpu", "float32")
    with pytest.raises(ValueError, match="load"):
        generator.wear([(styles["plain"], 1.0)])
    parts = generator.load(str(base_folder))
    assert generator.load(str(base_folder)) is parts
    (first,), (second,) = (
        generator.wear([(styles["plain"], 1.0)]),
        generator.wear([(styles["plain"], 0.5)]),
    )
    assert first.modules is second.modules
    generator.draw([Prompt("a cat", steps=1)], [[first, second]])
    assert changed(parts) == 0
    assert generator.load(str(v_base_folder)).prediction_type == "v_prediction"
    assert generator.wear([(styles["plain"], 1.0)])[0].modules is not first.modules


def test_the_generator_sees_a_style_that_was_trained_again(
    base_folder: Path, styles: dict[str, Path], tmp_path: Path
) -> None:
    path, generator = tmp_path / "style.safetensors", Generator("cpu", "float32")
    generator.load(str(base_folder))
    path.write_bytes(styles["plain"].read_bytes())
    (first,) = generator.wear([(path, 1.0)])
    path.write_bytes(styles["own"].read_bytes())
    assert (
        next(iter(generator.wear([(path, 1.0)])[0].modules.values())).rank
        != next(iter(first.modules.values())).rank
    )
    path.unlink()
    with pytest.raises(StyleFileError, match="is not there"):
        generator.wear([(path, 1.0)])


def test_a_row_too_large_for_the_memory_is_drawn_in_parts(
    base_folder: Path, styles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from studio.library import generator as module
    from training.errors import OutOfMemory

    generator, real, tried = Generator("cpu", "float32"), module.draw, []
    generator.load(str(base_folder))
    rows = [
        [],
        *([active] for active in generator.wear([(styles["plain"], 1.0), (styles["own"], 1.0)])),
    ]
    prompts = [Prompt("a cat", steps=2)] * 3
    whole = generator.draw(prompts, rows)

    def small(parts: Parts, prompts: list[Prompt], **more: object) -> list[Image.Image]:
        tried.append(len(prompts))
        if len(prompts) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(parts, prompts, **more)

    monkeypatch.setattr(module, "draw", small)
    limit = 2
    assert all(same(a, b) for a, b in zip(generator.draw(prompts, rows), whole, strict=True))
    assert tried == [3, 2, 1]
    limit = 0
    with pytest.raises(OutOfMemory, match="Draw it smaller"):
        generator.draw(prompts, rows)


def test_loaded_style_refuses_what_does_not_fit(parts: Parts, styles: dict[str, Path]) -> None:
    assert loaded_style(styles["plain"], parts)
    with pytest.raises(StyleFileError, match="do not fit"):
        loaded_style(styles["foreign"], parts)


def test_a_mix_is_read_as_it_is_written(tmp_path: Path) -> None:
    assert mix("a.safetensors:0.7+b.safetensors") == [
        (Path("a.safetensors"), Weight(0.7, 0.7)),
        (Path("b.safetensors"), Weight()),
    ]
    assert mix("a.safetensors:+.7:-1+b+c.safetensors:mid=+0.5,up.1=0") == [
        (Path("a.safetensors"), Weight(0.7, -1.0)),
        (Path("b+c.safetensors"), Weight(groups=(("mid", 0.5), ("up.1", 0.0)))),
    ]
    odd = tmp_path / "a.safetensors+b.safetensors"
    odd.touch()
    assert mix(str(odd)) == [(odd, Weight())]


@pytest.mark.parametrize(
    "spec",
    [
        "{plain}:0.7+{called}:0.5",
        "{plain}:0.7:0+{called}:mid=2,up.0=-0.5,down=0",
        "{own}:text=0+{plain}:unet=0.3",
    ],
)
def test_a_mix_drawn_is_the_merged_file_drawn(
    spec: str, base_folder: Path, styles: dict[str, Path], tmp_path: Path
) -> None:
    parts = spec.format(**styles)
    one, mixed, cells = tmp_path / "one.safetensors", tmp_path / "mixed.png", tmp_path / "cells"
    files = [f"{path}:{weight}" if str(weight) else str(path) for path, weight in mix(parts)]
    assert (
        style_file(["merge", *files, "--family", "sd1", "--dtype", "float32", "--out", str(one)])
        == 0
    )
    assert (
        main(asked(base_folder, mixed, "--style", parts, one, "--no-trigger", "--cells", cells))
        == 0
    )
    base, together, merged = (
        np.asarray(Image.open(cells / f"0-{c}.png"), np.int16) for c in range(3)
    )
    assert np.abs(together - merged).max() <= 1 < np.abs(together - base).max()  # of 255
    assert len(settings(mixed)["columns"][1]["mix"]) == 2


def test_a_mix_calls_every_style_and_says_its_weights(
    base_folder: Path, styles: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "g.png"
    assert (
        main(asked(base_folder, out, "--style", f"{styles['called']}:0.5:mid=1+{styles['plain']}"))
        == 0
    )
    column = settings(out)["columns"][1]
    assert column["title"] == "Zorp + plain" and column["prompts"] == ["a cat, zorp style"]
    assert [taken["strength"] for taken in column["mix"]] == ["0.5:mid=1", 1.0]
