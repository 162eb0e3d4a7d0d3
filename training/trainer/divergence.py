"""What happens when loss or gradient stop being finite: leave updates out, then go back with a
smaller learning rate, then give up.

Its figures are part of a checkpoint, so that a resumed run decides as the undisturbed one. Knows no
torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LOST_IN_A_ROW = 5  # updates left out before the run goes back: a single one is no news in float16
RETURNS = 3  # times a run goes back before it gives up: the learning rate is an eighth then
SMALLER = 0.5  # what the learning rate is multiplied with each time

Verdict = Literal["leave out", "go back", "give up"]


@dataclass
class Guard:
    """share: of the learning rate; returns:

    times gone back so far; lost: updates left out in a row.
    """

    share: float = 1.0
    returns: int = 0
    lost: int = 0

    def good(self) -> None:
        """An update was finite."""
        self.lost = 0

    def bad(self) -> Verdict:
        """An update was not finite: what to do."""
        self.lost += 1
        if self.lost < LOST_IN_A_ROW:
            return "leave out"
        if self.returns == RETURNS:
            return "give up"
        self.returns, self.share, self.lost = self.returns + 1, self.share * SMALLER, 0
        return "go back"
