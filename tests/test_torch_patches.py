"""What reaches behind torch's interface does what the public way does, and is in one place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.modules import torch_patches
from training.modules.conv import FrozenConv2d
from training.modules.group_norm import FastGroupNorm

ROOT = Path(__file__).resolve().parents[1]
PRIVATE = re.compile(
    r"torch\._(?!_)|torch\.ops\.|\.__class__ = |\.forward = |\._compiled_call_impl"
)


def some(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_nothing_else_reaches_behind_torch() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in ("training", "studio")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "torch_patches.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if PRIVATE.search(line)
    ]
    assert found == []


def test_the_gradient_of_softmax() -> None:
    scores, grad = some(2, 5, 7).requires_grad_(), some(2, 5, 7)
    p = scores.softmax(-1)
    p.backward(grad)
    torch.testing.assert_close(torch_patches.softmax_backward(grad, p.detach()), scores.grad)


def test_attention_and_its_sums() -> None:
    q, k, v = some(3, 5, 8), some(3, 9, 8), some(3, 9, 4).repeat(1, 1, 2)
    mixed, sums = torch_patches.attention_with_sums(q, k, v)
    scores = q @ k.transpose(1, 2)
    torch.testing.assert_close(mixed, scores.softmax(-1) @ v)
    torch.testing.assert_close(sums, scores.logsumexp(-1))


@pytest.mark.parametrize(("stride", "padding"), [((1, 1), (1, 1)), ((2, 2), (1, 1))])
def test_the_gradient_of_a_convolutions_input(
    stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    x, weight = some(2, 3, 8, 8).requires_grad_(), some(4, 3, 3, 3)
    y = F.conv2d(x, weight, None, stride, padding)
    grad = some(*y.shape)
    y.backward(grad)
    found = torch_patches.convolution_input_gradient(grad, weight, x.shape, stride, padding)
    torch.testing.assert_close(found, x.grad)


@pytest.mark.parametrize(
    ("module", "kind"),
    [(nn.Conv2d(3, 4, 3), FrozenConv2d), (nn.GroupNorm(2, 4), FastGroupNorm)],
)
def test_a_changed_class_keeps_parameters_and_hooks(
    module: nn.Module, kind: type[nn.Module]
) -> None:
    seen: list[int] = []
    module.register_forward_hook(lambda *_: seen.append(1))
    state = {name: p.data_ptr() for name, p in module.named_parameters()}
    torch_patches.change_class(module, kind)
    assert type(module) is kind
    assert {name: p.data_ptr() for name, p in module.named_parameters()} == state
    module(torch.ones(1, 3 if isinstance(module, nn.Conv2d) else 4, 4, 4))
    assert seen == [1]
    with pytest.raises(TypeError):
        torch_patches.change_class(nn.Linear(1, 1), kind)


def test_a_replaced_forward_is_given_back_in_turn() -> None:
    module, x = nn.Linear(2, 2), torch.ones(1, 2)
    plain = module(x)
    first = torch_patches.replace_forward(module, lambda x: x + 1)
    second = torch_patches.replace_forward(module, lambda x: x + 2)
    assert torch.equal(module(x), x + 2)
    second()
    assert torch.equal(module(x), x + 1)
    first()
    assert torch.equal(module(x), plain) and "forward" not in vars(module)


def test_shapes_that_may_be_compiled_never_become_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo

    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    torch_patches.allow_shapes(256)
    torch_patches.allow_shapes(4)
    assert torch._dynamo.config.recompile_limit == 256


def test_a_compiled_module_is_known_from_a_plain_one() -> None:
    module = nn.Linear(1, 1)
    assert not torch_patches.is_compiled(module)
    module.compile(backend="eager")
    assert torch_patches.is_compiled(module)
