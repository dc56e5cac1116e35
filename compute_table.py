"""Build a latency table by timing every kind of layer at every width, and compare its predictions with whole networks.

Most users need only these commands, on the device itself:

    python compute_table.py --mode=check
    python compute_table.py --mode=build --save_file='res-40-2'
    python compute_table.py --mode=validate --perf_table='res-40-2'

These commands time whole models, such as export.py writes. With --perf_table they also print the predicted latency:

    python compute_table.py --mode=measure --model=model.tflite --perf_table='res-40-2'
    python compute_table.py --mode=measure --model exported/*.tflite --json > measured.json     # models of compare.py

The benchmark_model binary can time the layers instead of LiteRT in Python. Make the .tflite files on a desktop with
the first command. Then time them on the device with the second:

    python compute_table.py --mode=save --save_file='res-40-2' --output_folder='tflite_files' --jobs=2
    python compute_table.py --mode=load --save_file='res-40-2' --output_folder='tflite_files' \\
        --benchmark_lite_loc='path/to/benchmark_model'

``build`` and ``load`` write the table perf_tables/SAVE_FILE.pickle and its note SAVE_FILE.json. The note records how
the table was measured. After an interruption, the same command with --resume continues. Only --converter=keras needs
TensorFlow, and nothing needs torch. The script runs on Python 3.9 and newer.
"""

if __name__ == "__main__":
    from utils.common.signals import answer_at_once
    answer_at_once()

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Optional

from utils.common import cli
from utils.common.checksum import signed_json
from utils.common.errors import UserError
from utils.common.figure import beside_a_result
from utils.common.files import save_name, writable_folder
from utils.common.progress import progress
from utils.common.provenance import made_by, stamp
from utils.deploy import on_device
from utils.latency import assembly, board, correction, model_timing, rounds, tables, validation, variants, writing
from utils.latency.note import how_measured, reported_differences, threads_in
from utils.latency.plots import plot_validation
from utils.latency.settings import JUDGING_PASSES, JUDGING_PATIENCE_S, MODEL_PATIENCE_S, PASSES, PATIENCE_S, Pace, Tool
from utils.latency.table_files import read_note, table_path

NEEDED = {"validate": ("perf_table", "res-40-2"), "measure": ("model", "model.tflite"),
          **dict.fromkeys(("build", "save", "load"), ("save_file", "res-40-2"))}  # by --mode: a flag, an example


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    cli.add_network_flags(parser)
    cli.add_size_flag(parser)
    parser.add_argument("--num_classes", type=cli.within(int, 2, 100_000),
                        help="classes of the classifier (default: 10, or the description's)")
    parser.add_argument("--num_images", type=cli.within(int, 1, 4096), default=1, help="images per inference")
    parser.add_argument("--mode", choices=("check", "build", "validate", "measure", "save", "load"), required=True,
                        help="check: look at the board and say what to change before anything is measured; build: "
                             "measure a table with LiteRT; validate: time whole networks and "
                             "compare with a table's predictions; measure: time a .tflite model and compare with a "
                             "table's prediction; save: write .tflite files; load: time them and write the table")
    parser.add_argument("--save_file", help="name of the table, perf_tables/SAVE_FILE.pickle")
    _add_file_flags(parser)
    _add_measuring_flags(parser)
    whole = parser.add_argument_group("--mode=validate and measure")
    whole.add_argument("--perf_table", help="the table to judge, perf_tables/PERF_TABLE.pickle or a path; optional for "
                                            "measure")
    whole.add_argument("--num_networks", type=cli.within(int, 2, 10_000), default=30, help="validate: random networks")
    whole.add_argument("--model", nargs="+",
                       help="measure: the .tflite file; several are timed in turn, in one session")
    whole.add_argument("--channels", help="measure: channels of a model that export.py did not write, "
                                          "nbr_channels/CHANNELS.pickle or a path")
    whole.add_argument("--json", action="store_true", help="print the result as JSON, of check too")
    return parser


def _add_file_flags(parser: argparse.ArgumentParser) -> None:
    save = parser.add_argument_group("--mode=save, and load")
    save.add_argument("--output_folder", default="tflite_files", help="folder of the .tflite files")
    save.add_argument("--num_process", type=cli.within(int, 1, 1_000_000), default=1,
                      help="shells among which the files are split")
    save.add_argument("--offset_process", type=cli.within(int, 0, 1_000_000), default=0,
                      help="this shell's number, from 0")
    save.add_argument("--jobs", type=cli.within(int, 1, 1024), default=1, help="processes of this command")
    save.add_argument("--converter", choices=("direct", "keras"), default="direct",
                      help="direct: write the flatbuffers; keras: TensorFlow's converter, about 0.6 s a file")


