"""`style-file split`: content and style of a style for SDXL, as B-LoRA divides them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.cli.style_file import main
from training.style_files.lora import Lora
from training.style_files.reading import canonical_name, read_style
from training.style_files.writing import placed, write_style

CONTENT = "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
STYLE = "up_blocks.0.attentions.1.transformer_blocks.3.attn2.to_k"
OTHER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


def written(path: Path, *modules: str, inputs: int = 2048, family: str = "sdxl") -> Path:
    draw = np.random.default_rng(0).standard_normal
    loras = {
        canonical_name("unet", module, family): Lora(
            draw((2, inputs)).astype(np.float32), draw((8, 2)).astype(np.float32), 3.0
        )
        for module in modules
    }
    write_style(path, loras, {}, dtype="float32")
    return path


def test_the_two_files_together_are_the_one(tmp_path: Path) -> None:
    file = written(tmp_path / "s.safetensors", CONTENT, STYLE)
    outs = [str(tmp_path / f"{name}.safetensors") for name in ("what", "how")]
    assert main(["split", str(file), "--content", outs[0], "--style", outs[1]]) == 0
    what, how = (read_style(Path(out)) for out in outs)
    assert [name for name in what.modules if "output_blocks_0_1" in name] == list(what.modules)
    assert [name for name in how.modules if "output_blocks_1_1" in name] == list(how.modules)
    assert (what.title, how.title) == ("what", "how")
    whole = placed(read_style(file), "sdxl")
    joined = placed(what, "sdxl") | placed(how, "sdxl")
    assert joined.keys() == whole.keys()
    assert all(np.array_equal(joined[k].delta(), whole[k].delta()) for k in whole)


def test_layers_of_other_blocks_are_said_to_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "s.safetensors", CONTENT, STYLE, OTHER)
    content, style = (str(tmp_path / f"{name}.safetensors") for name in "ab")
    assert main(["split", str(file), "--content", content, "--style", style]) == 0
    assert capsys.readouterr().out.count("1 layers of other blocks are in neither file") == 1


@pytest.mark.parametrize(
    ("modules", "inputs", "family", "names", "said"),
    [
        ([CONTENT, OTHER], 2048, "sdxl", ("a", "b"), "no layer of up_blocks.0.attentions.1, which"),
        ([OTHER], 768, "sd1", ("a", "b"), "in Stable Diffusion XL only"),
        ([CONTENT, STYLE], 2048, "sdxl", ("a", "a"), "name one file"),
        ([CONTENT, STYLE], 2048, "sdxl", ("s", "b"), "would be written over"),
    ],
)
def test_what_cannot_be_split_is_refused(
    modules: list[str],
    inputs: int,
    family: str,
    names: tuple[str, str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = written(tmp_path / "s.safetensors", *modules, inputs=inputs, family=family)
    before = file.read_bytes()
    content, style = (str(tmp_path / f"{name}.safetensors") for name in names)
    assert main(["split", str(file), "--content", content, "--style", style]) == 2
    assert said in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"] and file.read_bytes() == before
