"""Merge several measurements of one network: tables entry by entry, notes where they agree.
Only smoothing needs SciPy."""

import sys
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from utils.common.errors import UserError
from utils.latency.large import Operator, Operators, refitted
from utils.latency.note import COMPARED, Note, correction_in, network_in, probe_in, reported_differences, stamped
from utils.latency.references import noted_of, references_in
from utils.latency.table_files import LatencyTable

MOST_APART = 100.0  # the factor between two boards' tables of one network


def merged_table(tables: Sequence[LatencyTable], names: Sequence[str], *, how: str = "mean", sigma: float = 0.0,
          mode: str = "nearest") -> dict[str, np.ndarray]:
    """One table out of several measurements of one network: entry by entry ``mean`` or ``median``.

    sigma: width of an optional Gaussian smoothing, in channels (``mode`` is SciPy's rule at the edges). Smoothing
    erases real latency steps, so 0 is the default. names: of the tables, for messages. Raises UserError if the tables
    differ in keys or shapes.
    """
    shapes = [{k: v.shape for k, v in t.items()} for t in tables]
    for name, shape in zip(names, shapes):
        if shape != shapes[0]:
            key = sorted(k for k in set(shape) | set(shapes[0]) if shape.get(k) != shapes[0].get(k))[0]
            raise UserError(f"{name}: does not match {names[0]}: {key} is {shape.get(key, 'missing')} there and "
                            f"{shapes[0].get(key, 'missing')} in the first; merge measurements of one network only")
    _warn_of_units([sum(float(array.sum()) for array in table.values()) for table in tables], names)
    combine = {"mean": np.mean, "median": np.median}[how]
    merged = {k: combine([t[k] for t in tables], axis=0) for k in tables[0]}
    if sigma > 0:
        from scipy.ndimage import gaussian_filter
        merged = {k: gaussian_filter(v, [sigma if n > 1 else 0 for n in v.shape], mode=mode)
                  for k, v in merged.items()}
    return merged