def _add_measuring_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("measuring, --mode=build, load, validate and measure")
    group.add_argument("--num_threads", type=cli.within(int, 1, 256), help="threads of the runtime (default: 1; "
                       "validate, measure: the table's)")
    group.add_argument("--num_measures", type=cli.within(int, 1, 1_000_000), default=11,
                       help="least number of timed runs per entry, over all passes; each pass warms up with one more; "
                       "--sample without a value makes two thirds of them")
    group.add_argument("--num_passes", type=cli.within(int, 1, 100), help="passes over all that is timed, each in "
                       "random order "
                       f"(default: {PASSES}; validate, measure: {JUDGING_PASSES})")
    group.add_argument("--spread", type=cli.within(float, 1e-4, 10), default=0.05,
                       help="an entry is measured again if its two lowest visits differ by more, relative")
    group.add_argument("--drift", type=cli.within(float, 1e-4, 10), default=0.05,
                       help="entries are measured again if the probe was slower than usual by more, relative")
    group.add_argument("--patience", type=cli.within(float, 0, 1e6),
                       help=f"seconds to wait, in all, for a machine as fast as usual (default: {PATIENCE_S:g}; "
                            f"validate: {JUDGING_PATIENCE_S:g}; measure: {MODEL_PATIENCE_S:g}); with --sample without "
                            "a value at most 5%% of --minutes")
    group.add_argument("--max_temp", type=cli.within(float, 0, 150),
                       help="pause above it, Celsius (default: 70 on a Raspberry Pi; elsewhere 10 below the sensor's "
                            "critical value, if it tells one)")
    group.add_argument("--sample", type=cli.fraction, nargs="?", const=True,
                       help="measure this part of the entries and fill in the rest; without a value, which entries and "
                            "how many is found out while measuring (build alone)")
    group.add_argument("--max_error", type=cli.within(float, 1e-4, 1), default=0.02,
                       help="--sample without a value: measuring ends when whole networks are predicted so well, mean "
                            "relative error")
    group.add_argument("--minutes", type=cli.within(float, 0.01, 1e5), default=10.0,
                       help="--sample without a value: measuring ends after so long, at most")
    group.add_argument("--reuse", nargs="+", default=[], metavar="TABLE",
                       help="--sample without a value: tables of this device whose entries need not be measured again")
    group.add_argument("--multiple_of", type=cli.within(int, 1, 4096), default=1,
                       help="--sample without a value, validate: networks get only widths that are multiples of it, as "
                            "with prune.py --multiple_of")
    group.add_argument("--calibrate", type=cli.within(int, 0, 10_000), default=correction.NETWORKS,
                       help="whole networks that the correction of sums is fitted on; 0: no correction")
    group.add_argument("--benchmark_lite_loc", help="benchmark_model binary, for check, load, validate and measure "
                                                    "(default: LiteRT in Python)")
    group.add_argument("--timeout", type=cli.within(float, 1e-3, 1e6), default=120.0,
                       help="seconds that the binary may take for one file")
    group.add_argument("--seed", type=cli.within(int, 0, 2 ** 32 - 1), default=0,
                       help="seed of the order, the sample and the random networks")
    group.add_argument("--resume", action="store_true", help="go on after an interruption")


def main() -> None:
    args = get_parser().parse_args()
    needed, example = NEEDED.get(args.mode, ("mode", ""))
    if not getattr(args, needed):
        raise UserError(f"--{needed} is missing: --mode={args.mode} needs it, such as --{needed}={example}")
    tool = Tool(args.benchmark_lite_loc, args.num_threads, args.timeout)
    max_temp_c = board.default_max_temp_c() if args.max_temp is None else args.max_temp
    pace = Pace(args.num_measures, args.num_passes, args.spread, args.drift, args.patience, max_temp_c, args.seed)
    table = table_path(args.perf_table) if args.perf_table else None
    cli.note_shadowed(args.net)
    sizes = {k: getattr(args, k) for k in ("net", "depth", "width", "img_size", "num_classes")}
    if args.mode == "measure":  # the model says which network it is
        network = cli.describe_or_fail(**sizes) if args.channels else None
        about = {path: on_device.describe_model(path, network, args.channels, needed=table is not None)
                 for path in map(Path, args.model)}
        measure_models(about, table, tool, pace, as_json=args.json)
        return
    network = cli.describe_or_fail(**sizes)
    chosen = args.sample is True
    if args.reuse and not chosen:
        raise UserError("--reuse: only --sample without a value can leave entries out that other tables have")
    if args.multiple_of > 1 and not chosen and args.mode != "validate":
        raise UserError(f"--multiple_of={args.multiple_of}: only --sample without a value leaves other widths out, and "
                        "--mode=validate; add --sample, or leave it out")
    sample = rounds.Goal(args.max_error, args.minutes) if chosen else args.sample
    asked = assembly.Measuring(network, args.num_images, sample, args.calibrate, pace,
                               tuple(map(table_path, args.reuse)), args.multiple_of)
    if args.mode == "save":
        if args.offset_process >= args.num_process:
            raise UserError(f"--offset_process={args.offset_process}: expected 0 to {args.num_process - 1}, the number "
                            "of this shell among --num_process")
        write_files(asked, writable_folder(args.output_folder), args.converter, args.offset_process, args.num_process,
                    args.jobs)
    elif args.mode == "check":
        check_board(asked, tool, as_json=args.json)
    elif args.mode == "build":
        if args.benchmark_lite_loc:
            raise UserError("--mode=build measures with LiteRT in this process; to use --benchmark_lite_loc, make "
                            "files with --mode=save and time them with --mode=load")
        assembly.build_table(asked, tool, save_name(args.save_file), going_on=args.resume)
    elif args.mode == "load":
        assembly.load_table(asked, tool, save_name(args.save_file), Path(args.output_folder), going_on=args.resume)
    elif table:
        validate_table(asked, table, args.num_networks, tool, as_json=args.json)


