"""Which widths a search may choose: those of the network, unless layers are to be kept, or widths to be multiples."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Optional

from model.network import Group, Network, Widths
from model.operators import OPERATORS
from utils.common.errors import UserError


@dataclass(frozen=True)
class Space:
    """The groups of a network as a search may change them.

    keep: patterns of layers whose channels all stay; multiple_of: every narrower width is a multiple of it; floor: the
    knapsack and its kind leave at least this part of its full width to every residual stream.
    """

    network: Network
    keep: tuple[str, ...] = ()
    multiple_of: int = 1
    floor: float = 0.0

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Those of the network, in its order; what is kept is neither prunable nor removable. Raises ValueError for a
        pattern that no layer matches."""
        kept = self._kept()
        return tuple(replace(g, prunable=False, removable=False) if g.name in kept else g for g in self.network.groups)

    @cached_property
    def group(self) -> Mapping[str, Group]:
        return {g.name: g for g in self.groups}

    def lives(self, widths: Widths) -> bool:
        """Whether these widths make a network. It depends on nothing but which groups are gone."""
        gone, known = frozenset(name for name, width in widths.items() if not width), self._known_to_live
        if gone not in known:
            known[gone] = self.network.lives(widths)
        return known[gone]

    @cached_property
    def _known_to_live(self) -> dict[frozenset[str], bool]:
        return {}

    def narrower(self, width: int) -> Sequence[int]:
        """The widths below this one that a group may get, but for 0, the largest first."""
        return range((width - 1) // self.multiple_of * self.multiple_of, 0, -self.multiple_of)

    def at_most(self, width: int, wanted: float) -> int:
        """The width of a group of this width that is nearest to ``wanted``, below or above; at least the smallest."""
        if wanted >= width:
            return width
        least = min(self.multiple_of, width)
        return max(min(round(wanted / self.multiple_of) * self.multiple_of, width), least)

    def least(self, group: str) -> int:
        """The fewest channels of a group that the floor allows, not yet a multiple; 0: none."""
        full = self.group[group].width if group in self.network.streams else 0
        return math.ceil(self.floor * full - 1e-9)  # 0.7 * 10 is above 7

    def narrowest(self, widths: Widths) -> Optional[dict[str, int]]:
        """Every group as narrow as it may get, and all that may go gone; None where they may not all go at once."""
        found = {g: self.at_most(w, 0) if self.group[g].prunable else w for g, w in widths.items()}
        found.update((g.name, 0) for g in self.groups if g.removable)
        return found if self.lives(found) else None

    def checked(self) -> "Space":
        """Itself. Raises UserError for a pattern that no layer matches, or where nothing is left to prune."""
        try:
            prunable = any(g.prunable and self.narrower(g.width) for g in self.groups)
        except ValueError as error:
            raise UserError(str(error)) from error
        if not prunable:
            raise UserError(f"--keep, --multiple_of: leave nothing of {self.network.short_name} to prune; keep fewer "
                            "layers, or lower --multiple_of")
        return self

    def _kept(self) -> set[str]:
        found: set[str] = set()
        for pattern in self.keep:
            matching = [n for n in self.network.nodes if OPERATORS[n.kind].counted and (
                fnmatch.fnmatchcase(n.name, pattern) or fnmatch.fnmatchcase(n.path, pattern))]
            if not matching:
                some = [n.path for n in self.network.nodes if OPERATORS[n.kind].counted][:4]
                raise ValueError(f"--keep={pattern}: no layer of that name; some are {', '.join(some)}")
            found.update(s.group for n in matching for s in self.network.tensors[n.name].channels)
        return found
