"""One layer of a style in whichever method it was trained."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from training.errors import StyleFileError
from training.style_files.key_names import kernel_of
from training.style_files.lora import Change, Hada, Kron, Lora
from training.style_files.safetensors_io import damaged

Arrays = Mapping[str, np.ndarray]


MAX_RANK = 1024


HADAMARD = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")


KRONECKER = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")


class Magnitude(NamedTuple):
    """DoRA's magnitudes. axis "out":

    of every row, (out,); axis "in": of every input channel, (in,). Liu et al. 2024; LyCORIS has
    both.
    """

    values: np.ndarray
    axis: Literal["out", "in"]


class Layer(NamedTuple):
    change: Change
    kind: str  # LoRA, LoCon with a Tucker core, LoHa, LoKr
    magnitude: Magnitude | None


@dataclass(frozen=True)
class Settings:
    """What adapter_config.json or lora_adapter_metadata says of strengths, part by part.

    Patterns are taken as plain names, never as expressions.
    """

    label: str
    values: Mapping[str, Any]  # "unet.lora_alpha", "unet.alpha_pattern", ...

    def strength(self, layer: str, rank: int | None) -> tuple[float, int]:
        """alpha and rank of a layer beside which no alpha stands:

        alpha is the rank when nothing is said. rank: None when weights do not show it.
        """
        part, _, module = layer.partition(".")
        alpha = self._of(
            part,
            module,
            "alpha_pattern",
            self.values.get(f"{part}.lora_alpha", self.values.get(f"{part}.alpha")),
        )
        if rank is None:
            rank = self._of(part, module, "rank_pattern", self.values.get(f"{part}.r"))
        if alpha is None or rank is None:
            return float(rank or 1), rank or 1
        if (
            any(
                isinstance(n, bool) or not isinstance(n, int | float) or not abs(n) <= 1e6
                for n in (alpha, rank)
            )
            or rank < 1
        ):
            raise StyleFileError(
                f"{self.label} gives {layer} an alpha that is no number. Export it again in "
                "kohya format."
            )
        return float(alpha) * (
            math.sqrt(rank) if self.values.get(f"{part}.use_rslora") is True else 1.0
        ), rank

    def promises_dora(self, layer: str) -> bool:
        return bool(self.values.get(f"{layer.partition('.')[0]}.use_dora"))

    def _of(self, part: str, module: str, pattern: str, otherwise: Any) -> Any:
        """The first pattern that a module's name ends with, dot by dot."""
        names = self._patterns(f"{part}.{pattern}")
        ends = module.removeprefix("text_model.").split(".")
        found = [names[end] for i in range(len(ends)) if (end := ".".join(ends[i:])) in names]
        return min(found, key=lambda place: place[0])[1] if found else otherwise

    def _patterns(self, key: str) -> dict[str, tuple[int, Any]]:
        found = self.values.get(key) or {}
        if not isinstance(found, dict) or not all(
            re.fullmatch(r"[A-Za-z0-9_.]+", name) for name in found
        ):
            what = key.partition(".")[2]
            raise StyleFileError(
                f"{self.label} has an {what} with expressions in it, expected plain names. "
                "Export it again in kohya format."
            )
        return {
            name.removeprefix("text_model."): (i, value)
            for i, (name, value) in enumerate(found.items())
        }


def layer_of(label: str, name: str, arrays: Arrays, settings: Settings) -> Layer:
    """One layer from its tensors, float32. Raises StyleFileError."""
    roles = set(arrays)
    lora_roles, kind = {"down", "up"}, "LoRA"
    if roles & set(HADAMARD):
        lora_roles, kind = set(HADAMARD[:4]) | (roles & {"hada_t1", "hada_t2"}), "LoHa"
        if len(roles & {"hada_t1", "hada_t2"}) == 1:
            raise damaged(label, f"{name} has one of hada_t1 and hada_t2, both belong together")
    elif roles & set(KRONECKER):
        lora_roles, kind = _kronecker_roles(roles), "LoKr"
    elif "mid" in roles:
        lora_roles, kind = lora_roles | {"mid"}, "LoCon with a Tucker core"
    if missing := sorted(lora_roles - roles):
        raise damaged(label, f"{name} has no {missing[0]} weight")
    if surplus := sorted(roles - lora_roles - {"alpha", "dora_scale", "magnitude"}):
        raise damaged(
            label,
            f"{name} holds {surplus[0]} beside {', '.join(sorted(lora_roles))}, which belong "
            "to different methods",
        )
    for role in lora_roles:
        if not np.isfinite(arrays[role]).all():
            raise StyleFileError(
                f"{label} cannot be used: {name} holds values that are not finite (NaN or "
                "infinity). Use another file."
            )
    shapes = ", ".join(f"{role} {arrays[role].shape}" for role in sorted(lora_roles))
    misfits = StyleFileError(
        f"{label} cannot be used: {name} has weights of shapes that do not belong together "
        f"({shapes}). Use another file."
    )
    if any(arrays[role].ndim < 2 for role in lora_roles):
        raise misfits
    alpha, rank = _strength(label, name, arrays, kind, settings)
    build: Callable[[str, Arrays], Change] = {
        "LoRA": _plain,
        "LoHa": _loha,
        "LoKr": _lokr,
    }.get(kind, _tucker)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = _scaled(build(name, arrays), alpha, rank)
    except (ValueError, IndexError, np.linalg.LinAlgError):
        raise misfits from None
    if complaint := complaint_about(scaled):
        raise StyleFileError(
            f"{label} cannot be used: {name} {complaint}. Export it again, or use another file."
        )
    if settings.promises_dora(name) and not roles & {"dora_scale", "magnitude"}:
        raise damaged(label, f"it says it is DoRA (use_dora), and {name} has no magnitudes")
    return Layer(scaled, kind, _magnitude(label, name, arrays, scaled))


