"""Whole style files with something odd beside their layers: what is odd is named, the rest read."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from tests.tiny import tiny_tokenizer
from training.cli.style_file import main
from training.errors import StyleFileError
from training.models.textual_inversion import read_ids
from training.style_files import safetensors_io
from training.style_files.key_names import Names, accepted_names, standard_places
from training.style_files.long_headers import shortened
from training.style_files.matching import match
from training.style_files.reading import Style, read_style

GENERATOR = np.random.default_rng(0)
Tensors = dict[str, np.ndarray]


def matrix(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


LAYERS = {
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q": (64, 64),
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0": (64, 64),
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k": (64, 768),
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_ff_net_2": (64, 256),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
}


def style(rank: int = 2) -> Tensors:
    """A LoRA for SD 1.5 in kohya's names."""
    made: Tensors = {}
    for name, (out, into) in LAYERS.items():
        made[f"{name}.lora_down.weight"] = matrix(rank, into)
        made[f"{name}.lora_up.weight"] = matrix(out, rank)
        made[f"{name}.alpha"] = np.array(rank, np.float32)
    return made


def read(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Style:
    save_file(tensors, path, metadata)
    return read_style(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "s.safetensors"


# --- words that its owner chose ---

ODD_WORDS = ["ema y", "<embedding>", "水彩", "naïve", "v1.5 ink", "a.clip_l.b", "🖌", "it's"]


@pytest.mark.parametrize("word", ODD_WORDS)
def test_a_word_is_what_its_owner_typed(word: str, file: Path) -> None:
    vectors = matrix(2, 768)
    spelt = unicodedata.normalize("NFD", word)
    found = read(file, {**style(), f"bundle_emb.{spelt}.string_to_param.*": vectors})
    assert len(found.modules) == len(LAYERS) and not found.warnings
    assert np.array_equal(found.words[word]["text_encoder"], vectors)


@pytest.mark.parametrize("word", ODD_WORDS)
def test_it_takes_its_place_where_a_prompt_holds_it(word: str) -> None:
    _, places = read_ids(tiny_tokenizer(), f"a cat, {word}, red", [word], [2])
    assert [(which, vector) for _, which, vector in places] == [(0, 0), (0, 1)]


def test_a_word_for_two_text_encoders_may_be_odd(file: Path) -> None:
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    tensors = {f"{name}.lora_down.weight": matrix(4, 2048), f"{name}.lora_up.weight": matrix(64, 4)}
    words = {f"bundle_emb.ema y.{end}": matrix(1, n) for end, n in (("clip_l", 768), ("clip_g", 9))}
    found = read(file, tensors | words)
    assert {part: v.shape for part, v in found.words["ema y"].items()} == {
        "text_encoder": (1, 768),
        "text_encoder_2": (1, 9),
    }


@pytest.mark.parametrize("name", ["bundle_emb. .clip_l", "bundle_emb..clip_l", "bundle_emb.x y"])
def test_what_is_no_word_is_named_and_the_layers_are_read(name: str, file: Path) -> None:
    found = read(file, {**style(), name: matrix(1, 768)})
    assert len(found.modules) == len(LAYERS) and not found.words
    assert "not read" in found.warnings[0]


@pytest.mark.parametrize(
    "name", ["bundle_emb.a\x1b[2J.clip_l", "bundle_emb.a\n.clip_l", "a b.alpha"]
)
def test_names_that_cannot_be_shown_or_are_no_words_are_refused(name: str, file: Path) -> None:
    with pytest.raises(StyleFileError) as refused:
        read(file, {**style(), name: matrix(1, 768)})
    said = str(refused.value)
    assert "\x1b" not in said and "hostile" not in said and "Do not use" not in said


def test_a_converted_file_leaves_an_odd_word_out_and_says_so(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {f"bundle_emb.{word}.string_to_param.*": matrix(1, 768) for word in ("ema y", "ink")}
    save_file({**style(), **words}, file)
    out = file.with_name("out.safetensors")
    assert main(["convert", str(file), "--to", "kohya", "--out", str(out)]) == 0
    assert "'ema y'" in capsys.readouterr().err and set(read_style(out).words) == {"ink"}


# --- long headers ---


def with_header(tensors: Tensors, metadata: dict[str, str], *, last: bool = False) -> bytes:
    content = save(tensors)
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    own = {"__metadata__": metadata}
    text = json.dumps(entries | own if last else own | entries, ensure_ascii=False).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


TAGS = json.dumps({"10_style": {f'tag "{i}" of the \\ set, 水': i % 97 for i in range(260_000)}})
LONG: dict[str, dict[str, str]] = {
    "counted tags": {"ss_tag_frequency": TAGS},
    "cover pictures": {"ssmd_cover_images": json.dumps(["A" * 9_000_000])},
    "both": {"ss_tag_frequency": TAGS, "ssmd_cover_images": "B" * 9_000_000},
    "quotes and braces": {"comment": '}"{\\' * 2_500_000},
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", LONG)
def test_long_metadata_is_left_out_by_name(kind: str, last: bool, file: Path) -> None:
    short = {"ss_network_dim": "2", "title": '水 "x" \\'}
    file.write_bytes(with_header(style(), LONG[kind] | short, last=last))
    found = read_style(file)
    assert found.metadata == short and len(found.modules) == len(LAYERS)
    assert all(name in found.warnings[0] for name in LONG[kind])


def test_scrub_writes_such_a_style_without_it(file: Path) -> None:
    file.write_bytes(with_header(style(), LONG["counted tags"]))
    out = file.with_name("out.safetensors")
    assert main(["scrub", str(file), "--out", str(out)]) == 0
    assert out.stat().st_size < 2**20 and not read_style(out).warnings
    before, after = read_style(file), read_style(out)
    assert all(np.array_equal(before.modules[n].up, after.modules[n].up) for n in before.modules)


def test_a_header_is_the_same_but_for_what_is_left_out() -> None:
    header = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    for metadata in ({}, {"a": "b"}, {"a": 'é"\\\n', "long": "z" * 50, "c": ""}):
        for raw in (
            json.dumps({"__metadata__": metadata, **header}),
            json.dumps(header | {"__metadata__": metadata}, indent=2),
            json.dumps(header | {"__metadata__": metadata}, ensure_ascii=False),
        ):
            short, left_out = shortened(raw.encode(), 40, 10)
            kept = {key: value for key, value in metadata.items() if key != "long"}
            assert json.loads(short) == header | {"__metadata__": kept}
            assert left_out == ({"long": 52} if "long" in metadata else {})


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1}',
        b'{"a":{"b":{}}}',
        b'{"__metadata__":{"a":1}}',
        b'{"__metadata__":{"a":"b",}}',
        b'{"__metadata__":{"a":"b"},}',
        b'{"__metadata__":{"a":"b"}} x',
        b'{"__metadata__":{"a":"b}}',
        b'{"__metadata__":{"a":"b"}',
        b'["a"]',
        b"{" + b'"a":{},' * 20 + b'"b":{}}',
        b'{"__metadata__":{' + b'"a":"",' * 20 + b'"b":""}}',
    ],
)
def test_what_is_no_header_is_refused_while_it_is_walked(raw: bytes) -> None:
    with pytest.raises(ValueError):
        shortened(raw, 40, 10)


def test_a_long_header_that_is_no_metadata_is_refused_without_accusing(file: Path) -> None:
    many = {f"x{i:05}.{'y' * 230}": np.zeros(1, np.float32) for i in range(8000)}
    spaced = with_header(many, {"m": "z" * 9_000_000}).replace(b'"dtype"', b" " * 900 + b'"dtype"')
    length = spaced.index(b"\0\0\0\0", 9_000_000) - 8
    file.write_bytes(length.to_bytes(8, "little") + spaced[8:])
    with pytest.raises(StyleFileError, match="no long metadata") as refused:
        read_style(file)
    assert "hostile" not in str(refused.value)


def test_no_more_than_the_library_reads(file: Path) -> None:
    claimed = safetensors_io.LONGEST_HEADER + 1
    file.write_bytes(claimed.to_bytes(8, "little") + b'{"a":1}')
    with pytest.raises(StyleFileError, match="header of 100000001 bytes, at most"):
        read_style(file)


# --- DoRA with half-converted names ---


def dotted(layer: str) -> str:
    """The last names of a kohya layer with their dots."""
    for name in ("attn1_to_q", "attn1_to_out_0", "attn2_to_k", "ff_net_2", "self_attn_q_proj"):
        if layer.endswith(name):
            first, _, rest = name.partition("_")
            if name.startswith("self_attn"):
                first, rest = "self_attn", "q_proj"
            own = rest.replace("_0", ".0").replace("net_2", "net.2")
            return f"{layer.removesuffix(name)}{first}.{own}"
    raise AssertionError(layer)


@pytest.mark.parametrize("leaf", ["lora_magnitude_vector", "lora_magnitude_vector.weight"])
def test_half_converted_magnitudes_are_those_of_their_layers(leaf: str, file: Path) -> None:
    sizes = {name: matrix(out) for name, (out, _) in LAYERS.items()}
    made = {f"{dotted(name)}.{leaf}": values for name, values in sizes.items()}
    found = read(file, style() | made)
    assert found.dialect == "kohya" and "DoRA" in found.kinds and len(found.modules) == len(LAYERS)
    for name, values in sizes.items():
        assert found.magnitudes[name].axis == "out"
        assert np.array_equal(found.magnitudes[name].values, values)


def test_a_magnitude_of_no_layer_is_refused_as_what_it_is(file: Path) -> None:
    stray = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1.to_q.lora_magnitude_vector"
    with pytest.raises(StyleFileError, match="attn1_to_q has no"):
        read(file, {**style(), stray: matrix(64)})


def test_a_magnitude_of_another_size_is_refused_as_dora(file: Path) -> None:
    stray = f"{dotted(next(iter(LAYERS)))}.lora_magnitude_vector"
    with pytest.raises(StyleFileError, match="is DoRA"):
        read(file, {**style(), stray: matrix(65)})


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_wraps_a_network_is_no_part_of_a_layers_name(wrapper: str, file: Path) -> None:
    found = read(file, {f"{wrapper}{name}": values for name, values in style().items()})
    assert set(found.modules) == set(LAYERS) and found.family == "sd1"
    part = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    dotted = {f"{part}.lora_A.weight": matrix(2, 768), f"{part}.lora_B.weight": matrix(64, 2)}
    found = read(file, {f"{wrapper}{name}": values for name, values in dotted.items()})
    assert set(found.modules) == {part} and found.family == "sd1"


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model._orig_mod.down_blocks.1.{}",  # peft of a compiled network
        "unet.module.down_blocks.1.{}",  # of one on several cards
        "unet._fsdp_wrapped_module.down_blocks.1._fsdp_wrapped_module.{}",
        "unet.down_blocks.1._checkpoint_wrapped_module.{}",
    ],
)
def test_what_wraps_a_part_of_a_network_is_no_part_of_a_layers_name(name: str, file: Path) -> None:
    inner = name.format("attentions.0.transformer_blocks.0.attn2.to_k")
    tensors = {f"{inner}.lora_A.weight": matrix(2, 768), f"{inner}.lora_B.weight": matrix(64, 2)}
    part = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    assert set(read(file, tensors).modules) == {part}


