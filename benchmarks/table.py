"""How good the tables of few entries are, and what they cost: for every network a table, judged on random networks.

    python benchmarks/table.py --nets networks/a.json networks/b.json [--minutes=3] [--folder=FOLDER] [--json]

For each network, the script builds a table as users do (compute_table.py --mode=build --sample), then validates it on
random whole networks of a seed that the build does not use. It prints the time, the entries, the memory of the largest
process, the errors, and the floor: by how much two measurements of the same networks differ.

The last columns project the build onto a slower board: what the first two rounds and the fewest networks take, with
every run --board_runs times as long and everything else --board_python times. Tables stay in --folder; a network that
has a table and a validation there is not measured again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from utils.common import cli, journal
from utils.common.errors import UserError
from utils.common.files import writable_folder, write_whole
from utils.common.provenance import made_by
from utils.latency.few import VISITS
from utils.latency.rounds import FEWEST_NETWORKS
from utils.latency.table_files import read_arrays, read_note, table_path

BAR_MEAN, BAR_MAX, OF_FLOOR = 0.02, 0.06, 1.5  # errors that a table may have, or so many times the floor


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--nets", nargs="+", required=True, help="networks, as --net of compute_table.py")
    parser.add_argument("--net_flags", default="", help="further flags of each, such as '--depth=40 --width=2'")
    parser.add_argument("--minutes", type=cli.within(float, 0.01, 1e4), default=3.0, help="for a build")
    parser.add_argument("--num_networks", type=cli.within(int, 2, 1000), default=30, help="that judge a table")
    parser.add_argument("--seed", type=cli.within(int, 1, 2 ** 32 - 1), default=101, help="of these networks")
    parser.add_argument("--patience", type=cli.within(float, 0, 1e6), default=30.0,
                        help="of --mode=validate, seconds")
    parser.add_argument("--board_runs", type=cli.within(float, 0.01, 1e4), default=25.0,
                        help="how many times as long a run takes on the board")
    parser.add_argument("--board_python", type=cli.within(float, 0.01, 1e4), default=6.0,
                        help="how many times as long Python takes there")
    parser.add_argument("--folder", default="benchmark_tables", help="where the tables are kept")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


@dataclass(frozen=True)
class Asked:
    """What is measured, how, and the board that it is projected to."""

    minutes: float
    num_networks: int
    seed: int
    patience: float
    board_runs: float
    board_python: float
    net_flags: tuple[str, ...]


def compute_table(folder: Path, *flags: str) -> tuple[str, float, float]:
    """What the script prints; its seconds; the MB of the largest of its processes. Raises UserError where it fails."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(ROOT / "compute_table.py"), *flags], cwd=folder,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"compute_table.py {' '.join(flags)}: exit code {process.returncode}; its last line says why")
    return printed, time.perf_counter() - began, usage.ru_maxrss / 1024


def measured(asked: Asked, net: str, folder: Path) -> dict[str, Any]:
    """Build and validate the table of a network, or read what an earlier run of this benchmark found."""
    name = Path(net).stem
    kept = folder / f"{name}.benchmark.json"
    which = [f"--net={Path(net).resolve() if Path(net).exists() else net}", *asked.net_flags]
    how = {"network": which, "minutes": asked.minutes, "num_networks": asked.num_networks, "seed": asked.seed}
    if kept.exists():
        found = json.loads(kept.read_text())
        if found.get("how") != how:
            raise UserError(f"{kept}: of {found.get('how')}, expected {how}; choose another --folder, or remove it")
        return found
    (folder / "perf_tables" / f"{name}.journal").unlink(missing_ok=True)  # of a build that was interrupted
    _, build_s, build_mb = compute_table(folder, "--mode=build", "--sample", f"--minutes={asked.minutes}",
                                         f"--save_file={name}", *which)
    found, _, validate_mb = compute_table(folder, "--mode=validate", f"--perf_table={name}", "--json",
                                          f"--num_networks={asked.num_networks}", f"--seed={asked.seed}",
                                          f"--patience={asked.patience}", *which)
    judged = json.loads(found)
    result = {"made_by": made_by(), "how": how, "build_s": build_s, "peak_mb": max(build_mb, validate_mb),
              **{k: judged[k] for k in ("mean_abs_error", "max_abs_error", "floor", "unsettled_networks",
                                        "uncorrected")}}
    write_whole(kept, json.dumps(result, indent=1).encode())
    return result


