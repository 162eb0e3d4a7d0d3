"""What captions say to a base whose text encoders are not trained: from memory, from disk, else
from text encoders that are loaded for it and let go. They never lie beside the denoiser on a GPU.

On disk every caption is a safetensors file, named by all it was made of; the longest unused go
first where there are more than may be kept, and what is lost is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from training.errors import SpaceError
from training.models.conditioning import as_tensors, from_tensors
from training.models.lazy_networks import LazyNetworks
from training.runtime import memory
from training.runtime.device import has_own_memory, sent
from training.storage.paths import keep_within, text_states_folder, write_whole

if TYPE_CHECKING:
    from training.models.family import Conditioning, Network, Parts

FORMAT = 1  # of what is kept; another one is another place
MOST = 4 * 2**30  # bytes on disk, of all bases together
IN_MEMORY = 2**28  # bytes of those that are on disk as well


class StoredStates:
    """load: part -> a text encoder on the device; made_by: what of base and machine decides the
    states, asked when it is needed; device: where they are wanted.
    """

    def __init__(
        self,
        load: Callable[[str], Network],
        made_by: Callable[[], Mapping[str, Any]],
        device: torch.device,
    ) -> None:
        self.load, self.made_by, self.device = load, made_by, device
        self.most = MOST
        self.full = False  # the disk
        self._kept: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._stored: set[str] = set()
        self._folder: Path | None = None

    @property
    def writes(self) -> bool:
        """Whether states are written to the disk: that is neither turned off nor is it full."""
        return self.most > 0 and not self.full

    @torch.no_grad()
    def of(self, parts: Parts, captions: Sequence[str]) -> Conditioning:
        """The conditioning of captions, a row each, on the device."""
        family = parts.family
        missing = [one for one in dict.fromkeys(captions) if not self._found(one)]
        if missing:
            self._encode(parts, missing, keep=True)
        rows = []
        for caption in captions:
            there = {name: sent(t, self.device) for name, t in self._kept[caption].items()}
            rows.append(from_tensors(family.says, there))
        self._forget()
        return family.gather(rows)

    @torch.no_grad()
    def prepare(self, parts: Parts, captions: Sequence[str]) -> None:
        """Have what these captions say, in memory or on disk."""
        missing = [one for one in captions if one not in self._kept and not self._is_stored(one)]
        if missing:
            self._encode(parts, missing)

    def _is_stored(self, caption: str) -> bool:
        return self.most > 0 and self._path(caption).is_file()

    def _encode(self, parts: Parts, captions: Sequence[str], *, keep: bool = False) -> None:
        """Say captions anew, each alone, so that what one says does not depend on others. keep: all
        of them in memory, whatever is on disk.
        """
        networks, family = parts.networks, parts.family
        find = networks.loaded if isinstance(networks, LazyNetworks) else networks.get
        denoiser = find(family.denoiser)
        place = denoiser.device if denoiser is not None else self.device
        if denoiser is not None and has_own_memory(self.device):
            denoiser.to("cpu")
            memory.give_back(self.device)
        try:
            for part in family.text_encoders:
                networks[part] = self.load(part)
            for caption in captions:
                said = as_tensors(family.encode_text(parts, [caption]))
                self._put(caption, {name: value.cpu() for name, value in said.items()})
                if not keep:
                    self._forget()
        finally:
            for part in family.text_encoders:
                networks.pop(part, None)
            memory.give_back(self.device)
            if denoiser is not None:
                denoiser.to(place)
        if self.writes:
            keep_within(text_states_folder(), self.most)

    def _found(self, caption: str) -> bool:
        """Whether a caption's states are at hand; those on disk are read."""
        if caption in self._kept:
            self._kept.move_to_end(caption)
            return True
        try:
            self._kept[caption] = self._read(caption)
        except (OSError, SafetensorError, ValueError):
            return False
        self._stored.add(caption)
        return True

    def _read(self, caption: str) -> dict[str, Tensor]:
        path = self._path(caption)
        if not self.most:
            raise FileNotFoundError(path)
        found = load(path.read_bytes())
        if "states" not in found or not all(bool(t.isfinite().all()) for t in found.values()):
            raise ValueError("no states")
        try:
            os.utime(path)  # used now: the oldest go first
        except OSError:
            pass  # another process may have taken it away
        return found

    def _put(self, caption: str, tensors: dict[str, Tensor]) -> None:
        self._kept[caption] = tensors
        if not self.writes:
            return
        try:
            write_whole(self._path(caption), save(tensors))
        except SpaceError:
            self.full = True  # nothing is lost: the states are in memory
            return
        self._stored.add(caption)

    def _forget(self) -> None:
        """Keep the latest in memory, and all that are nowhere else."""
        size = sum(t.nbytes for tensors in self._kept.values() for t in tensors.values())
        for caption in [one for one in self._kept if one in self._stored]:
            if size <= IN_MEMORY:
                return
            size -= sum(t.nbytes for t in self._kept.pop(caption).values())

    def _path(self, caption: str) -> Path:
        if self._folder is None:
            made_of = json.dumps({"format": FORMAT, **self.made_by()}, sort_keys=True, default=str)
            name = hashlib.sha256(made_of.encode()).hexdigest()[:32]
            self._folder = text_states_folder() / name
        return self._folder / f"{hashlib.sha256(caption.encode()).hexdigest()}.safetensors"
