"""What pictures show, told by a small network that a base may bring with it.

It has learnt true pictures by their names, in many hands and media, and ruined ones as nothing
that a person would name. So it can say of a blob that it is no castle, which the base's own
denoiser cannot: whatever fits the word best is right there. Knows nothing of runs or styles.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from training.errors import ConfigError
from training.modules.torch_patches import in_memory_format
from training.storage.disk_errors import reading_aid

FILE = "judge/model.safetensors"  # in a base's folder
SIDE = 64  # px
WIDTHS = (32, 64, 128, 192)
MOST_NAMES = 10_000
MOST_BYTES = 32 << 20  # of the file
AT_ONCE = 64  # pictures in one pass


class Residual(nn.Module):
    """Two convolutions beside the way past them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(F.silu(norm(y)))
        return x + y


class ThingJudge(nn.Module):
    """Pictures [N, 3, SIDE, SIDE] in [-1, 1] -> logits [N, names + 1]; the last is nothing that a
    person would name.

    synonyms: other word -> name.
    """

    def __init__(
        self,
        names: Sequence[str],
        synonyms: Mapping[str, str] | None = None,
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        super().__init__()
        self.names, self.synonyms = list(names), dict(synonyms or {})
        self.widths = tuple(widths)
        self.index = {name: i for i, name in enumerate(self.names)}
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 1, 1)]
        for before, after in itertools.pairwise(widths):
            layers += [nn.SiLU(), nn.Conv2d(before, after, 3, 2, 1)]
            if after != widths[1]:
                layers.append(Residual(after))
        self.body = nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.SiLU())
        self.head = nn.Linear(2 * widths[-1], len(self.names) + 1)

    def features(self, x: Tensor) -> Tensor:
        """[N, 3, SIDE, SIDE] -> [N, 2 * the last width]: means and peaks."""
        seen = self.body(x)
        return torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def place(self, text: str) -> int | None:
        """The number of the name that a prompt asks for, None if it knows none or several."""
        words = " ".join(text.lower().replace("-", " ").split())
        for article in ("a ", "an ", "the "):
            words = words.removeprefix(article)
        return self.index.get(self.synonyms.get(words, words))

    @torch.no_grad()
    def sure(self, x: Tensor, texts: Sequence[str]) -> Tensor:
        """How surely each picture [N, 3, H, W] shows what its text asks for, [N] in 0..1.

        Raises KeyError for a text that it does not know: see place.
        """
        places = [self.place(text) for text in texts]
        if None in places:
            raise KeyError(texts[places.index(None)])
        small = F.interpolate(x.float(), size=(SIDE, SIDE), mode="area")
        chances = torch.cat([self(some).softmax(1) for some in small.split(AT_ONCE)])
        return chances[torch.arange(len(texts)), torch.tensor(places)]

    def save(self, file: Path) -> None:
        """Write weights in float16 and what they stand for."""
        file.parent.mkdir(parents=True, exist_ok=True)
        facts = {"names": self.names, "synonyms": self.synonyms, "widths": self.widths}
        tensors = {name: t.half().contiguous() for name, t in self.state_dict().items()}
        save_file(tensors, file, {key: json.dumps(value) for key, value in facts.items()})


def judge_of(base: Path) -> ThingJudge | None:
    """The judge that lies in a base's folder, on the CPU in float32; None if there is none.

    Raises ConfigError if its file is damaged.
    """
    file = base / FILE
    if not file.is_file():
        return None
    try:
        return _read(file)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        aid = reading_aid(error) or "Fetch the base again"
        raise ConfigError(
            f"{file} should hold the judge of what pictures show, but cannot be read "
            f"({type(error).__name__}). {aid}, or delete the file: the report then does without it."
        ) from error


def _read(file: Path) -> ThingJudge:
    if file.stat().st_size > MOST_BYTES:
        raise ValueError("too large")
    with safe_open(file, "pt") as opened:
        facts = {key: json.loads(value) for key, value in (opened.metadata() or {}).items()}
        tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}
    names, synonyms, widths = facts["names"], facts["synonyms"], facts["widths"]
    sound = len(widths) == len(WIDTHS) and all(w in range(8, 1025, 8) for w in widths)
    if not sound or len(names) > MOST_NAMES:
        raise ValueError("sizes")
    known = {str(word): str(name) for word, name in synonyms.items()}
    judge = ThingJudge([str(name) for name in names], known, widths)
    judge.load_state_dict(tensors)
    return in_memory_format(judge.eval().requires_grad_(False), torch.channels_last)
