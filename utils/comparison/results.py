"""The results of a comparison: write them as a CSV line per network, read such files, and average over seeds.

The columns are those of published results on a Raspberry Pi, and some more. Errors are in %, latencies in seconds. An
unknown figure is NaN or empty.
"""

import csv
import io
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Optional

from utils.common.checksum import checked, keeps_edits, note_without
from utils.common.errors import UserError
from utils.common.provenance import check_format
from utils.latency import model_timing
from utils.latency.note import COMPARED

FORMAT = 1  # of a comparison's journal
NAN = float("nan")


@dataclass(frozen=True)
class Row:
    """One network of a comparison."""

    file_name: str
    method: str
    criterion: str = ""  # further settings of the method, such as the scores of channels
    network: str = ""  # the network that was pruned; for the grid, the one that was trained
    seed: str = ""
    pruning_fact: float = NAN  # part of the latency to remove
    no_fine_tune: float = NAN  # test error, %, after the search and before any retraining
    retrain_scratch: float = NAN  # test error, %, retrained from scratch
    table_time: float = NAN  # predicted latency, s
    measured_time: float = NAN  # s
    parameters: float = NAN
    macs: float = NAN
    file_bytes: float = NAN  # of the .tflite file
    made_by: str = ""  # the version of this project that made the network

    @property
    def latency_s(self) -> float:
        """The measured latency, or the predicted one if none was measured."""
        return self.table_time if math.isnan(self.measured_time) else self.measured_time


def from_record(record: Any) -> Row:
    """The inverse of ``asdict(row)``. Raises ValueError for anything else."""
    names = {f.name for f in fields(Row)}
    if not isinstance(record, dict) or not {"file_name", "method"} <= set(record) <= names:
        raise ValueError("expected the columns of a network")
    for name, value in record.items():
        if not isinstance(value, str if name in TEXTS else (int, float)) or isinstance(value, bool):
            raise ValueError(f"{name}: {value!r}")
    return Row(**record)


TEXTS = ("file_name", "method", "criterion", "network", "seed", "made_by")
CRC = "crc32"  # a column: the checksum of the rest of the line; files of older versions lack it
GAP = 1.03  # latencies that differ by less belong to one target, where the file tells none


def to_csv(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(f.name for f in fields(Row)), CRC])
    for row in rows:
        line = {k: v if isinstance(v, str) else "NaN" if math.isnan(v) else f"{v:.6g}" if v != int(v) else f"{int(v)}"
                for k, v in asdict(row).items()}
        writer.writerow([*line.values(), _crc(line)])
    return text.getvalue()


def _crc(line: Mapping[Any, Any]) -> str:
    """Of a line's values and the names of their columns, in whatever order these stand."""
    return f"{zlib.crc32(json.dumps(sorted(map(str, line.items()))).encode()):08x}"


