"""Flow matching: levels, the objective, latents between VAE and denoiser, samplers that end where a
known flow ends.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.tiny import tiny_vae
from training.diffusion.sampling import flow_level, schedule
from training.errors import ConfigError
from training.models.family import Family, Parts
from training.models.latent_space import LatentSpace, space_of
from training.models.objective import Flow, Shift, Table, constant_shift, shifted
from training.samplers import FLOW_SAMPLERS
from training.style_files import family_spec

FLUX = Flow(Shift((256, 0.5), (4096, 1.15)))
MEAN, DEVIATION = 0.7, 0.3  # of a picture's one number, in the flow that is known


def test_levels_are_logit_normal_and_shifted() -> None:
    """Quantiles of the closed form: P(s < moved(sigmoid(z))) = Phi(z)."""
    for tokens, mu in ((256, 0.5), (4096, 1.15)):
        for z in (-1.5, -0.3, 0.0, 0.9):
            u = 0.5 * (1 + math.erf(z / math.sqrt(2)))
            wanted = 1 / (1 + math.exp(-z - mu))  # a shift adds mu to the logit
            assert FLUX.level(u, tokens) == pytest.approx(wanted, abs=1e-6)
    assert FLUX.level(0.5, 4096) == pytest.approx(0.7595, abs=1e-3)


def test_levels_rise_with_u_and_with_the_bias_and_stay_within_bounds() -> None:
    shares = [0.0, 1e-9, 0.1, 0.4, 0.8, 0.999999, 1 - 2**-53]
    levels = [FLUX.level(u, 1024) for u in shares]
    assert levels == sorted(levels) and 0 < levels[0] and levels[-1] <= 1
    assert FLUX.level(0.4, 1024, 1.0) > FLUX.level(0.4, 1024) > FLUX.level(0.4, 1024, -1.0)


def test_a_constant_shift_is_the_factor_that_trainers_know() -> None:
    flow = Flow(constant_shift(3.0))
    assert flow.level(0.5, 1) == flow.level(0.5, 9999) == pytest.approx(3 / 4)
    assert shifted(0.25, math.log(2)) == pytest.approx(2 * 0.25 / (1 + 0.25))


def test_a_true_velocity_gives_back_the_picture() -> None:
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(4, 3, 2, 2, generator=g, dtype=torch.double) for _ in range(2))
    s = torch.tensor([0.001, 0.3, 0.8, 1.0], dtype=torch.double)
    noisy = FLUX.noised(x0, noise, s)
    torch.testing.assert_close(FLUX.denoised(noisy, FLUX.target(x0, noise, s), s), x0)
    torch.testing.assert_close(noisy[3], noise[3])
    assert (FLUX.weights(s, 5.0) == 1).all()


def test_diffusers_agrees_on_noise() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, 2, 2, 2, generator=g) for _ in range(2))
    t = scheduler.timesteps[torch.tensor([10, 500, 900])]
    torch.testing.assert_close(
        FLUX.noised(x0, noise, t / 1000), scheduler.scale_noise(x0, t, noise)
    )


def test_a_table_answers_as_its_functions_do() -> None:
    """The bits of Stable Diffusion: an index into the alphas, nothing between."""
    table = Table(torch.linspace(0.999, 0.005, 1000), "v_prediction")
    assert [table.level(u) for u in (0.0, 0.2504, 0.9999)] == [0, 250, 999]
    assert table.level(0.5, bias=1.0) == int(0.5**0.5 * 1000)
    t = table.levels([3, 700])
    assert t.dtype == torch.int64
    x0, noise = torch.randn(2, 1, 2, 2), torch.randn(2, 1, 2, 2)
    a = table.alphas_cumprod[t].view(-1, 1, 1, 1)
    assert torch.equal(table.noised(x0, noise, t), a.sqrt() * x0 + (1 - a).sqrt() * noise)
    torch.testing.assert_close(
        table.denoised(table.noised(x0, noise, t), table.target(x0, noise, t), t), x0
    )


# --- latents ---


def qwen_vae() -> Any:
    from diffusers import AutoencoderKLQwenImage

    mean, deviation = [0.1 * i for i in range(16)], [1 + 0.1 * i for i in range(16)]
    sizes: dict[str, Any] = {"base_dim": 8, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1}
    return AutoencoderKLQwenImage(**sizes, z_dim=16, latents_mean=mean, latents_std=deviation)


def flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=32,
        mid_block_add_attention=False,
    )
    vae.bn.running_mean.normal_(generator=torch.Generator().manual_seed(0))
    vae.bn.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
    return vae


@pytest.mark.parametrize(
    ("make", "channels", "step"),
    [(lambda: tiny_vae(32), 4, 4), (qwen_vae, 16, 8), (flux2_vae, 128, 16)],
    ids=["one scale", "of a channel", "folded"],
)
@torch.no_grad()
def test_latents_go_to_the_denoiser_and_back(make: Any, channels: int, step: int) -> None:
    vae = make().eval()
    space = space_of(vae)
    pictures = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)).clamp(-1, 1)
    found = vae.encode(space.pixels(pictures)).latent_dist
    x = space.scaled(found.mean)
    assert space.channels == channels and x.shape == (2, channels, 32 // step, 32 // step)
    assert space.deviation(found.std).shape == x.shape
    torch.testing.assert_close(space.unscaled(x, torch.float32), found.mean, atol=1e-5, rtol=1e-5)
    decoded = space.picture(vae.decode(space.unscaled(x, torch.float32)).sample)
    assert decoded.shape == pictures.shape


def test_a_single_scale_rounds_as_it_always_did() -> None:
    space, z = LatentSpace(4, 0.1159, 0.3611), torch.randn(2, 4, 8, 8)
    assert torch.equal(space.scaled(z), (z - 0.1159) * 0.3611)
    assert torch.equal(space.unscaled(z, torch.float32), z / 0.3611 + 0.1159)
    assert space.record == {"scale": 0.3611, "shift": 0.1159}


# --- samplers ---


def parts_of(flow: Flow, **config: Any) -> Parts:
    """A base of which only the way of drawing is asked."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    nothing: Any = lambda *given: None  # noqa: E731
    family = Family(family_spec.MINI, nothing, nothing, nothing, flow=flow)
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    return Parts(family, {}, {}, scheduler, flow, "a flow", "", "", 16, multiple=16)