def merged_sampled(tables: Sequence[LatencyTable], measured: Sequence[Mapping[str, np.ndarray]],
                   names: Sequence[str], *, how: str = "mean") -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same for arrays in which only some entries were measured, which is said on stderr. An entry that only some
    tables have measured is theirs, at the level of the others, as in ``merged_large``.

    measured: by table, where it has measured, {key: True or False by entry}.

    Returns the table and where any of them has measured. Raises UserError as ``merged_table`` does.
    """
    merged, either, counts = merged_table(tables, names, how=how), {}, np.zeros(3, int)
    for key, level in merged.items():
        each, here = np.array([table[key] for table in tables]), np.array([of_table[key] for of_table in measured])
        shared, either[key] = here.all(axis=0), here.any(axis=0)
        if shared.any():
            each = np.array([one * np.median(level[shared] / one[shared]) for one in each])
        some = either[key] & ~shared
        level[some] = {"mean": np.nanmean, "median": np.nanmedian}[how](np.where(here, each, np.nan)[:, some], axis=0)
        counts += shared.sum(), some.sum(), (~either[key]).sum()
    print(f"{counts[0]:,} entries are measured in all tables: their {how}; {counts[1]:,} in some: kept, at the level "
          f"of the rest; {counts[2]:,} in none: the {how} of the estimates", file=sys.stderr)
    return merged, either


def merged_large(tables: Sequence[Operators], names: Sequence[str], *, how: str = "mean") -> dict[str, Operator]:
    """The same for tables of few entries, which is said on stderr: what all have measured is combined, as above. What
    only some have is kept, at the level of the others: brought there by the median ratio of what all have.

    Raises UserError if the tables differ in operators or widths, or an operator has no entry that all have.
    """
    combine, both, some, merged = {"mean": np.mean, "median": np.median}[how], 0, 0, {}
    totals = np.zeros(len(tables))
    for name, table in zip(names, tables):
        for key in sorted(set(table) ^ set(tables[0])):
            raise UserError(f"{name}: does not match {names[0]}: only one of them has {key}; merge measurements of one "
                            "network only")
    for key, first in tables[0].items():
        each = [table[key] for table in tables]
        for name, one in zip(names, each):
            if not np.array_equal(one.cin, first.cin) or not np.array_equal(one.cout, first.cout):
                raise UserError(f"{name}: does not match {names[0]}: {key} has other widths there; merge measurements "
                                "of one network only")
        shared = reduce(np.intersect1d, [one.numbers for one in each])
        if not len(shared):
            raise UserError(f"{names[-1]}: {key}: no entry of it is measured in all tables; measure them with the same "
                            "--seed")
        level = combine([_of(one, shared) for one in each], axis=0)
        totals += [_of(one, shared).sum() for one in each]
        numbers = reduce(np.union1d, [one.numbers for one in each])
        found = np.full((len(each), len(numbers)), np.nan)
        for row, one in zip(found, each):
            row[np.searchsorted(numbers, one.numbers)] = one.seconds * np.median(level / _of(one, shared))
        seconds = {"mean": np.nanmean, "median": np.nanmedian}[how](found, axis=0)
        seconds[np.searchsorted(numbers, shared)] = level
        merged[key] = refitted(next((one for one in each if one.fit), first), numbers, seconds)
        both, some = both + len(shared), some + len(numbers) - len(shared)
    _warn_of_units(totals.tolist(), names)
    print(f"{both:,} entries are measured in all tables: their {how}; {some:,} in some: kept, at the level of the rest",
          file=sys.stderr)
    return merged


def _warn_of_units(totals: Sequence[float], names: Sequence[str]) -> None:
    """totals: seconds that the same entries sum up to in each table."""
    for name, total in zip(names, totals):
        if max(total / totals[0], totals[0] / total) > MOST_APART:
            print(f"warning: {name}: its entries sum up to {total:.3g} s, those of {names[0]} to {totals[0]:.3g} s. "
                  "Does one of them hold milliseconds? A table holds seconds", file=sys.stderr)


def _of(one: Operator, numbers: np.ndarray) -> np.ndarray:
    return one.seconds[np.searchsorted(one.numbers, numbers)]


def merged_note(notes: Sequence[Note], paths: Sequence[Path], about: dict[str, Any]) -> dict[str, Any]:
    """The note of the merged table; about: how it was merged. Raises UserError where the tables are of different
    networks."""
    same = ("operators", "num_images")
    for key in same:
        for path, note in zip(paths, notes):
            if key in note and note[key] != notes[0].get(key, note[key]):
                raise UserError(f"{path}: its note differs from that of {paths[0]} in {key}; merge measurements of "
                                "one network only")
    for path, note in zip(paths[1:], notes[1:]):
        reported_differences(path, note, notes[0], f"{paths[0]}")
    return stamped({**{key: notes[0][key] for key in same if key in notes[0]},
                    "merged": about, "measurements": list(notes), **_in_common(notes)})


def _in_common(notes: Sequence[Note]) -> dict[str, Any]:
    """The values that all notes share, and the means of their corrections, probes and references, if all have them."""
    first, found = notes[0], {}
    for key in ("network", *(k for k in COMPARED if k != "num_images")):
        if key in first and all(note.get(key) == first[key] for note in notes):
            found[key] = first[key]
    corrections = [c for c in map(correction_in, notes) if c]
    if len(corrections) == len(notes):
        found["correction"] = {"factor": float(np.mean([c.factor for c in corrections])),
                               "overhead_s": float(np.mean([c.overhead_s for c in corrections]))}
        for key in ("weight_s", "cached_weights"):
            if any(getattr(c, key) for c in corrections):
                found["correction"][key] = float(np.mean([getattr(c, key) for c in corrections]))
    elif corrections:
        print("not all tables have a correction in their note, so the merged table has none", file=sys.stderr)
    probes = [s for s in map(probe_in, notes) if s]
    if len(probes) == len(notes):
        found["probe"] = {"usual_s": float(np.mean(probes))}
    network = network_in(found)
    return {**found, **(noted_of([references_in(note, network) for note in notes]) if network else {})}