def read_csv(path: Path) -> list[Row]:
    """The networks of a CSV file; columns may be missing, others are ignored. Raises UserError naming file and line."""
    try:
        reader = csv.DictReader(io.StringIO(Path(path).read_text(encoding="utf-8-sig")))
        lines = [(reader.line_num, line) for line in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV file ({error})") from error
    columns = set(lines[0][1]) if lines else set()
    if not {"method", "retrain_scratch"} <= columns or not {"measured_time", "table_time"} & columns:
        raise UserError(f"{path}: expected the columns method, retrain_scratch and measured_time (or table_time), as "
                        "compare.py writes them")
    rows = [_row(path, number, line) for number, line in lines]
    if CRC not in columns:
        note_without(path)
    if not drawable(rows):
        raise UserError(f"{path}: no line in it has a latency and an error of a retrained network")
    return rows


def _row(path: Path, number: int, line: dict[Optional[str], Optional[str]]) -> Row:
    values, crc = {}, line.get(CRC)
    if CRC in line and crc != _crc({k: v for k, v in line.items() if k != CRC}):
        raise UserError(f"{path}: line {number}: damaged or edited, it does not match its {CRC}; restore the file, or "
                        f"delete the column {CRC} to read it as it is")
    for f in fields(Row):
        text = (line.get(f.name) or "").strip()
        if f.name in TEXTS:
            values[f.name] = "" if text == "NaN" else text
            continue
        try:
            values[f.name] = float(text or "nan")
        except ValueError:
            raise UserError(f"{path}: line {number}: {f.name}: expected a number, found {text!r}") from None
    return Row(**values)


def read_measured(path: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Read what ``compute_table.py --mode=measure --model ... --json`` printed: (how it was measured, under a note's
    keys; {network: seconds on the device}). Raises UserError naming the file."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        check_format(path, content, model_timing.FORMAT)
        content = checked(path, content, keeps_edits("copy it anew"))
        models = content["models"] if "models" in content else {content["model"]: content}  # several, or one
        found = {Path(name).stem: model["measured_s"] for name, model in models.items()}
        if not all(isinstance(s, (int, float)) and 0 < s < math.inf for s in found.values()):
            raise ValueError("a measured_s that is no time")
        return {key: content[key] for key in COMPARED if key in content}, found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: expected what `compute_table.py --mode=measure --model exported/*.tflite --json` "
                        f"prints on the device, found {type(error).__name__}: {error}; copy it anew, or remove "
                        "it") from error


def drawable(rows: Iterable[Row]) -> list[Row]:
    return [r for r in rows if 0 < r.latency_s < math.inf and math.isfinite(r.retrain_scratch)]


@dataclass(frozen=True)
class Point:
    """Networks of one method that differ by seed alone."""

    label: str
    latency_s: float  # means: as measured, or else predicted
    error_pct: float
    deviation: float  # of the errors, %; NaN of a single network
    count: int
    table_s: float
    measured_s: float
    file_bytes: float
    network: str = ""  # "" where they are of several


def points(rows: Iterable[Row]) -> list[Point]:
    """Means over the seeds, fastest first."""
    known, unknown = {}, {}
    for row in drawable(rows):
        if math.isnan(row.pruning_fact):
            unknown.setdefault(label(row), []).append(row)
        else:
            known.setdefault((label(row), row.pruning_fact, row.network), []).append(row)
    groups = [*known.values(), *(part for one in unknown.values() for part in _alike(one))]
    return sorted(map(_point, groups), key=lambda p: p.latency_s)


def label(row: Row) -> str:
    return f"{row.method} {row.criterion}".strip()


def titles(found: Sequence[Point]) -> list[str]:
    """Every point's label, with its network if the label has points of several networks, as the grid does."""
    networks: dict[str, set[str]] = {}
    for point in found:
        networks.setdefault(point.label, set()).add(point.network)
    return [f"{p.label} {p.network}".strip() if len(networks[p.label]) > 1 else p.label for p in found]


def front(found: Sequence[Point]) -> list[Point]:
    """The Pareto front, fastest first: no other point is as fast and has less error."""
    best, kept = math.inf, []
    for point in sorted(found, key=lambda p: (p.latency_s, p.error_pct)):
        if point.error_pct < best:
            best = point.error_pct
            kept.append(point)
    return kept


def _alike(rows: Sequence[Row]) -> list[list[Row]]:
    """Group networks without a known target: those of about the same latency belong together."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda r: r.latency_s):
        if groups and row.latency_s <= GAP * groups[-1][-1].latency_s:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _point(rows: Sequence[Row]) -> Point:
    errors = [r.retrain_scratch for r in rows]
    return Point(label(rows[0]), mean(r.latency_s for r in rows), mean(errors), stdev(errors) if len(rows) > 1 else NAN,
                 len(rows), mean(r.table_time for r in rows), mean(r.measured_time for r in rows),
                 mean(r.file_bytes for r in rows), rows[0].network if len({r.network for r in rows}) == 1 else "")