def write_files(asked: assembly.Measuring, folder: Path, converter: str, offset: int, shells: int,
                jobs: int) -> None:
    """Write every ``shells``-th file from number ``offset`` on, and print a summary."""
    network, began = asked.network, time.monotonic()
    wanted = assembly.wanted_entries(asked)[0]
    share = wanted[offset::shells]
    chunks = -(-len(share) // variants.CHUNK)
    work = variants.write_share(folder, network, num_images=asked.num_images, converter=converter, wanted=share,
                                jobs=jobs, share=(offset + 1, shells))
    written, whole = 0, 0
    for new, old in progress(work, f"writing, {variants.CHUNK} files at a time", chunks):
        written, whole = written + new, whole + old
    print(f"{folder}: {written:,} files written, {whole:,} were whole already, in {time.monotonic() - began:.0f} s "
          f"(share {offset + 1} of {shells}, of {len(wanted):,} files in all)")


def check_board(asked: assembly.Measuring, tool: Tool, *, as_json: bool) -> None:
    """Print what this machine is like, and what to change before a table is measured on it."""
    found = assembly.check_board(asked, tool)
    print(json.dumps({"made_by": made_by(), **found.as_json()}, indent=1) if as_json else "\n".join(found.lines()))
    if found.trouble:
        raise UserError(found.trouble)


def validate_table(asked: assembly.Measuring, table: Path, num_networks: int, tool: Tool, *, as_json: bool) -> None:
    """Time random whole networks, print the table's predictions beside them, and draw a picture."""
    network = asked.network
    tool.runner().describe()  # fails at once without a runtime
    writing.needed_writer()
    arrays, note = tables.read_measured(table, network)
    runner = tool.runner(threads_in(note))
    otherwise = reported_differences(table, note, how_measured(runner, asked.num_images))
    networks = correction.judging_networks(network, num_networks, asked.pace.seed, asked.multiple_of)
    found = validation.validate(network, arrays, note, networks, runner, asked.pace.of_networks(JUDGING_PATIENCE_S),
                                num_images=asked.num_images, same_machine=not otherwise)
    if as_json:
        print(json.dumps({"made_by": made_by(), **found.as_json()}, indent=1, allow_nan=False))
    else:
        print("\n".join(found.lines()))
    picture = table.with_name(f"{table.stem}-validation.png")
    with beside_a_result(picture):
        plot_validation(picture, found.predicted_s.tolist(), found.measured_s.tolist(),
                        title=f"{table.stem}: {num_networks} random networks, seed {asked.pace.seed}")
        print(f"{picture}: predicted against measured", file=sys.stderr)


def measure_models(about: on_device.Descriptions, table: Optional[Path], tool: Tool, pace: Pace, *,
                   as_json: bool) -> None:
    """Time one model, or several in one session, and print the table's predictions for those it fits."""
    runner, care = tool.runner(threads_in(read_note(table)) if table else 1), pace.of_networks(MODEL_PATIENCE_S)
    now = how_measured(runner)
    about_file = {**stamp(model_timing.FORMAT), **now}
    tool_words = f"{runner.num_threads} thread(s) of {now['runtime']}"
    if len(about) == 1:
        (path, what), = about.items()
        timing = on_device.measure_one(path, what, table, runner, care, now)
        if as_json:
            print(signed_json({"model": str(path), **about_file, **timing.as_json()}), end="")
        else:
            print("\n".join([f"{path}: {on_device.in_words(what)}, {tool_words}", *timing.lines()]))
        return
    found = on_device.measure_several(about, table, runner, care, now)
    if as_json:
        print(signed_json({**about_file, **found.as_json()}), end="")
    else:
        print(f"{len(found.seconds)} models, {tool_words}")
        for path, seconds in found.seconds.items():
            expected = found.predicted_s.get(path)
            predicted = f"   predicted {expected * 1e3:.4f} ms ({expected / seconds - 1:+.1%})" if expected else ""
            print(f"measured {seconds * 1e3:.4f} ms{predicted}   {path}: {on_device.in_words(about[path])}")
        if found.ratio:
            print(model_timing.about_probe(found.ratio))
    if found.failed:
        raise UserError(f"{len(found.failed)} of {len(about)} models failed: {'; '.join(found.failed.values())}")


if __name__ == "__main__":
    cli.run(main, resumable=not {"check", "validate", "measure"} & {a.removeprefix("--mode=") for a in sys.argv})