def test_a_compiled_network_of_sd_scripts_has_the_names_of_any_other(file: Path) -> None:
    compiled = {
        name.replace("lora_unet_", "lora_unet__orig_mod_"): values
        for name, values in style().items()
    }
    assert set(read(file, compiled).modules) == set(LAYERS)


def base_of(layers: Mapping[str, tuple[int, ...]]) -> Names:
    """The names of a base that has just these layers of SD 1.5."""
    dotted = {name: standard_places("sd1")[name] for name in layers}
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, (part, module) in dotted.items():
        parts.setdefault(part, {})[module] = layers[name]
    return accepted_names(parts, "sd1")


@pytest.mark.parametrize("before", ["network.", "model.lora.", "my_"])
def test_names_that_begin_strangely_are_blamed_on_no_base(before: str, file: Path) -> None:
    assert len(match(read(file, style()), base_of(LAYERS))) == len(LAYERS)
    strange = read(file, {f"{before}{name}": values for name, values in style().items()})
    with pytest.raises(StyleFileError) as error:
        match(strange, base_of(LAYERS))
    assert f"begin with '{before}'" in str(error.value) and "another" not in str(error.value)
    # in another base's layers the beginning is not all that is wrong
    other = {name: (32, columns) for name, (_, columns) in LAYERS.items()}
    with pytest.raises(StyleFileError, match="Choose the base it was made for"):
        match(strange, base_of(other))


