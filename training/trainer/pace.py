"""How many styles go through the base in one batch: the size that is measured to be the fastest."""

from __future__ import annotations

AT_ONCE = 8  # styles in one pass at most; more wait until these are done


class Pace:
    """How many styles go through the base in one pass: the size that was the quickest for a style
    when all were timed.

    took: size -> seconds of a style's share of a pass, None for a size that did not fit into
    memory.
    """

    def __init__(self, took: dict[int, float | None], at_once: int | None = None) -> None:
        self.took, self.at_once = took, at_once
        self.peaks: dict[int, float] = {}  # size -> GiB that were taken while it was timed

    def sizes(self, waiting: int) -> list[int]:
        """Those that are weighed when so many styles wait, the largest first:

        all that may, then powers of two.
        """
        unfit = min((size for size, seconds in self.took.items() if seconds is None), default=None)
        most = min(
            waiting, self.at_once or AT_ONCE, waiting if unfit is None else max(1, unfit // 2)
        )
        return (
            [most]
            if self.at_once
            else sorted(
                {most, *(2**i for i in range(most.bit_length()) if 2**i < most)}, reverse=True
            )
        )

    def untimed(self, waiting: int) -> int | None:
        """A size that is to be timed before so many styles go, if any:

        the smallest first, since what a process has taken it seldom gives back.
        """
        sizes = self.sizes(waiting)
        return next(
            (size for size in reversed(sizes) if len(sizes) > 1 and size not in self.took), None
        )

    def size(self, waiting: int) -> int:
        """Of the next pass."""
        return min(self.sizes(waiting), key=lambda size: self.took.get(size) or 0.0)

    def words(self, waiting: int) -> str:
        """What was found, for the user."""
        timings = ", ".join(map(self._timing, self.sizes(waiting)))
        return (
            f"styles in one pass: {self.size(waiting)}, the quickest for a style's update "
            f"here ({timings})"
        )

    def _timing(self, size: int) -> str:
        peak = f" and {self.peaks[size]:.2g} GiB" if size in self.peaks else ""
        return f"{size} at once {self.took.get(size) or 0.0:.3g} s{peak}"
