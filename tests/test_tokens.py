"""Words that are learnt with a style:

said as diffusers says them, trained beside the adapters, carried by the style file.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from studio.library.generator import Generator, loaded_style
from tests import other_programs
from tests.test_training import changed
from tests.tiny import tiny_base, tiny_xl
from training.adapters.inference import ActiveStyle
from training.cli.style_file import main as style_file
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.diffusion.sampling import draw
from training.errors import ConfigError, StyleFileError
from training.models import base_files, loader
from training.models.family import Parts
from training.models.textual_inversion import Token, first_token, of_words, read_ids
from training.prompt import Prompt
from training.runtime.device import DeviceSpec
from training.style_files.reading import read_style, style_from_bytes
from training.style_files.safetensors_io import read_head
from training.style_files.writing import style_bytes
from training.trainer.checkpoint import newest
from training.trainer.joint import together
from training.trainer.loop import train

KINDS = {"one encoder": tiny_base, "two encoders": tiny_xl}
FLOAT = DeviceSpec(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[request.param](tmp_path_factory.mktemp("base") / "base")


def loaded(folder: Path) -> Parts:
    return loader.load(base_files.find(str(folder)), FLOAT)


def pictures(folder: Path) -> Path:
    if not folder.exists():
        folder.mkdir()
        for i in range(3):
            Image.new("RGB", (40, 40), (80 * i, 120, 255 - 80 * i)).save(folder / f"{i}.png")
            (folder / f"{i}.txt").write_text(f"thing {i}")
    return folder


def request(base: Path, tmp_path: Path, **more: Any) -> RunConfig:
    tables: dict[str, Any] = {
        "base": {"model": str(base), "dtype": "float32", "device": "cpu"},
        "data": {
            "folder": str(pictures(tmp_path / "pictures")),
            "trigger": "Sks",
            "resolution": 32,
        },
        "adapter": {"rank": 2, "alpha": 2.0, "tokens": 2},
        "optim": {
            "steps": 4,
            "batch_size": 2,
            "unet_lr": 1e-3,
            "text_encoder_lr": 0.0,
            "token_lr": 0.05,
            "warmup": 0.0,
        },
        "preview": {"every": 4, "steps": 2, "prompts": ["cat"]},
        "report": {"minutes": 0.0},
        "save": {"name": "s", "folder": str(tmp_path / "runs"), "every": 2, "latents": 0.0},
    }
    for key, value in more.items():
        section, _, name = key.partition("__")
        tables[section][name] = value
    return from_mapping(tables)


def states(conditioning: Any) -> list[torch.Tensor]:
    return list(conditioning) if isinstance(conditioning, tuple) else [conditioning]


def a_token(parts: Parts, word: str = "sks", count: int = 2, scale: float = 1.0) -> Token:
    g = torch.Generator().manual_seed(3)
    widths = {
        part: parts.networks[part].get_input_embeddings().weight.shape[1]
        for part in parts.family.text_encoders
    }
    return Token(
        word,
        {part: scale * torch.randn((count, width), generator=g) for part, width in widths.items()},
    )


def test_a_caption_without_the_word_is_said_as_ever(base: Path) -> None:
    parts = loaded(base)
    captions = ["a cat", "a skstyle", ""]
    plain, ours = (
        parts.family.encode_text(parts, captions),
        parts.family.encode_text(parts, captions, [[a_token(parts)]] * 3),
    )
    assert all(torch.equal(a, b) for a, b in zip(states(plain), states(ours), strict=True))


def test_rows_know_only_their_own_words(base: Path) -> None:
    parts = loaded(base)
    one, other = a_token(parts), a_token(parts, scale=-1.0)
    together_said = states(
        parts.family.encode_text(parts, ["cat, sks style"] * 3, [[one], [], [other]])
    )
    for i, row in enumerate(([one], [], [other])):
        alone = states(parts.family.encode_text(parts, ["cat, sks style"], [row]))
        assert all(
            torch.allclose(a[i], b[0], atol=1e-5) for a, b in zip(together_said, alone, strict=True)
        )
    assert not torch.allclose(together_said[0][0], together_said[0][1], atol=1e-2)
    assert not torch.allclose(together_said[0][0], together_said[0][2], atol=1e-2)
    assert not parts.networks["text_encoder"].get_input_embeddings()._forward_hooks


@pytest.mark.parametrize(
    "caption",
    [
        "cat, SKS style",
        "sks",
        "(sks:1.2), a sks-like cat",
        "a long " * 60 + "sks",
        "x " * 73 + "sks",
    ],
)
def test_ids_are_those_of_the_tokenizer_but_for_the_word(caption: str) -> None:
    from tests.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    ids, places = read_ids(tokenizer, caption, ["sks"], [3])
    assert len(ids) == tokenizer.model_max_length and ids.count(tokenizer.eos_token_id) >= 1
    tokenizer.add_tokens(["sks"])
    theirs = tokenizer(caption.lower().replace("sks", "sks"), truncation=False).input_ids
    word = tokenizer.convert_tokens_to_ids("sks")
    expected = [i for token in theirs[1:-1] for i in ([0] * 3 if token == word else [token])][
        : tokenizer.model_max_length - 2
    ]
    assert ids[1 : 1 + len(expected)] == expected
    assert all(ids[place] == 0 for place, _, _ in places)


def test_a_learnt_word_means_the_same_in_diffusers(base: Path, tmp_path: Path) -> None:
    """The whole way: trained, written, `style-file words`, loaded by the stock pipeline; then the
    same text gives the same states.
    """
    import diffusers

    config = request(base, tmp_path)
    list(train(config))
    path = config.run_folder / "s.safetensors"
    out = tmp_path / "words"
    assert style_file(["words", str(path), "--out", str(out)]) == 0
    alone = load_file(out / "sks.safetensors")
    written = load_file(config.run_folder / "words" / "sks.safetensors")
    assert alone.keys() == written.keys() and all(
        np.allclose(alone[k], written[k], rtol=2e-3, atol=1e-6) for k in alone
    )

    parts = loaded(base)
    pipe = getattr(diffusers, parts.family.pipeline).from_pretrained(base)
    with torch.no_grad():
        if "clip_g" in alone:
            pipe.load_textual_inversion(
                torch.from_numpy(alone["clip_l"]),
                "sks",
                tokenizer=pipe.tokenizer,
                text_encoder=pipe.text_encoder,
            )
            pipe.load_textual_inversion(
                torch.from_numpy(alone["clip_g"]),
                "sks",
                tokenizer=pipe.tokenizer_2,
                text_encoder=pipe.text_encoder_2,
            )
        else:
            pipe.load_textual_inversion(str(out), "sks", weight_name="sks.safetensors")
        theirs = pipe.encode_prompt(
            "cat, sks style",
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        ours = states(
            parts.family.encode_text(parts, ["cat, Sks style"], [of_words(read_style(path).words)])
        )
        plain = states(parts.family.encode_text(parts, ["cat, Sks style"]))
    found = [theirs[0], theirs[2]] if len(ours) == 2 else [theirs[0]]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, found, strict=True))
    assert not torch.allclose(ours[0], plain[0], atol=1e-2)


def test_words_and_adapters_learn_and_resume_to_the_bit(base: Path, tmp_path: Path) -> None:
    config = request(base, tmp_path, optim__text_encoder_lr=1e-3)
    list(train(config))
    whole = read_style(config.run_folder / "s.safetensors")
    assert set(whole.words) == {"sks"} and whole.kinds == ("LoRA", "textual inversion")
    parts = loaded(base)
    first = first_token(parts, "sks", 2, config.adapter.token_start, config.optim.seed)
    for part, values in whole.words["sks"].items():
        assert values.shape == tuple(first.vectors[part].shape) and not np.allclose(
            values, first.vectors[part].detach(), atol=1e-2
        )
    halves = changed(config, save__name="h")
    count = iter(range(100))
    list(train(halves, stop=lambda: next(count) > 8))
    found, _ = newest(halves.run_folder / "checkpoints")
    assert found is not None and 0 < found.step < 4
    list(train(halves))
    again = read_style(halves.run_folder / "h.safetensors")
    assert all(
        np.array_equal(values, again.words["sks"][part])
        for part, values in whole.words["sks"].items()
    )
    assert all(
        np.array_equal(lora.up, again.modules[name].up) for name, lora in whole.modules.items()
    )


def test_styles_trained_together_have_their_own_words(base: Path, tmp_path: Path) -> None:
    configs = [
        request(base, tmp_path, save__name="a"),
        request(
            base,
            tmp_path,
            save__name="b",
            adapter__tokens=1,
            adapter__token_start="cat icon",
            optim__text_encoder_lr=1e-3,
        ),
        request(base, tmp_path, save__name="c", adapter__tokens=0),
    ]
    list(together(configs))
    alone = [changed(config, save__folder=str(tmp_path / "alone")) for config in configs]
    for config in alone:
        list(train(config))
    for one, other in zip(configs, alone, strict=True):
        ours, theirs = (
            read_style(c.run_folder / f"{c.save.name}.safetensors") for c in (one, other)
        )
        assert set(ours.words) == set(theirs.words) == ({"sks"} if one.adapter.tokens else set())
        for word, vectors in ours.words.items():
            assert all(
                np.allclose(values, theirs.words[word][part], atol=2e-3)
                for part, values in vectors.items()
            )
        assert all(
            np.allclose(ours.modules[n].delta(), lora.delta(), atol=2e-4)
            for n, lora in theirs.modules.items()
        )


def test_a_style_is_drawn_with_its_words_and_the_base_without(base: Path, tmp_path: Path) -> None:
    config = request(base, tmp_path)
    list(train(config))
    generator = Generator("cpu", "float32")
    parts = generator.load(str(base))
    path = config.run_folder / "s.safetensors"
    active = loaded_style(path, parts)
    without = ActiveStyle(active.modules)
    prompt = Prompt("cat, Sks style", steps=2, guidance=3.0)
    drawn = [
        np.asarray(p, np.int16)
        for p in generator.draw(
            [prompt] * 4,
            [[], generator.wear([(path, 1.0)]), [without], generator.wear([(path, 0.0)])],
        )
    ]
    assert abs(drawn[0] - drawn[3]).max() <= 1  # at strength 0 it is the base
    assert abs(drawn[1] - drawn[2]).max() > 1  # the word says something
    alone = np.asarray(draw(parts, [prompt], rows=[[active]])[0], np.int16)
    assert abs(alone - drawn[1]).max() <= 1


def test_training_goes_on_from_a_style_with_its_word(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    first = request(base, tmp_path)
    list(train(first))
    path = str(first.run_folder / "s.safetensors")
    on = request(
        base,
        tmp_path,
        save__name="on",
        adapter__start=path,
        optim__token_lr=1e-9,
        optim__unet_lr=1e-9,
    )
    list(train(on))
    before, after = (read_style(c.run_folder / f"{c.save.name}.safetensors") for c in (first, on))
    assert np.allclose(
        before.words["sks"]["text_encoder"], after.words["sks"]["text_encoder"], atol=1e-3
    )
    with pytest.raises(StyleFileError, match="would be lost"):
        list(
            train(
                request(base, tmp_path, save__name="lost", adapter__start=path, adapter__tokens=0)
            )
        )
    with pytest.raises(StyleFileError, match="to 2"):
        list(
            train(
                request(base, tmp_path, save__name="more", adapter__start=path, adapter__tokens=3)
            )
        )


@pytest.mark.parametrize("trigger", ["", "two words", "tusche.stil", "größe"])
def test_a_trigger_that_can_be_no_word_of_a_file_is_refused(trigger: str) -> None:
    with pytest.raises(ConfigError, match=r"adapter\.tokens"):
        from_mapping({"data": {"folder": "x", "trigger": trigger}, "adapter": {"tokens": 1}})


# --- files ---

WORD = {"text_encoder": np.linspace(-1, 1, 2 * 768, dtype=np.float32).reshape(2, 768)}
WORDS_XL = {"text_encoder": WORD["text_encoder"], "text_encoder_2": np.ones((2, 1280), np.float32)}


@pytest.mark.parametrize(
    ("vectors", "family"),
    [(WORD, "sd1"), (WORDS_XL, "sdxl"), ({"text_encoder": np.ones((1, 1024), np.float32)}, "sd2")],
)
def test_words_round_through_bundled_and_separate_files(
    vectors: dict[str, np.ndarray], family: str, tmp_path: Path
) -> None:
    from training.style_files.embeddings import embedding_bytes

    bundled = style_from_bytes(
        style_bytes("w.safetensors", {}, {}, dtype="float32", words={"ink": vectors}),
        "w.safetensors",
    )
    alone = style_from_bytes(embedding_bytes("ink", vectors), "ink.safetensors")
    for style in (bundled, alone):
        assert style.family == family and not style.modules and set(style.words) == {"ink"}
        assert all(
            np.array_equal(values, style.words["ink"][part]) for part, values in vectors.items()
        )


@pytest.mark.parametrize(("vectors", "kind"), [(WORD, "one encoder"), (WORDS_XL, "two encoders")])
def test_words_are_bundled_as_other_programs_look_for_them(
    vectors: dict[str, np.ndarray], kind: str
) -> None:
    content = style_bytes("w.safetensors", {}, {}, words={"ink": vectors})
    begins = f"{other_programs.WORDS_BEGIN}ink."
    names = read_head("w", io.BytesIO(content), len(content)).tensors
    assert {
        name.removeprefix(begins) for name in names if name.startswith(begins)
    } == other_programs.WORDS[kind]


def test_files_of_other_programs(tmp_path: Path) -> None:
    """A1111 and sd-scripts:

    emb_params of any file's name; a vector may come without its first dimension; OneTrainer's
    clip_l_out is not read.
    """
    save_file({"emb_params": WORD["text_encoder"][0]}, tmp_path / "my ink (v2).safetensors")
    style = read_style(tmp_path / "my ink (v2).safetensors")
    assert set(style.words) == {"my ink (v2)"} and style.words["my ink (v2)"][
        "text_encoder"
    ].shape == (1, 768)
    with pytest.raises(StyleFileError, match="letters"):
        style_bytes("x.safetensors", {}, {}, words=style.words)
    save_file(
        {
            "bundle_emb.a.clip_l_out": WORD["text_encoder"],
            "bundle_emb.b.clip_l": WORD["text_encoder"],
        },
        tmp_path / "o.safetensors",
    )
    style = read_style(tmp_path / "o.safetensors")
    assert set(style.words) == {"b"} and "not read" in style.warnings[0]


@pytest.mark.parametrize(
    "endings",
    [("string_to_param.*", "clip_l"), ("clip_l", "string_to_param.*", "clip_g"), ("clip_g",)],
)
def test_a_word_that_says_a_part_twice_or_not_at_all_is_named_as_not_read(
    endings: tuple[str, ...], tmp_path: Path
) -> None:
    tensors = {
        f"bundle_emb.ink.{ending}": np.full((1, 768), i, np.float32)
        for i, ending in enumerate(endings)
    }
    save_file(
        {**tensors, "bundle_emb.good.clip_l": WORD["text_encoder"]}, tmp_path / "w.safetensors"
    )
    style = read_style(tmp_path / "w.safetensors")
    assert (
        set(style.words) == {"good"}
        and "not read" in style.warnings[0]
        and "ink" in style.warnings[0]
    )
    save_file({"clip_g": np.ones((1, 1280), np.float32)}, tmp_path / "alone.safetensors")
    with pytest.raises(StyleFileError):
        read_style(tmp_path / "alone.safetensors")


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (np.full((1, 4), np.nan, np.float32), "not finite"),
        (np.zeros((65, 4), np.float32), "1 to 64 vectors"),
        (np.zeros((2, 2, 4), np.float32), "2x2x4"),
        (np.zeros((0, 4), np.float32), "fit its shape"),
    ],
)
def test_odd_vectors_are_refused(tensor: np.ndarray, said: str, tmp_path: Path) -> None:
    save_file({"bundle_emb.ink.string_to_param.*": tensor}, tmp_path / "w.safetensors")
    with pytest.raises(StyleFileError, match=said):
        read_style(tmp_path / "w.safetensors")


def test_a_word_for_another_base_is_refused_in_words(tmp_path: Path) -> None:
    parts = loaded(tiny_base(tmp_path / "base"))
    save_file({"emb_params": WORD["text_encoder"]}, tmp_path / "ink.safetensors")
    with pytest.raises(StyleFileError, match="vectors of 768 numbers, the base's have 32"):
        loaded_style(tmp_path / "ink.safetensors", parts)


def test_tools_carry_words_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from training.style_files.lora import Lora

    lora = Lora(np.ones((4, 320), np.float32), np.ones((320, 4), np.float32), 4.0)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    for file, words in (
        ("a", {"ink": WORD}),
        ("b", {"wash": WORD}),
        ("c", {"ink": {"text_encoder": -WORD["text_encoder"]}}),
    ):
        content = style_bytes(
            f"{file}.safetensors",
            {name: lora},
            {"ss_base_model_version": "sd_v1"},
            dtype="float32",
            words=words,
        )
        (tmp_path / f"{file}.safetensors").write_bytes(content)

    def at(file):
        return str(tmp_path / f"{file}.safetensors")

    assert style_file(["merge", at("a"), at("b"), "--family", "sd1", "--out", at("ab")]) == 0
    assert set(read_style(tmp_path / "ab.safetensors").words) == {"ink", "wash"}
    assert style_file(["merge", at("a"), at("c"), "--family", "sd1", "--out", at("ac")]) == 2
    assert (
        "another of these brings a different one of that name. Use one of them"
        in capsys.readouterr().err
    )
    assert style_file(["resize", at("a"), "--rank", "1", "--out", at("r")]) == 0
    assert np.array_equal(
        read_style(tmp_path / "r.safetensors").words["ink"]["text_encoder"], WORD["text_encoder"]
    )
    assert style_file(["convert", at("a"), "--to", "diffusers", "--out", at("d")]) == 0
    assert (
        "style-file words" in capsys.readouterr().out
        and not read_style(tmp_path / "d.safetensors").words
    )
    assert style_file(["words", at("d"), "--out", str(tmp_path / "w")]) == 2
    assert "no words of its own" in capsys.readouterr().err
    assert style_file(["inspect", at("a")]) == 0
    assert "ink (2 vectors)" in capsys.readouterr().out