# --- norms ---

NORMS = ("lora_unet_mid_block_attentions_0_norm", "lora_te_text_model_final_layer_norm")


def norms(values: Callable[[], np.ndarray]) -> Tensors:
    return {f"{name}.{leaf}": values() for name in NORMS for leaf in ("w_norm", "b_norm")}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (lambda: np.zeros(64, np.float32), "all zero"),
        (lambda: np.full(64, 0.01, np.float32), "by 0.01 on average"),
        (lambda: np.full(64, np.nan, np.float32), "not finite"),
        (lambda: np.full(64, 0.5, np.float16), "by 0.5 on average"),
    ],
)
def test_trained_norms_are_left_out_and_their_size_is_said(
    values: Callable[[], np.ndarray], words: str, file: Path
) -> None:
    found = read(file, style() | norms(values))
    assert len(found.modules) == len(LAYERS)
    (warning,) = found.warnings
    assert "4 weights and biases of norms" in warning and words in warning


def test_an_alpha_of_a_norm_is_no_layer(file: Path) -> None:
    alphas = {f"{name}.alpha": np.array(1, np.float32) for name in NORMS}
    found = read(file, style() | alphas | norms(lambda: np.zeros(8, np.float32)))
    assert len(found.modules) == len(LAYERS)
    with pytest.raises(StyleFileError, match="has no"):
        read(file, style() | alphas)


