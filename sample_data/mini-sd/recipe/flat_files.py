"""Rows of arrays in flat files of a folder, added whole or not at all, read as maps of the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FlatFiles:
    """A folder with a file for every column, one row a picture. columns: file name -> (dtype, shape
    of a row). index.json says how many rows count, and what was noted.
    """

    folder: Path
    columns: Mapping[str, tuple[type, tuple[int, ...]]]

    def index(self) -> dict:
        file = self.folder / "index.json"
        return json.loads(file.read_text()) if file.exists() else {"pictures": 0}

    def __len__(self) -> int:
        return self.index()["pictures"]

    def open(self) -> tuple[NDArray, ...]:
        """Return the columns of the rows there are; what is written to them stays in memory."""
        rows = len(self)
        return tuple(
            np.memmap(self.folder / name, dtype, "c", shape=(rows, *shape))
            for name, (dtype, shape) in self.columns.items()
        )

    def add(self, *values: NDArray, **notes: object) -> None:
        """Append rows, a value for every column: rows beyond the index do not count."""
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self.index()
        rows = before["pictures"]
        for (name, (dtype, shape)), column in zip(self.columns.items(), values, strict=True):
            row_bytes = np.dtype(dtype).itemsize * int(np.prod(shape))
            mode = "r+b" if (self.folder / name).exists() else "w+b"
            with (self.folder / name).open(mode) as file:
                file.truncate(rows * row_bytes)
                file.seek(0, os.SEEK_END)
                file.write(np.ascontiguousarray(column, dtype).tobytes())
        unfinished = self.folder / "index.tmp"
        unfinished.write_text(json.dumps(before | notes | {"pictures": rows + len(values[0])}))
        unfinished.replace(self.folder / "index.json")
