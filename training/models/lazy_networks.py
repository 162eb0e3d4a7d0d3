"""The networks of a base, some of which are loaded when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from training.models.family import Network


class LazyNetworks(dict[str, Network]):
    """Part -> network, of those in memory; `networks[part]` loads one of the others. load: part ->
    network, of the parts in `later`. Copies share what they load.
    """

    def __init__(
        self, there: Mapping[str, Network], later: tuple[str, ...], load: Callable[[str], Network]
    ) -> None:
        super().__init__(there)
        self.later, self.load = later, load
        self._made: dict[str, Network] = {}

    def __missing__(self, part: str) -> Network:
        if part not in self.later:
            raise KeyError(part)
        if part not in self._made:
            self._made[part] = self.load(part)
        self[part] = self._made[part]
        return self[part]

    def loaded(self, part: str) -> Network | None:
        """The network where this or a copy has loaded it."""
        return self.get(part) or self._made.get(part)

    def copy(self) -> LazyNetworks:
        found = LazyNetworks(self, self.later, self.load)
        found._made = self._made
        return found