def _scaled(change: Change, alpha: float, rank: int) -> Change:
    """A change of scale 1 with its strength, which a Kronecker product holds in its factors."""
    if isinstance(change, Kron):
        return change if alpha == rank else change.times(alpha / rank)
    if isinstance(change, Hada):
        return replace(
            change, alpha=alpha if len(change.b1) == rank else change.alpha * alpha / rank
        )
    own = change.rank
    return Lora(change.down, change.up, alpha if own == rank else alpha / rank * own)


def _kronecker_roles(roles: set[str]) -> set[str]:
    found = set()
    for factor in ("lokr_w1", "lokr_w2"):
        found |= {factor} if factor in roles else {f"{factor}_a", f"{factor}_b"}
    return found | (roles & {"lokr_t2"} if "lokr_w2" not in roles else set())


def _strength(
    label: str, name: str, arrays: Arrays, kind: str, settings: Settings
) -> tuple[float, int]:
    """alpha and the rank that it is divided by."""
    roles = {"LoHa": ("hada_w1_b",), "LoKr": ("lokr_w1_b", "lokr_w2_b")}.get(kind, ("down",))
    rank = next((len(arrays[role]) for role in roles if role in arrays), None)
    if "alpha" not in arrays:
        return settings.strength(name, rank)
    if arrays["alpha"].shape not in ((), (1,)):
        raise damaged(
            label,
            f"the alpha of {name} has the shape {arrays['alpha'].shape}, a single number was "
            "expected",
        )
    if rank is None:  # a LoKr of two whole factors: LyCORIS ignores its alpha
        return 1.0, 1
    return float(arrays["alpha"].reshape(())), rank


def _plain(name: str, arrays: Arrays) -> Lora:
    return Lora(arrays["down"], arrays["up"], 1.0)


def _tucker(name: str, arrays: Arrays) -> Lora:
    """lora_mid (r, r, k, k) taken into down: the same rank, exactly."""
    down, up, mid = arrays["down"], arrays["up"], arrays["mid"]
    unfolded = np.einsum("ijkl,jq->iqkl", mid, down.reshape(len(down), -1))
    return Lora(unfolded, up.reshape(len(up), -1)[:, :, None, None], float(len(down)))


def _loha(name: str, arrays: Arrays) -> Hada:
    """A core is taken into the matrix that it stands beside: the same ranks, exactly."""
    (a1, b1, k1), (a2, b2, _) = (
        _unfolded(arrays[f"hada_w{n}_a"], arrays[f"hada_w{n}_b"], arrays.get(f"hada_t{n}"))
        for n in (1, 2)
    )
    shape = _weight_shape(name, len(a1), b1.shape[1], k1)
    if b1.shape[1] != b2.shape[1] or len(a1) != len(a2):
        raise ValueError
    if a1.shape[1] != len(b1) or a2.shape[1] != len(b2):
        raise ValueError
    return Hada(a1, b1, a2, b2, float(len(b1)), shape[2:])