def velocity(x: torch.Tensor, s: float) -> torch.Tensor:
    """E[noise - x_0 | x_s] where x_0 is Gaussian of MEAN and DEVIATION."""
    spread = (1 - s) ** 2 * DEVIATION**2 + s**2
    slope = (s - (1 - s) * DEVIATION**2) / spread
    return slope * (x - (1 - s) * MEAN) - MEAN


@pytest.mark.parametrize(
    ("sampler", "deviation"), [("base", 0.07), *((n, 0.04) for n in FLOW_SAMPLERS)]
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_every_sampler_ends_at_the_pictures(sampler: str, deviation: float, dynamic: bool) -> None:
    parts = parts_of(FLUX, shift=3.0, use_dynamic_shifting=dynamic)
    x = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    scheduler = schedule(parts, sampler, 20, x)
    for i, t in enumerate(scheduler.timesteps):
        level = flow_level(scheduler, i, t)
        x = scheduler.step(velocity(x, float(level)), t, x, return_dict=False)[0]
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.std().item() == pytest.approx(DEVIATION, abs=deviation)


@pytest.mark.parametrize("sampler", ["DEIS", "Euler a", "DDIM"])
def test_samplers_that_cannot_follow_a_flow_are_refused(sampler: str) -> None:
    parts = parts_of(FLUX)
    with pytest.raises(ConfigError, match="cannot follow a flow"):
        schedule(parts, sampler, 4, torch.zeros(1, 1, 8, 8))


def test_larger_pictures_begin_with_more_noise() -> None:
    parts = parts_of(FLUX, use_dynamic_shifting=True)
    small, large = (
        schedule(parts, "base", 8, torch.zeros(1, 1, side, side)).sigmas[4] for side in (32, 128)
    )
    assert small < large
