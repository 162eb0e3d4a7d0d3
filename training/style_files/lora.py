"""One layer's change, low-rank or a product of another kind, and the arithmetic on it:

adding, cutting to a rank, products of other kinds rewritten. Knows numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

ROUNDING = 1e-13  # squared singular values below this share of the largest are rounding


@dataclass(frozen=True, eq=False)
class Lora:
    """One layer's change. down:

    (r, in) or (r, in, k, k); up: (out, r) or (out, r, 1, 1); both float32. Hu et al. 2021.
    """

    down: np.ndarray
    up: np.ndarray
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the base's weight."""
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def size(self) -> int:
        """How many numbers it is made of."""
        return self.down.size + self.up.size

    @property
    def is_zero(self) -> bool:
        """Whether one of its matrices is zero, so that it changes nothing."""
        return not (self.down.any() and self.up.any())

    def as_lora(self) -> Lora:
        """Itself: see Kron."""
        return self

    def times(self, factor: float) -> Lora:
        """The same change, so many times as strong."""
        return replace(self, alpha=self.alpha * factor)

    def square(self) -> float:
        """The squared Frobenius norm of the change, from its factors."""
        up, down = (matrix.astype(np.float64) for matrix in self.flat())
        return float(np.sum((up.T @ up) * (down @ down.T)))

    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """up [out, r] with alpha / rank in it, and down [r, in * k * k]."""
        return self.up.reshape(self.up.shape[0], -1) * np.float32(
            self.alpha / self.rank
        ), self.down.reshape(self.rank, -1)

    def delta(self) -> np.ndarray:
        """alpha / rank * up @ down, float32, in the shape of the base's weight."""
        product = self.up.reshape(self.up.shape[0], -1) @ self.down.reshape(self.rank, -1)
        return (
            (product * np.float32(self.alpha / self.rank))
            .astype(np.float32, copy=False)
            .reshape(self.shape)
        )

    def shaped(self, shape: tuple[int, ...]) -> Lora | None:
        """The same change for a weight of that shape (out, in[, k, k]); None when it does not fit.

        A linear layer and a 1x1 convolution are the same thing, and some programs store a k x k
        convolution as a matrix (out, in * k * k).
        """
        if self.shape == shape:
            return self
        if (
            len(shape) not in (2, 4)
            or self.shape[0] != shape[0]
            or self.down[0].size != np.prod(shape[1:], dtype=np.int64)
        ):
            return None
        if len(self.shape) == 4 and (len(shape) == 4 or self.shape[1] != shape[1]):
            return None
        ones = (1,) * (len(shape) - 2)
        return replace(
            self,
            down=self.down.reshape(self.rank, *shape[1:]),
            up=self.up.reshape(shape[0], self.rank, *ones),
        )