def _lokr(name: str, arrays: Arrays) -> Kron:
    kernel: tuple[int, ...] = ()
    factors = []
    for factor, core in (("lokr_w1", None), ("lokr_w2", arrays.get("lokr_t2"))):
        if factor in arrays:
            found = arrays[factor]
            kernel = kernel or found.shape[2:]
        else:
            a, b, kernel = _unfolded(arrays[f"{factor}_a"], arrays[f"{factor}_b"], core)
            found = a @ b
        factors.append(found.reshape(len(found), -1))
    w1, w2 = factors
    shape = _weight_shape(name, len(w1) * len(w2), w1.shape[1] * w2.shape[1], kernel)
    kernel = shape[2:]
    return Kron(w1, w2.reshape(len(w2), w2.shape[1] // math.prod(kernel), *kernel))


def _unfolded(
    a: np.ndarray, b: np.ndarray, core: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """(a [out, r], b [r, in * k * k], kernel) of two factors; a core (r, r, k, k) comes with a as
    (r, out) and b as (r, in).
    """
    if core is None:
        if a.ndim != 2 or b.ndim != 2:
            raise ValueError
        return a, b, ()
    return a.T, np.einsum("ijkl,jq->iqkl", core, b).reshape(len(core), -1), core.shape[2:]


def _weight_shape(name: str, rows: int, columns: int, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the base's weight; where the file keeps a convolution as a matrix, its name tells
    the kernel.
    """
    side = kernel_of(name)
    if not kernel and side > 1 and columns % side**2 == 0:
        kernel = (side, side)
    return (rows, columns // math.prod(kernel), *kernel)


def _magnitude(label: str, name: str, arrays: Arrays, change: Change) -> Magnitude | None:
    """DoRA's magnitudes and their axis. Raises StyleFileError where the axis is not clear."""
    role = next((role for role in ("magnitude", "dora_scale") if role in arrays), None)
    if role is None:
        return None
    found, out, channels = arrays[role], change.shape[0], change.shape[1]
    long = [i for i, n in enumerate(found.shape) if n > 1]
    fits: list[Literal["out", "in"]] = []
    if len(long) <= 1 and found.ndim <= 4:
        if role == "magnitude" or found.ndim == 1:  # peft: always of the rows
            if found.size == out:
                fits.append("out")
            if found.size == channels and role != "magnitude":
                fits.append("in")
        elif found.ndim >= 2:  # LyCORIS: (out, 1, ...) or (1, in, ...)
            if found.shape[0] == out and found.size == out:
                fits.append("out")
            if found.shape[1] == channels and found.size == channels:
                fits.append("in")
    if len(fits) != 1:
        what = (
            "could be of its rows or of its inputs"
            if fits
            else "fits neither its rows nor its inputs"
        )
        raise StyleFileError(
            f"{label} is DoRA, and the "
            f"{'dora_scale' if role == 'dora_scale' else 'lora_magnitude_vector'} of {name}, "
            f"{found.shape}, {what}."
            " Merge it into its base where it was made, or use a plain LoRA."
        )
    if not np.isfinite(found).all():
        raise StyleFileError(
            f"{label} cannot be used: the magnitudes of {name} are not finite (NaN or "
            "infinity). Use another file."
        )
    return Magnitude(found.reshape(-1), fits[0])


def complaint_about(change: Change) -> str:
    """What is wrong with a layer, "" when nothing is."""
    if isinstance(change, Kron):
        return _complaint_about_kron(change)
    if isinstance(change, Hada):
        return _complaint_about_hada(change)
    lora = change
    down, up, alpha = lora.down, lora.up, lora.alpha
    shapes = f"(lora_down {down.shape}, lora_up {up.shape})"
    if (
        down.ndim not in (2, 4)
        or up.ndim != down.ndim
        or 0 in (*down.shape, *up.shape)
        or up.shape[2:] not in ((), (1, 1))
    ):
        return f"has weights of shapes that no LoRA has {shapes}"
    if up.shape[1] != lora.rank or lora.rank > MAX_RANK:
        return f"has ranks that do not agree or are above {MAX_RANK} {shapes}"
    if complaint := _complaint_about_alpha(alpha, lora.rank):
        return complaint
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        return "holds values that are not finite (NaN or infinity)"
    return ""


def _complaint_about_kron(change: Kron) -> str:
    one, two = change.one, change.two
    if one.ndim != 2 or two.ndim not in (2, 4) or 0 in (*one.shape, *two.shape):
        return f"has weights of shapes that no LoKr has (w1 {one.shape}, w2 {two.shape})"
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        return "holds values that are not finite (NaN or infinity)"
    return ""


def _complaint_about_hada(change: Hada) -> str:
    shapes = ", ".join(str(matrix.shape) for matrix in change.matrices)
    if any(matrix.ndim != 2 or 0 in matrix.shape for matrix in change.matrices):
        return f"has weights of shapes that no LoHa has ({shapes})"
    if max(len(change.b1), len(change.b2)) > MAX_RANK:
        return f"has ranks above {MAX_RANK} ({shapes})"
    if complaint := _complaint_about_alpha(change.alpha, len(change.b1)):
        return complaint
    if not all(np.isfinite(matrix).all() for matrix in change.matrices):
        return "holds values that are not finite (NaN or infinity)"
    return ""


def _complaint_about_alpha(alpha: float, rank: int) -> str:
    most = max(64 * rank, 1024)
    if math.isfinite(alpha) and 0 < alpha <= most:
        return ""
    return f"has an alpha of {alpha:g}, expected more than 0 and at most {most}"
