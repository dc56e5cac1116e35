"""The entries of a network's tables, numbered, so that a measurement can go through them and store every figure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from model.network import Network
from model.timed import Table

PROBE_WIDTH = 128  # channels of the probe, at most

Entry = tuple[Table, int, int]  # a table, cin, cout


@dataclass(frozen=True)
class Entries:
    """All entries of a network's tables, numbered from 0, table after table, row by row."""

    network: Network

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        return tuple(self.network.tables.values())

    @cached_property
    def starts(self) -> np.ndarray:
        """The number of every table's first entry, and last the number of all entries."""
        return np.cumsum([0] + [t.rows * t.columns for t in self.tables])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __iter__(self) -> Iterator[Entry]:
        for table in self.tables:
            for cin, cout in table.entries():
                yield table, cin, cout

    def __getitem__(self, number: int) -> Entry:
        if not 0 <= number < len(self):
            raise IndexError(number)
        which = int(self.table_of(np.asarray(number)))
        return (self.tables[which], *self.tables[which].entry(number - int(self.starts[which])))

    def table_of(self, numbers: np.ndarray) -> np.ndarray:
        """For each of these entries, the index of its table in ``tables``."""
        return np.searchsorted(self.starts, numbers, side="right") - 1

    def number(self, key: str, cin: int, cout: int) -> int:
        """The number of an entry. Raises KeyError where there is none."""
        for table, start in zip(self.tables, self.starts):
            if table.key == key:
                row, column = table.index(cin, cout)
                number = row * table.columns + column
                if table.entry(number) == (cin, cout):
                    return int(start) + number
        raise KeyError(key)

    def where(self, masks: Mapping[str, np.ndarray]) -> np.ndarray:
        """The numbers of the entries at which these arrays, {key: [cin - 1, cout - 1]}, are True."""
        return np.concatenate([start + np.flatnonzero(masks[t.key]) for t, start in zip(self.tables, self.starts)
                               if t.key in masks])

    def arrays(self, seconds: np.ndarray) -> dict[str, np.ndarray]:
        """Seconds by number, [entries], as a table: {key: [cin - 1, cout - 1]}."""
        return {t.key: seconds[a:b].reshape(t.shape).copy()
                for t, a, b in zip(self.tables, self.starts[:-1], self.starts[1:])}


def probe_entry(network: Network) -> Entry:
    """The entry that shows whether the machine is as fast as usual: of the largest table, up to PROBE_WIDTH wide.

    It is wide because other programs slow whole networks by taking their caches, and the probe has to show that.
    """
    table = max(network.tables.values(), key=lambda t: t.rows * t.columns)
    row, column = min(table.rows, PROBE_WIDTH) - 1, min(table.columns, PROBE_WIDTH) - 1
    return (table, *table.entry(row * table.columns + column))