def test_norms_alone_are_no_style(file: Path) -> None:
    with pytest.raises(StyleFileError, match="trained norms"):
        read(file, norms(lambda: np.zeros(8, np.float32)))


# --- clip skip ---


@pytest.mark.parametrize(
    ("metadata", "layers"),
    [
        ({"ss_clip_skip": "2"}, "2"),
        ({"ss_clip_skip": "3.0"}, "3"),
        ({"modelspec.encoder_layer": "2"}, "2"),
        ({"ss_clip_skip": "None", "modelspec.encoder_layer": "2"}, ""),
        ({"ss_clip_skip": "1"}, ""),
        ({"ss_clip_skip": "None"}, ""),
        ({"ss_clip_skip": "two"}, ""),
        ({"ss_clip_skip": "2" * 5000}, ""),
    ],
)
def test_clip_skip_is_said_where_it_means_something(
    metadata: dict[str, str], layers: str, file: Path
) -> None:
    said = [w for w in read(file, style(), metadata).warnings if "clip skip" in w]
    assert bool(said) == bool(layers) and all(f"clip skip {layers} " in w for w in said)


def test_on_sdxl_the_number_means_nothing(file: Path) -> None:
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    tensors = {f"{name}.lora_down.weight": matrix(4, 2048), f"{name}.lora_up.weight": matrix(64, 4)}
    assert not read(file, tensors, {"ss_clip_skip": "2"}).warnings


# --- what held before ---


def test_sgm_names_with_dots_are_converted_without_loss(file: Path) -> None:
    """OneTrainer's raw names of SDXL: unet.output_blocks.5.1.…"""
    made: Tensors = {}
    for block, width in (("input_blocks.4.1", 640), ("output_blocks.5.1", 640)):
        for inner, into in (("attn1.to_out.0", width), ("attn2.to_k", 2048), ("ff.net.2", 2560)):
            name = f"unet.{block}.transformer_blocks.0.{inner}"
            made |= {f"{name}.lora_down.weight": matrix(4, into)}
            made |= {f"{name}.lora_up.weight": matrix(width, 4)}
            made |= {f"{name}.alpha": np.array(2, np.float32)}
    save_file(made, file)
    out = file.with_name("out.safetensors")
    assert main(["convert", str(file), "--to", "kohya", "--out", str(out)]) == 0
    back = load_file(out)
    for name in (key.removesuffix(".alpha") for key in made if key.endswith(".alpha")):
        kohya = "lora_unet_" + name.removeprefix("unet.").replace(".", "_")
        for leaf in ("lora_down.weight", "lora_up.weight", "alpha"):
            assert np.array_equal(back[f"{kohya}.{leaf}"], made[f"{name}.{leaf}"])
