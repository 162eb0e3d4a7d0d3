"""The recipe's long training: stopped and gone on with, it ends as one that was not."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from training.evaluation import things

RECIPE = Path(__file__).parents[1] / "sample_data" / "mini-sd" / "recipe"


@pytest.fixture(autouse=True)
def recipe_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(RECIPE))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(RECIPE) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


def training(folder: Path, *, muon: bool = False):
    """Return a small network's training and the loss of a step's number."""
    import long_training

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 1))
    pace = long_training.Pace(1e-2, 10, 2)
    matrices = (net[0].weight,) if muon else ()
    made = long_training.LongTraining(net.parameters(), folder, pace, matrices=matrices)

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(step))
        return net(x).square().mean()

    return made, loss_of


@pytest.mark.parametrize("muon", [False, True])
def test_stopping_and_going_on_changes_no_bit(tmp_path: Path, muon: bool) -> None:
    whole, loss_of = training(tmp_path / "whole", muon=muon)
    whole.run(loss_of, steps=7)
    first, loss_of = training(tmp_path / "parts", muon=muon)
    assert not first.resume()
    first.run(loss_of, steps=3)
    second, loss_of = training(tmp_path / "parts", muon=muon)
    assert second.resume() and second.step == 3
    second.run(loss_of, steps=7)
    assert torch.equal(whole.flat, second.flat)
    assert torch.equal(whole.averaged, second.averaged)
    assert not torch.equal(whole.flat, whole.averaged)


def test_a_polite_signal_ends_it_with_its_state_on_disk(tmp_path: Path) -> None:
    made, loss_of = training(tmp_path)

    def interrupted(step: int) -> torch.Tensor:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss_of(step)

    made.run(interrupted, steps=1000)
    again, _ = training(tmp_path)
    assert again.resume() and again.step == made.step < 10
    assert torch.equal(again.flat, made.flat)


def test_a_new_state_goes_on_from_the_weights_that_are_kept(tmp_path: Path) -> None:
    import begun

    state, kept = tmp_path / "state", tmp_path / "begun"
    assert begun.autoencoder(state, kept) == state / "frozen" / "vae"
    assert begun.painter(kept) == RECIPE.parent and begun.unfinished_autoencoder(kept) is None
    begun.take_tokenizer(state, kept)
    assert not (state / "tokenizer").exists()
    for part in ("vae", "unet", "tokenizer"):
        (kept / part).mkdir(parents=True)
    (kept / "autoencoder").mkdir()
    assert begun.unfinished_autoencoder(kept) == kept / "autoencoder"
    (kept / "tokenizer" / "merges.txt").write_text("a b\n")
    assert begun.autoencoder(state, kept) == kept / "vae" and begun.painter(kept) == kept
    begun.take_tokenizer(state, kept)
    assert (state / "tokenizer" / "merges.txt").read_text() == "a b\n"
    (state / "frozen" / "vae").mkdir(parents=True)
    (state / "tokenizer" / "merges.txt").write_text("own\n")
    begun.take_tokenizer(state, kept)
    assert begun.autoencoder(state, kept) == state / "frozen" / "vae"
    assert (state / "tokenizer" / "merges.txt").read_text() == "own\n"


def test_a_wider_autoencoder_does_at_first_what_the_old_one_does() -> None:
    import autoencoder16
    import reconstruction
    from diffusers import AutoencoderKL

    old = AutoencoderKL.from_pretrained(RECIPE.parent / "vae", torch_dtype=torch.float32)
    new = autoencoder16.widened(old)
    x = reconstruction.kept_out("linocut")[:1].float() / 127.5 - 1
    with torch.no_grad():
        z, wide = (vae.encode(x).latent_dist for vae in (old, new))
        torch.testing.assert_close(wide.mean[:, :8], z.mean)
        back = new.decode(torch.cat([z.mean, torch.zeros_like(wide.mean[:, 8:])], 1)).sample
        torch.testing.assert_close(back, old.decode(z.mean).sample)
    assert new.config["latent_channels"] == 16


def test_an_autoencoder_goes_on_from_what_was_kept(tmp_path: Path) -> None:
    import autoencoder16
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(latent_channels=16, norm_num_groups=8, block_out_channels=(8,))
    autoencoder16.publish(vae, tmp_path)
    assert next(vae.parameters()).dtype == torch.float32
    back = AutoencoderKL.from_pretrained(tmp_path / "autoencoder", torch_dtype=torch.float32)
    for one, other in zip(vae.parameters(), back.parameters(), strict=True):
        assert torch.equal(one.half().float(), other)
    begun, _ = autoencoder16.started(tmp_path, "cpu", refine=False)
    assert begun.config["latent_channels"] == autoencoder16.CHANNELS


def test_a_pool_is_read_by_step_and_only_as_far_as_it_is_drawn(tmp_path: Path) -> None:
    import autoencoder16
    import pool

    rng = np.random.default_rng(0)
    for number in range(2):
        np.save(pool.path_of(tmp_path, number), rng.integers(0, 256, (20, 128, 128, 3), np.uint8))
    assert pool.drawn_so_far(tmp_path) == 2
    one, again, other = (autoencoder16.batch(tmp_path, 2, step) for step in (5, 5, 6))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.shape == (autoencoder16.BATCH, 3, autoencoder16.SIDE, autoencoder16.SIDE)
    assert one.min() >= -1 and one.max() <= 1


def test_the_rate_rises_stays_and_falls_to_nothing_at_the_end() -> None:
    from long_training import Pace

    pace = Pace(1.0, warm_up=10, ends=100, falls=20)
    rates = [pace.rate_of(step) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == 1.0 and rates[80] == 1.0 and rates[100] == 0.0
    assert all(after < before for before, after in itertools.pairwise(rates[80:]))
    assert Pace(1.0).rate_of(10**9) == 1.0


def test_muon_moves_a_matrix_by_orthogonal_steps_whatever_the_gradient_is(tmp_path: Path) -> None:
    import muon

    values = torch.linalg.svdvals(
        muon.orthogonal(torch.randn(2, 12, 30, generator=torch.Generator().manual_seed(0)))
    )
    assert values.min() > 0.5 and values.max() < 1.5
    moved = []
    for scale in (1.0, 1024.0):  # exact in bfloat16
        torch.manual_seed(0)
        conv = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        before = conv.weight.detach().clone()
        conv.weight.grad = torch.randn_like(conv.weight) * scale
        muon.move([conv.weight], torch.zeros(conv.weight.numel()), rate=0.1, weight_decay=0.0)
        moved.append(conv.weight.detach() - before)
    torch.testing.assert_close(moved[0], moved[1], rtol=0.05, atol=1e-3)


def test_a_specks_place_is_filled_and_a_line_stays() -> None:
    import reconstruction

    picture = np.full((16, 16, 3), (60, 80, 120), np.uint8)
    picture[4, 4] = picture[10, 3] = 250  # specks
    picture[8] = 240  # a line of one pixel
    healed = reconstruction.healed(picture)
    assert (healed[4, 4] == picture[0, 0]).all() and (healed[10, 3] == picture[0, 0]).all()
    assert (healed[8] == picture[8]).all()
    assert (healed[[0, 5, 12]] == picture[[0, 5, 12]]).all()


def test_the_papers_colour_is_measured_on_paper_alone() -> None:
    import reconstruction

    pictures = reconstruction.kept_out("risograph")
    paper = reconstruction.paper_of(pictures)
    assert 0.15 < paper.float().mean() < 0.7
    inked = torch.where(paper[:, None], pictures, torch.zeros_like(pictures))
    assert reconstruction.paper_shift(pictures, inked) == [0.0, 0.0, 0.0]
    shifted = (pictures.int() - 3).clamp(min=0).byte()
    assert reconstruction.paper_shift(pictures, shifted) == [3.0, 3.0, 3.0]


def prepared(state: Path, count: int) -> None:
    """Write pictures of noise as if they were prepared, and a tokenizer of their captions."""
    import painter
    import shards

    rng = np.random.default_rng(0)
    tokenizer = painter.new_tokenizer(["a castle, flat style", "two red fish"], state / "tokenizer")
    for held in ("", shards.HELD):
        texts = ["a castle, flat style", "two red fish"] * (count // 2 * shards.CAPTIONS)
        tokens = shards.tokens_of(texts, tokenizer).view(count, shards.CAPTIONS, shards.LENGTH)
        latents = rng.standard_normal((count, *shards.SHAPE))
        known = np.array([[0, 1, 0, 0, 0, -1, n % 3] for n in range(count)])
        shards.prepared_in(state, held).add(latents, tokens.numpy(), known)


def test_prepared_pictures_are_added_whole_or_not_at_all(tmp_path: Path) -> None:
    import shards

    prepared(tmp_path, 6)
    found = shards.prepared_in(tmp_path)
    first = [np.array(a) for a in found.open()]
    with (found.folder / "latents.f16").open("ab") as file:
        file.write(b"cut short")  # a process that ended between files and index
    found.add(*(a[:2] for a in first))
    latents, tokens, facts = found.open()
    assert len(found) == len(latents) == 8
    assert (latents[:6] == first[0]).all() and (latents[6:] == first[0][:2]).all()
    assert (tokens[6:] == first[1][:2]).all() and (facts[6:] == first[2][:2]).all()


def test_what_is_drawn_is_encoded_once_and_again_for_another_autoencoder(tmp_path: Path) -> None:
    import shards
    from diffusers import AutoencoderKL

    drawn, into = shards.drawn_in(tmp_path), shards.prepared_in(tmp_path)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (5, 128, 128, 3))
    tokens = rng.integers(0, 100, (5, shards.CAPTIONS, shards.LENGTH))
    facts = rng.integers(0, 3, (5, len(shards.FACTS)))
    sizes = {"block_out_channels": (8,) * 4, "norm_num_groups": 4, "latent_channels": 16}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4}
    blocks |= {"up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(**sizes, **blocks)
    shards.encode(drawn, vae, into)  # nothing is drawn yet
    assert len(into) == 0
    drawn.add(pictures[:3], tokens[:3], facts[:3], names=["castle"])
    shards.encode(drawn, vae, into)
    drawn.add(pictures[3:], tokens[3:], facts[3:])
    shards.encode(drawn, vae, into)
    latents, *captioned = into.open()
    assert latents.shape == (5, *shards.SHAPE) and into.index()["names"] == ["castle"]
    assert (captioned[0] == tokens).all() and (captioned[1] == facts).all()
    whole = shards.prepared_in(tmp_path / "again")
    shards.encode(drawn, vae, whole)
    assert np.allclose(whole.open()[0], latents, atol=2e-2)  # batches of other sizes round


@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_a_painter_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, method: str) -> None:
    import painter16

    prepared(tmp_path, 12)
    plan = painter16.Plan(widths=(16, 32), batch=2, warm=False, method=method)

    def begun(name: str):
        made = painter16.Painter(tmp_path, tmp_path / name, plan, "cpu")
        made.training.resume()
        made.training.notes.setdefault("pictures", 12)
        return made

    whole = begun("whole")
    whole.training.run(whole.loss_of, steps=3)
    first = begun("parts")
    first.training.run(first.loss_of, steps=1)
    second = begun("parts")
    assert second.training.step == 1
    second.training.run(second.loss_of, steps=3)
    assert torch.equal(whole.training.flat, second.training.flat)
    assert torch.equal(whole.training.averaged, second.training.averaged)
    assert whole.held_out() == second.held_out() and "hand left out" in whole.held_out()


def test_a_warm_start_takes_the_former_bases_weights_where_they_fit(tmp_path: Path) -> None:
    import painter16
    from diffusers import UNet2DConditionModel

    prepared(tmp_path, 2)
    made = painter16.Painter(tmp_path, tmp_path / "unet", painter16.Plan(batch=2), "cpu")
    former = UNet2DConditionModel.from_pretrained(RECIPE.parent / "unet", torch_dtype=torch.float32)
    state, before = made.unet.state_dict(), former.state_dict()
    assert torch.equal(state["conv_in.weight"][:, :8], before["conv_in.weight"])
    assert torch.equal(
        state["mid_block.resnets.0.conv1.weight"], before["mid_block.resnets.0.conv1.weight"]
    )
    assert state["conv_in.weight"].shape[1] == 16


def test_a_judge_learns_what_pictures_show_and_that_ruined_ones_show_nothing(
    tmp_path: Path,
) -> None:
    import judge16
    import shards

    rng = np.random.default_rng(0)
    names = ["castle", "fish", "owl"]
    concept = rng.integers(0, 3, 120)
    pictures = np.full((120, 128, 128, 3), 255)
    for row, place in enumerate(concept):  # stripes, checks and a square, of any colour
        y, x = np.mgrid[:128, :128]
        drawn = (y // 16 % 2, (x // 32 + y // 32) % 2, (abs(x - 64) < 40) & (abs(y - 64) < 40))
        pictures[row][drawn[place] > 0] = rng.integers(0, 160, 3)
    facts = np.stack(
        [concept, concept * 0 + 1, *[concept * 0] * 3, concept * 0 - 1, concept * 0], 1
    )
    tokens = np.zeros((120, shards.CAPTIONS, shards.LENGTH))
    shards.drawn_in(tmp_path).add(pictures[:90], tokens[:90], facts[:90], names=names)
    kept = shards.drawn_in(tmp_path, shards.HELD)
    kept.add(pictures[90:], tokens[90:], facts[90:], names=names)
    judge, training = judge16.loaded(tmp_path, (8, 8, 16, 16))
    known = shards.drawn_in(tmp_path).open()
    training.run(lambda step: judge16.loss_of(judge, known, 90, step), steps=120)
    assert "learnt pair 100.0%" in judge16.truth(judge, kept)
    falls = judge16.falls(judge, kept)
    assert falls["another thing"][1] < falls["another thing"][0] / 2
    assert falls["blurred"][-1] < falls["blurred"][0] / 2

    judge.things.save(tmp_path / "base" / things.FILE)
    read = things.judge_of(tmp_path / "base")
    assert read is not None and read.names == names
    shown = judge16.seen(pictures[90:])
    asked = [names[place] for place in concept[90:]]
    assert torch.allclose(read.sure(shown, asked), judge.things.sure(shown, asked), atol=0.02)


def test_concepts_have_a_name_and_hands_that_keep_some_pairs_for_tests(tmp_path: Path) -> None:
    import concepts

    assert concepts.said("automobile") == ("automobile", "car")
    assert "bear face" not in concepts.said("bear")
    assert all(name not in others for name, others in concepts.SYNONYMS.items())
    spelt = {s for others in concepts.SYNONYMS.values() for s in others}
    assert concepts.UNSAID <= spelt
    assert not {"hamburger", "castle", "penguin", "crown", "teapot", "rocket"} - concepts.TAUGHT
