"""A comparison from beginning to end: begin or resume it, make every network once, measure all together."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Callable, Optional

from joblib import cpu_count

from utils.common import cli, journal, resume
from utils.common.channels import write_channels
from utils.common.checksum import signed_json
from utils.common.errors import UserError
from utils.common.figure import beside_a_result
from utils.common.files import writable_folder, write_whole
from utils.common.fingerprint import sha256_of
from utils.common.provenance import stamp
from utils.comparison import grid, make, results
from utils.comparison.plan import Base, Task, exported, row_for
from utils.comparison.plots import plot_comparison
from utils.comparison.results import Row
from utils.comparison.settings import Comparison
from utils.latency import tables
from utils.learning import checkpoint


def open_base(path: Path, table_path: Path, grid_table: Optional[str]) -> Base:
    """Load the base network and its table. grid_table: the name of the table of a wider network, if there is one."""
    content = checkpoint.load(path)
    model = checkpoint.build(content, path)
    network, table = model.network, tables.read_table(table_path, model.network)
    wider = grid.open_table(grid_table, network) if grid_table else (network, table)
    return Base(content, path, table_path, network, model.widths, table, *wider)


def compare(asked: Comparison, folder: Path, base: Base, tasks: Mapping[str, Task],
            check: Callable[[Path], object], *, going_on: bool) -> tuple[dict[str, Row], list[str]]:
    """Make the networks that are still missing, then measure all together. The results are written after each network.

    check: raises UserError where an exported file is damaged. Returns {name: row} of the finished networks, and the
    errors of the others.
    """
    path = folder / "journal.jsonl"
    if (folder / make.MEASURED).exists():
        results.read_measured(folder / make.MEASURED)  # its errors are reported before hours of work
    asked, rows = _begin_or_go_on(asked, path, base, going_on=going_on)
    for name in ("logs", "exported", "nbr_channels"):
        writable_folder(folder / name)
    description = base.network.arguments.get("description")
    if description:
        write_whole(writable_folder(folder / cli.NETWORKS) / f"{base.network.short_name}.json",
                    signed_json(description))
    write_channels(folder / "nbr_channels/base.pickle", base.network, base.widths)
    todo = {name: task for name, task in tasks.items() if not _finished(asked, folder, row_for(task, rows))}
    print(f"{folder}: {len(tasks)} networks, {len(todo)} to be made", flush=True)
    failed: list[str] = []
    with journal.Journal(path) as log:
        for row, problem in make.make_networks(asked, base, folder, todo):
            if row is None:
                failed.append(problem)
                continue
            rows[row.file_name] = row
            log.append(asdict(row))
            log.sync()
            write_results(folder, rows.values())
        for row in make.measured(asked, folder, base, rows, check) if asked.measured else ():
            rows[row.file_name] = row
            log.append(asdict(row))
    if rows:
        write_results(folder, rows.values())  # also where a kill came between a network's line and its picture
    return rows, failed


def write_results(folder: Path, rows: Iterable[Row]) -> None:
    rows = sorted(rows, key=lambda r: (r.method, r.criterion, r.pruning_fact, r.network, r.seed))
    write_whole(folder / f"{folder.name}.csv", results.to_csv(rows))
    if results.drawable(rows):
        picture = folder / f"{folder.name}.png"
        with beside_a_result(picture):
            plot_comparison(picture, rows, folder.name)


def _finished(asked: Comparison, folder: Path, row: Optional[Row]) -> bool:
    """Whether a network is trained, and, where it is to be measured, was or can be."""
    return row is not None and (not asked.measured or not math.isnan(row.measured_time)
                                or (folder / exported(row.file_name)).exists())


def _begin_or_go_on(asked: Comparison, path: Path, base: Base, *,
                    going_on: bool) -> tuple[Comparison, dict[str, Row]]:
    """The comparison with its threads and precision, and {name: row} of all finished networks, of earlier commands too.

    Raises UserError rather than mix two comparisons.
    """
    found = journal.read(path)
    if found and not found[1] and not _any_begun(path.parent):
        found = None  # nothing that could be mixed up
    cores = max(cpu_count() // asked.jobs, 1)
    began = found[0] if found else {}
    asked = replace(asked, threads=asked.threads or began.get("threads") or cores,
                    precision=began.get("precision") or (_precision_in(path.parent) if found else asked.precision))
    header = _header(asked, base)
    if found is None:
        journal.begin(path, header)
        return asked, {}
    nothing_finished = "" if found[1] else f", or remove {path.parent}: no network in it is finished"
    resume.begun(path, header, resume=going_on or not found[1], at_stake=lambda records: "a comparison of that name",
                 over_again="choose another --save_file", differing=f"choose another --save_file{nothing_finished}",
                 untold=("precision",))
    rows = {}
    for number, record in enumerate(found[1], 2):  # of one network the last line counts
        try:
            row = results.from_record(record)
        except ValueError as error:
            raise UserError(f"{path}: line {number}: no network of a comparison ({error}); choose another "
                            "--save_file") from None
        rows[row.file_name] = row
    return asked, rows


def _precision_in(folder: Path) -> str:
    """That of a comparison of an older version, which does not tell it: of a network that it has made, else auto."""
    made = (checkpoint.load(path)["flags"].get("precision") for path in sorted(folder.glob("checkpoints/*.t7")))
    return next((precision for precision in made if precision), "auto")


def _any_begun(folder: Path) -> bool:
    return any(f for kind in ("checkpoints/*.t7", "history/*.unfinished.jsonl") for f in folder.glob(kind))


def _header(asked: Comparison, base: Base) -> dict[str, Any]:
    return {**stamp(results.FORMAT), "base_model": base.path.name,
            "base_weights_sha256": checkpoint.weights_sha256(base.content),
            "perf_table": base.table_path.name, "perf_table_sha256": sha256_of(base.table.all()),
            "grid_table_sha256": sha256_of(base.grid_table.all()) if base.grid_table is not base.table else None,
            "dataset": asked.dataset, "images": Path(asked.data_loc).name, "prune_flags": list(asked.prune_flags),
            "train_flags": list(asked.train_flags), "threads": asked.threads, "precision": asked.precision,
            "teacher_weights_sha256": asked.teacher and checkpoint.weights_sha256(checkpoint.load(asked.teacher))}
