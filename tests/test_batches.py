from __future__ import annotations

from collections import Counter

import torch

from training.models.objective import Table
from training.runtime.rng import Order, drawn, seeded_generator

TABLE = Table(torch.linspace(0.99, 0.01, 1000), "epsilon")
CHANCE = dict(shape=(4, 8, 8), flip=True, caption_dropout=0.3, noise_offset=0.0)


def test_what_a_row_gets_depends_on_its_place_alone() -> None:
    first = drawn(7, 3, 2, **CHANCE)
    drawn(7, 4, 0, **CHANCE), torch.randn(5)
    again = drawn(7, 3, 2, **CHANCE)
    assert (
        torch.equal(first.noise, again.noise)
        and first.u == again.u
        and first.mirrored == again.mirrored
    )


def test_rows_steps_and_seeds_differ() -> None:
    seen = {
        drawn(seed, step, row, **CHANCE).noise[0, 0, 0].item()
        for seed in (0, 1)
        for step in range(5)
        for row in range(5)
    }
    assert len(seen) == 50


def test_chance_has_the_shares_that_were_asked_for() -> None:
    draws = [drawn(0, step, 0, **CHANCE) for step in range(2000)]
    assert abs(sum(d.wordless for d in draws) / 2000 - 0.3) < 0.05
    assert abs(sum(d.mirrored for d in draws) / 2000 - 0.5) < 0.05
    timesteps = [TABLE.level(d.u) for d in draws]
    assert abs(sum(timesteps) / 2000 - 500) < 30
    assert 0 <= min(timesteps) and max(timesteps) < 1000
    everything = torch.stack([d.noise for d in draws[:200]])
    assert abs(everything.mean()) < 0.02 and abs(everything.std() - 1) < 0.02


def test_noise_offset_moves_whole_channels() -> None:
    plain, moved = drawn(0, 0, 0, **CHANCE), drawn(0, 0, 0, **{**CHANCE, "noise_offset": 0.5})
    difference = moved.noise - plain.noise
    assert difference.std((1, 2)).max() < 1e-6 < difference.abs().max()


def test_every_picture_is_seen_once_an_epoch_when_batches_are_full() -> None:
    order = Order([range(8), range(8, 12)], batch_size=4, seed=0)
    assert order.passes == 3
    for epoch in range(5):
        seen = Counter(i for k in range(3) for i in order.rows(epoch * 3 + k))
        assert seen == Counter(range(12))


def test_passes_are_full_and_of_one_bucket() -> None:
    groups = [[0, 1, 2, 3, 4], [5], []]
    order = Order(groups, batch_size=3, seed=1)
    for k in range(12):
        rows = order.rows(k)
        assert len(rows) == 3 and any(set(rows) <= set(group) for group in groups)


def test_order_is_a_function_of_seed_and_place() -> None:
    straight = [Order([range(10)], batch_size=2, seed=5).rows(k) for k in range(20)]
    backwards = Order([range(10)], batch_size=2, seed=5)
    assert straight == [backwards.rows(k) for k in reversed(range(20))][::-1]
    assert straight != [Order([range(10)], batch_size=2, seed=6).rows(k) for k in range(20)]


def test_dice_do_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    torch.randn(3, generator=seeded_generator(1, 2, 3))
    assert torch.equal(before, torch.get_rng_state())


def test_a_timestep_bias_leans_towards_noise_or_strokes() -> None:
    draws = [drawn(0, step, 0, **CHANCE).u for step in range(3000)]

    def mean(bias):
        return sum(TABLE.level(u, bias=bias) for u in draws) / 3000 / 1000

    # The mean of u^(2^-b) is 1 / (1 + 2^-b)
    for bias in (-2.0, -1.0, 0.0, 1.0, 2.0):
        assert abs(mean(bias) - 1 / (1 + 2**-bias)) < 0.02
    assert all(0 <= TABLE.level(u, bias=3.0) < 1000 for u in draws)