def of_files(path: Path, asked: Asked, build_s: float) -> dict[str, Any]:
    """What the table's files tell."""
    began = time.perf_counter()
    arrays = read_arrays(path)
    read_s, note = time.perf_counter() - began, read_note(path)
    sampling = note["sampling"]
    return {"operators": len(arrays), "entries": sum(a.size for a in arrays.values()), "read_s": read_s,
            "file_mb": path.stat().st_size / 1e6, "device": note["device"], "runtime": note.get("runtime"),
            **{k: sampling[k] for k in ("measured", "rounds", "networks", "stopped_by", "expected_error")},
            "correction": note.get("correction"), "board_minutes": projected(path, note, asked, build_s)}


def projected(path: Path, note: dict[str, Any], asked: Asked, build_s: float) -> float:
    """Minutes of the first two rounds and of the fewest networks, on a board that nothing disturbs."""
    _, records = journal.read(path.with_suffix(".journal")) or ({}, [])
    chosen = [r for r in records if isinstance(r, dict) and "round" in r][:2]
    labels = {(key, cin, cout) for r in chosen for key, found in r["entries"].items() for cin, cout in found}
    networks = {("network", number, 0) for number in range(FEWEST_NETWORKS)}
    in_runs = {tuple(r[:3]): _in_runs_s(r) for r in records
               if isinstance(r, list) and tuple(r[:3]) in labels | networks}
    python_s = python_of_visits_s(records)
    between = sum(python_s[label in networks] for label in in_runs)
    once_s = build_s - note["elapsed_s"]  # to start, to fit and to write files
    return (2 * VISITS * (asked.board_runs * sum(in_runs.values()) + asked.board_python * between)
            + asked.board_python * once_s) / 60


def _in_runs_s(visit: list[Any]) -> float:
    """One run warms up."""
    return float(np.mean(visit[3])) * (len(visit[3]) + 1)


def python_of_visits_s(records: list[Any]) -> tuple[float, float]:
    """What a visit takes beside its runs: of an entry, and of a whole network, which is written anew.

    By least squares from the blocks between two probes. Blocks without visits, in which a session waits for a quiet
    machine, do not count.
    """
    blocks, began_s, block = [], 0.0, np.zeros(3)
    for record in records:
        if isinstance(record, list):
            is_network = record[0] == "network"
            block += (-_in_runs_s(record), not is_network, is_network)
        elif isinstance(record, dict) and "probe" in record:
            if block[1:].any() and record["at_s"] >= began_s:  # else a new session began
                blocks.append(block + (record["at_s"] - began_s, 0, 0))
            began_s, block = record["at_s"], np.zeros(3)
    seconds, *visits = np.array(blocks).T
    found = np.linalg.lstsq(np.stack(visits, 1), seconds, rcond=None)[0]
    return max(float(found[0]), 0.0), max(float(found[1]), 0.0)


def words(name: str, found: dict[str, Any]) -> str:
    floor, mean, most = found["floor"], found["mean_abs_error"], found["max_abs_error"]
    good = (mean <= max(BAR_MEAN, OF_FLOOR * floor["mean_abs_error"])
            and most <= max(BAR_MAX, OF_FLOOR * floor["max_abs_error"]))
    expected = "     -" if found["expected_error"] is None else f"{found['expected_error']:6.2%}"
    return (f"{name:22} {found['measured']:6,} of {found['entries']:11,}  {found['build_s']:5.0f} s  "
            f"{found['peak_mb']:5.0f} MB  {mean:6.2%} {most:6.2%}   {floor['mean_abs_error']:6.2%} "
            f"{floor['max_abs_error']:6.2%}  {'within' if good else 'beyond':6}  "
            f"{found['uncorrected']['mean_abs_error']:6.1%}  {expected}  {found['stopped_by']:9}  "
            f"{found['file_mb']:5.2f} MB {found['read_s']:5.2f} s  {found['board_minutes']:5.1f} min")


def main() -> None:
    args = get_parser().parse_args()
    folder, results = writable_folder(args.folder), {}
    asked = Asked(args.minutes, args.num_networks, args.seed, args.patience, args.board_runs, args.board_python,
                  tuple(args.net_flags.split()))
    for net in args.nets:
        name = Path(net).stem
        found = measured(asked, net, folder)
        results[name] = {**found, **of_files(folder / "perf_tables" / table_path(name).name, asked, found["build_s"])}
        print(words(name, results[name]), file=sys.stderr, flush=True)
    if args.json:
        print(json.dumps({"made_by": made_by(), "networks": results}, indent=1))
        return
    print("network                 measured of     entries    time   memory    mean    max   floor: mean    max   bars "
          "   plain  expected  ended       file        read   on the board")
    print("\n".join(words(name, found) for name, found in results.items()))


if __name__ == "__main__":
    cli.run(main, resumable=False)