@dataclass(frozen=True, eq=False)
class Kron:
    """One layer's change as kron(one, two), any scale inside. one: (a, c); two: (b, d) or
    (b, d, k, k) for a weight of (a b, c d[, k, k]); both float32. LoKr: Yeh et al. 2024, arXiv
    2309.14859, section 3.3.
    """

    one: np.ndarray
    two: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the base's weight."""
        (a, c), (b, d, *kernel) = self.one.shape, self.two.shape
        return (a * b, c * d, *kernel)

    @property
    def rank(self) -> int:
        """The largest rank that it can have."""
        return min(self.one.shape) * min(len(self.two), self.two[0].size)

    @property
    def size(self) -> int:
        """How many numbers it is made of."""
        return self.one.size + self.two.size

    @property
    def is_zero(self) -> bool:
        """Whether one of its matrices is zero, so that it changes nothing."""
        return not (self.one.any() and self.two.any())

    def delta(self) -> np.ndarray:
        """kron(one, two), float32, in the shape of the base's weight."""
        return np.kron(self.one, self.two.reshape(len(self.two), -1)).reshape(self.shape)

    def as_lora(self) -> Lora:
        """The same change as a low-rank product, exactly: of as many ranks as it has."""
        flat = self.two.reshape(len(self.two), -1)
        return kronecker(self.one, flat, self.shape, self.rank)[0]

    def times(self, factor: float) -> Kron:
        """The same change, so many times as strong."""
        return replace(self, one=self.one * np.float32(factor))

    def square(self) -> float:
        """The squared Frobenius norm of the change: the product of its factors'."""
        one, two = (np.sum(matrix.astype(np.float64) ** 2) for matrix in (self.one, self.two))
        return float(one * two)

    def shaped(self, shape: tuple[int, ...]) -> Kron | None:
        """The same change for a weight of that shape, None when it does not fit: see Lora."""
        if self.shape == shape:
            return self
        inputs = self.one.shape[1]
        kernel = shape[2:]
        each = math.prod(kernel)
        columns = self.two[0].size
        fits = (
            len(shape) in (2, 4)
            and self.shape[0] == shape[0]
            and inputs * columns == math.prod(shape[1:])
            and columns % each == 0
            and (self.two.ndim == 2 or (len(shape) == 2 and self.shape[1] == shape[1]))
        )
        if not fits:
            return None
        return replace(self, two=self.two.reshape(len(self.two), columns // each, *kernel))


@dataclass(frozen=True, eq=False)
class Hada:
    """One layer's change as alpha / r * (a1 @ b1) * (a2 @ b2), the second product element by
    element. a: (out, r); b: (r, in * k * k); all float32; r is b1's. LoHa: Yeh et al. 2024, arXiv
    2309.14859, section 3.2; FedPara: Hyeon-Woo et al. 2022.
    """

    a1: np.ndarray
    b1: np.ndarray
    a2: np.ndarray
    b2: np.ndarray
    alpha: float
    kernel: tuple[int, ...] = ()

    @property
    def matrices(self) -> tuple[np.ndarray, ...]:
        return self.a1, self.b1, self.a2, self.b2

    @property
    def scale(self) -> float:
        return self.alpha / len(self.b1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the base's weight."""
        return (len(self.a1), self.b1.shape[1] // math.prod(self.kernel), *self.kernel)

    @property
    def rank(self) -> int:
        """The largest rank that it can have."""
        return min(len(self.b1) * len(self.b2), len(self.a1), self.b1.shape[1])

    @property
    def size(self) -> int:
        """How many numbers it is made of."""
        return sum(matrix.size for matrix in self.matrices)

    @property
    def is_zero(self) -> bool:
        """Whether one of its matrices is zero, so that it changes nothing."""
        return not all(matrix.any() for matrix in self.matrices)

    def delta(self) -> np.ndarray:
        """The change, float32, in the shape of the base's weight."""
        product = (self.a1 @ self.b1) * (self.a2 @ self.b2) * np.float32(self.scale)
        return product.astype(np.float32, copy=False).reshape(self.shape)

    def as_lora(self) -> Lora:
        """The same change as a low-rank product, exactly: of as many ranks as it has."""
        if len(self.b1) * len(self.b2) > self.rank:
            return whole(self.delta())
        lora = from_matrices(*hadamard(*self.matrices), self.shape)
        return replace(lora, alpha=self.scale * lora.rank)

    def times(self, factor: float) -> Hada:
        """The same change, so many times as strong."""
        return replace(self, alpha=self.alpha * factor)

    def square(self) -> float:
        """The squared Frobenius norm of the change."""
        return float(np.sum(self.delta().astype(np.float64) ** 2))

    def shaped(self, shape: tuple[int, ...]) -> Hada | None:
        """The same change for a weight of that shape, None when it does not fit: see Lora."""
        own = self.shape
        if own == shape:
            return self
        columns = math.prod(shape[1:])
        if len(shape) not in (2, 4) or own[0] != shape[0] or self.b1.shape[1] != columns:
            return None
        if self.kernel and (len(shape) == 4 or own[1] != shape[1]):
            return None
        return replace(self, kernel=tuple(shape[2:]))


Change = Lora | Kron | Hada  # of one layer


def zeros_of(shape: tuple[int, ...]) -> Lora:
    """A change of nothing for a weight of that shape."""
    ones = (1,) * (len(shape) - 2)
    down, up = np.zeros((1, *shape[1:]), np.float32), np.zeros((shape[0], 1, *ones), np.float32)
    return Lora(down, up, 1.0)


def from_matrices(up: np.ndarray, down: np.ndarray, shape: tuple[int, ...]) -> Lora:
    """A Lora of scale 1 for a weight of that shape. up: [out, r]; down: [r, in * k * k]."""
    ones = (1,) * (len(shape) - 2)
    rank = down.shape[0]
    return Lora(
        down.astype(np.float32).reshape(rank, *shape[1:]),
        up.astype(np.float32).reshape(shape[0], rank, *ones),
        float(rank),
    )


def split_rows(change: Change, counts: Sequence[int]) -> list[Change]:
    """The changes of matrices that lie one below the other in a matrix of this change; counts: the
    rows of each. Exact: all share what is below the rank, or the second factor.
    """
    if len(counts) == 1:
        return [change]
    if isinstance(change, Hada):
        ends = np.cumsum(counts)
        rows = [slice(end - n, end) for end, n in zip(ends, counts, strict=True)]
        return [replace(change, a1=change.a1[own], a2=change.a2[own]) for own in rows]
    if isinstance(change, Kron):
        height = len(change.two)
        if any(count % height for count in counts):
            return split_rows(change.as_lora(), counts)
        ends = np.cumsum(counts) // height
        pairs = zip(ends, counts, strict=True)
        return [replace(change, one=change.one[end - n // height : end]) for end, n in pairs]
    ends = np.cumsum(counts)
    pairs = zip(ends, counts, strict=True)
    return [replace(change, up=change.up[end - n : end]) for end, n in pairs]


def added(changes: Sequence[tuple[Change, float]]) -> Change:
    """The weighted sum, exactly: matrices side by side, so the ranks add up. All of one shape. A
    product of another kind alone stays what it is.
    """
    if len(changes) == 1 and not isinstance(changes[0][0], Lora):
        return changes[0][0].times(changes[0][1])
    flats = [(*change.as_lora().flat(), weight) for change, weight in changes]
    up = np.concatenate([up * np.float32(weight) for up, _, weight in flats], axis=1)
    return from_matrices(up, np.concatenate([down for _, down, _ in flats]), changes[0][0].shape)


def cut(
    change: Change, *, rank: int | None = None, energy: float | None = None
) -> tuple[Lora, float]:
    """The nearest change of a smaller rank, and what it leaves out (Frobenius norm). Eckart and
    Young 1936.

    rank: at most so many; energy: the fewest that keep this share (0 to 1] of the squared norm;
    with both, the smaller. No more ranks than the change has.
    """
    lora = change.as_lora()
    up, down = (matrix.astype(np.float64) for matrix in lora.flat())
    if lora.rank >= min(len(up), down.shape[1]):
        return nearest((up @ down).reshape(lora.shape), rank=rank, energy=energy)
    q_up, r_up = np.linalg.qr(up)
    q_down, r_down = np.linalg.qr(down.T)
    left, values, right = np.linalg.svd(r_up @ r_down.T)
    kept = _kept(values**2, rank, energy)
    root = np.sqrt(values[:kept])
    found = from_matrices(
        q_up @ (left[:, :kept] * root), (root[:, None] * right[:kept]) @ q_down.T, lora.shape
    )
    return found, _rest(values**2, kept)


def nearest(
    change: np.ndarray, *, rank: int | None = None, energy: float | None = None
) -> tuple[Lora, float]:
    """The same for any change of a weight, given whole: (out, in[, k, k])."""
    matrix = change.reshape(len(change), -1).astype(np.float64)
    turned = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if turned else matrix
    squares, vectors = np.linalg.eigh(
        wide @ wide.T
    )  # of the smaller side: a tenth of the time of a whole SVD
    squares, vectors = np.maximum(squares[::-1], 0), vectors[:, ::-1]
    kept = _kept(squares, rank, energy)
    root = np.maximum(squares[:kept] ** 0.25, np.finfo(np.float32).tiny)
    left, right = vectors[:, :kept] * root, (vectors[:, :kept] / root).T @ wide
    rest = _rest(squares, kept)
    return from_matrices(
        right.T if turned else left, left.T if turned else right, change.shape
    ), rest


def _kept(squares: np.ndarray, rank: int | None, energy: float | None) -> int:
    """How many of the falling squared singular values stay."""
    count = int(np.sum(squares > ROUNDING * squares[0]))
    if energy is not None:
        count = min(
            count,
            int(np.searchsorted(np.cumsum(squares), energy * np.sum(squares) * (1 - 1e-12))) + 1,
        )
    return max(1, count if rank is None else min(count, rank))


def _rest(squares: np.ndarray, kept: int) -> float:
    """The norm of what is left out, rounding aside."""
    gone = squares[kept:]
    return float(np.sqrt(np.sum(gone[gone > ROUNDING * squares[0]])))


def whole(change: np.ndarray) -> Lora:
    """Any change of a weight, (out, in[, k, k]), exactly: a matrix is its own product with the
    identity.
    """
    matrix = change.reshape(len(change), -1)
    eye = np.eye(min(matrix.shape), dtype=np.float32)
    pair = (eye, matrix) if len(matrix) == len(eye) else (matrix, eye)
    return from_matrices(*pair, change.shape)


def hadamard(
    a1: np.ndarray, b1: np.ndarray, a2: np.ndarray, b2: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(a1 @ b1) * (a2 @ b2), element by element, as one product of r1 * r2 ranks.

    FedPara: Hyeon-Woo et al. 2022, proposition 2.
    """
    up = (a1[:, :, None] * a2[:, None, :]).reshape(len(a1), -1)
    return up, (b1[:, None, :] * b2[None, :, :]).reshape(-1, b1.shape[1])


def kronecker(
    w1: np.ndarray, w2: np.ndarray, shape: tuple[int, ...], limit: int
) -> tuple[Lora, float]:
    """kron(w1, w2) in at most limit ranks, and what is left out.

    Its singular values are the products of theirs, so no large SVD is needed.
    """
    parts = []
    for matrix in (w1, w2):
        left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
        parts.append((left, values, right))
    (l1, s1, r1), (l2, s2, r2) = parts
    values = np.outer(s1, s2).ravel()
    order = np.argsort(-values, kind="stable")
    kept = _kept(values[order] ** 2, limit, None)
    i, j = np.unravel_index(order[:kept], (len(s1), len(s2)))
    root = np.sqrt(values[order[:kept]])
    up = np.einsum("ar,cr->acr", l1[:, i], l2[:, j]).reshape(-1, kept) * root
    down = np.einsum("rb,rd->rbd", r1[i], r2[j]).reshape(kept, -1) * root[:, None]
    return from_matrices(up, down, shape), _rest(values[order] ** 2, kept)
