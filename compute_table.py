"""Build a latency table, by timing one layer at a time at every width, and hold its predictions to whole networks.

On the device itself, which is all that most people need:

    python compute_table.py --mode=build --save_file='res-40-2'
    python compute_table.py --mode=validate --perf_table='res-40-2'

and a whole model, such as export.py writes, beside what the table predicts for it:

    python compute_table.py --mode=measure --model=model.tflite --perf_table='res-40-2'
    python compute_table.py --mode=measure --model exported/*.tflite --json > measured.json     # those of a comparison

With the benchmark_model binary instead of LiteRT in Python, make the .tflite files on a desktop and time them there:

    python compute_table.py --mode=save --save_file='res-40-2' --output_folder='tflite_files' --jobs=2
    python compute_table.py --mode=load --save_file='res-40-2' --output_folder='tflite_files' \\
        --benchmark_lite_loc='path/to/benchmark_model'

``build`` and ``load`` write perf_tables/SAVE_FILE.pickle and say how it was measured in SAVE_FILE.json. After an
interruption --resume goes on. Nothing here but --converter=keras needs torch or TensorFlow; runs on Python 3.9.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np

from model.network import Network
from utils import (calibration, channels, cli, journal, latency_table, machine, measuring, model_file, outcome, sampling,
                   tflite_files, whole_model)
from utils.benchmark import BinaryRunner, LiteRTRunner, find_binary
from utils.errors import UserError
from utils.files import save_name, writable_folder
from utils.progress import progress
from utils.session import Care

Descriptions = Dict[Path, Optional[model_file.Description]]

# There are few networks to judge a table on, each worth more care, and a wait for a quiet machine.
PASSES, PATIENCE_S = 2, 30.0
JUDGING_PASSES, JUDGING_PATIENCE_S, MODEL_PATIENCE_S = 4, 240.0, 60.0


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__.splitlines()[0])
    cli.add_network_flags(parser)
    parser.add_argument("--img_size", type=cli.within(int, 4, 4096), default=32, help="side of the input, pixels")
    parser.add_argument("--num_classes", type=cli.within(int, 2, 100_000), default=10, help="of the classifier")
    parser.add_argument("--num_images", type=cli.within(int, 1, 4096), default=1, help="images per inference")
    parser.add_argument("--mode", choices=("build", "validate", "measure", "save", "load"), required=True,
                        help="build: measure the table with LiteRT in this process; validate: time whole networks "
                             "beside a table's predictions; measure: time a .tflite model, beside a table's prediction; "
                             "save: make .tflite files; load: time them, write the table")
    parser.add_argument("--save_file", help="name of the table, perf_tables/SAVE_FILE.pickle")
    _add_file_flags(parser)
    _add_measuring_flags(parser)
    whole = parser.add_argument_group("--mode=validate and measure")
    whole.add_argument("--perf_table", help="the table to judge, perf_tables/PERF_TABLE.pickle or a path; measure does "
                                            "without")
    whole.add_argument("--num_networks", type=cli.within(int, 2, 10_000), default=30, help="validate: random networks")
    whole.add_argument("--model", nargs="+", help="measure: the .tflite file; several are timed in turn, in one session")
    whole.add_argument("--channels", help="measure: channels of a model that export.py did not write, "
                                          "nbr_channels/CHANNELS.pickle or a path")
    whole.add_argument("--json", action="store_true", help="print the result as JSON")
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
                       help="timed runs per entry at least, over all passes, each after one to warm up")
    group.add_argument("--num_passes", type=cli.within(int, 1, 100), help="passes over all that is timed, each in "
                       "random order "
                       f"(default: {PASSES}; validate, measure: {JUDGING_PASSES})")
    group.add_argument("--spread", type=cli.within(float, 1e-4, 10), default=0.05,
                       help="an entry whose two best passes differ by more is measured again")
    group.add_argument("--drift", type=cli.within(float, 1e-4, 10), default=0.05,
                       help="what was measured while the probe was slower by more is measured again")
    group.add_argument("--patience", type=cli.within(float, 0, 1e6), help="seconds to wait, in all, for a machine as fast "
                       f"as usual (default: {PATIENCE_S:g}; validate: {JUDGING_PATIENCE_S:g}; measure: {MODEL_PATIENCE_S:g})")
    group.add_argument("--max_temp", type=cli.within(float, 0, 150), default=70.0, help="pause above it, Celsius")
    group.add_argument("--sample", type=cli.fraction, nargs="?", const=0.05,
                       help="measure this part of the entries (0.05 without a value) and fill in the rest")
    group.add_argument("--calibrate", type=cli.within(int, 0, 10_000), default=calibration.NETWORKS,
                       help="whole networks that the table's sums are fitted to; 0: leave them as they are")
    group.add_argument("--benchmark_lite_loc", help="benchmark_model binary, for load, validate and measure; without "
                                                    "it LiteRT in this process")
    group.add_argument("--timeout", type=cli.within(float, 1e-3, 1e6), default=120.0,
                       help="seconds that the binary may take for one file")
    group.add_argument("--seed", type=cli.within(int, 0, 2 ** 32 - 1), default=0,
                       help="of the order, the sample and the random networks")
    group.add_argument("--resume", action="store_true", help="go on after an interruption")


# --- save ------------------------------------------------------------------------------------------------------

def save(args: argparse.Namespace, network: Network) -> None:
    if args.offset_process >= args.num_process:
        raise UserError(f"--offset_process={args.offset_process}: expected 0 to {args.num_process - 1}, the number of "
                        "this shell among --num_process")
    folder = writable_folder(args.output_folder)
    share = slice(args.offset_process, None, args.num_process)
    total = len(range(sum(1 for _ in latency_table.entries(network)))[share])
    chunks, began, written, whole = -(-total // tflite_files.CHUNK), time.monotonic(), 0, 0
    work = tflite_files.save(folder, network, num_images=args.num_images, converter=args.converter, share=share,
                             jobs=args.jobs)
    for new, old in progress(work, f"writing, {tflite_files.CHUNK} files at a time", chunks):
        written, whole = written + new, whole + old
    joins = sum(t.rows for t in network.tables.values() if t.kind == "add")
    print(f"{folder}: {written:,} files written, {whole:,} were whole already, in {time.monotonic() - began:.0f} s "
          f"(share {args.offset_process + 1} of {args.num_process}; the whole network has {joins} joins among its "
          f"{sum(1 for _ in latency_table.entries(network)):,} files)")


# --- build and load --------------------------------------------------------------------------------------------

def build(args: argparse.Namespace, network: Network) -> None:
    if args.benchmark_lite_loc:
        raise UserError("--mode=build measures with LiteRT in this process; to use --benchmark_lite_loc, make files "
                        "with --mode=save and time them with --mode=load")
    _runner(args, 1).describe()  # without a runtime nothing else matters
    tflite_writer = _needed_writer()
    source = measuring.Source(partial(tflite_writer.variant, num_images=args.num_images),
                              partial(_network_file, tflite_writer, args.num_images))
    _measure(args, network, source, {"converter": "direct"})


def load(args: argparse.Namespace, network: Network) -> None:
    folder = Path(args.output_folder)
    manifest = tflite_files.check_manifest(folder, network, args.num_images)
    missing = tflite_files.missing_files(folder, network)
    if missing:
        raise UserError(f"{missing[0]}: missing, as are {len(missing) - 1:,} others; make them with --mode=save "
                        "(every --offset_process)")
    tflite_writer = _writer()
    if args.calibrate and not tflite_writer:
        print("the sums are not fitted to whole networks: writing those needs flatbuffers and LiteRT's schema "
              "(pip install -r requirements-pi.txt)", file=sys.stderr)
        args.calibrate = 0
    source = measuring.Source(partial(tflite_files.file_path, folder),
                              partial(_network_file, tflite_writer, args.num_images))
    _measure(args, network, source, {"converter": manifest.get("converter")})


def _writer():
    """The module that writes models, or None where a package that it needs is missing."""
    try:
        from utils import tflite_writer
        return tflite_writer
    except ImportError:
        return None


def _needed_writer():
    if not _writer():
        raise UserError("writing models needs flatbuffers and LiteRT's schema, which this Python lacks: "
                        "pip install -r requirements-pi.txt on a board, requirements.txt on a desktop")
    return _writer()


def _network_file(writer, num_images: int, network: Network, widths: Dict[str, int]) -> bytes:
    return writer.write(network, widths, writer.random_weights(network, widths), num_images)


def _measure(args: argparse.Namespace, network: Network, source: measuring.Source, about: Dict[str, Any]) -> None:
    """Measure, resumably, and write the table with its sidecar."""
    name, runner = save_name(args.save_file), _runner(args, args.num_threads or 1)
    care = _care(args, PASSES, few=bool(args.sample))
    grid, sample = measuring.Grid(network), None
    if args.sample:
        sample = sampling.choose(network, args.sample, args.seed)
    wanted = sample.numbers if sample else np.arange(len(grid))
    work = measuring.Work(grid, wanted, calibration.fitting_networks(network, args.calibrate, args.seed))
    header = {"network": network.arguments, "num_images": args.num_images, **about, "sample": args.sample,
              "calibrate": args.calibrate, "num_measures": args.num_measures, "num_passes": care.passes,
              "spread": args.spread, "drift": args.drift, "seed": args.seed, "device": measuring.device(),
              **runner.describe()}
    folder = writable_folder(latency_table.FOLDER)
    log, path = folder / f"{name}.journal", folder / f"{name}.pickle"
    if path.is_dir():
        raise UserError(f"{path}: a folder, expected the place for a table; choose another --save_file")
    with journal.locked(log):
        header, state = measuring.open_journal(log, header, work, care, resume=args.resume)
        before, began = int(state.count.sum()), time.monotonic()
        with journal.Journal(log) as lines:
            measuring.session(work, source, runner, care, state, lines).run()
            table, more = outcome.finish(work, care, state, sample)
            latency_table.write_table(path, table, {
                **header, "operators": latency_table.operators(network), "how": f"compute_table.py --mode={args.mode}",
                "entries": len(wanted), "visits_from_before_a_resume": before, "ended": measuring.now(), **more})
            lines.append({"finished": measuring.now()})
    total = latency_table.latency_s(network, network.full_widths, latency_table.read_table(path, network))
    print(f"{path}: {len(wanted):,} entries measured in {time.monotonic() - began:.0f} s; the unpruned network takes "
          f"{total * 1e3:.3f} ms")
    for line in outcome.words(more):
        print(line, file=sys.stderr)


def _runner(args: argparse.Namespace, threads: int):
    if args.benchmark_lite_loc:
        return BinaryRunner(find_binary(args.benchmark_lite_loc), threads, args.timeout)
    return LiteRTRunner(threads)


def _care(args: argparse.Namespace, passes: int, *, few: bool) -> Care:
    passes = args.num_passes or passes
    further = measuring.FURTHER_VISITS_OF_FEW if few else measuring.FURTHER_VISITS
    patience_s = PATIENCE_S if args.patience is None else args.patience
    return Care(passes=passes, runs=-(-args.num_measures // passes), max_visits=passes + further, spread=args.spread,
                drift=args.drift, max_temp_c=args.max_temp, patience_s=patience_s, seed=args.seed)


# --- validate --------------------------------------------------------------------------------------------------

def validate(args: argparse.Namespace, network: Network) -> None:
    _runner(args, 1).describe()
    _needed_writer()
    from utils import validation
    path = latency_table.table_path(args.perf_table)
    table, note = latency_table.read_measured(path, network), latency_table.read_provenance(path)
    runner = _runner(args, args.num_threads or machine.threads_of(note))
    differences = list(machine.differences(note, {**runner.describe(), "num_images": args.num_images,
                                                     "device": measuring.device()}))
    for line in differences:
        print(f"{path}: {line}", file=sys.stderr)
    networks = calibration.judging_networks(network, args.num_networks, args.seed)
    found = validation.validate(network, table, note, networks, runner, _judging_care(args, JUDGING_PATIENCE_S),
                                num_images=args.num_images, same_machine=not differences)
    picture = path.with_name(f"{path.stem}-validation.png")
    print(json.dumps(found.as_json(), indent=1, allow_nan=False) if args.json else "\n".join(found.lines()))
    try:
        from utils.plots import plot_validation
        plot_validation(picture, found.predicted_s, found.measured_s, title=f"{path.stem}: {args.num_networks} random "
                        f"networks, seed {args.seed}")
        print(f"{picture}: predicted against measured", file=sys.stderr)
    except ImportError:
        print("no picture: pip install matplotlib draws it", file=sys.stderr)


def _judging_care(args: argparse.Namespace, patience_s: float) -> Care:
    patience_s = patience_s if args.patience is None else args.patience
    return replace(_care(args, JUDGING_PASSES, few=True), short_wait_s=patience_s, patience_s=patience_s)


# --- measure ---------------------------------------------------------------------------------------------------

def measure(args: argparse.Namespace) -> None:
    table = latency_table.table_path(args.perf_table) if args.perf_table else None
    about = {path: _description(args, path) for path in map(Path, args.model)}
    runner = _runner(args, args.num_threads or machine.threads_of(latency_table.read_provenance(table) if table else {}))
    now = {**runner.describe(), "num_images": 1, "device": measuring.device()}
    (measure_one if len(about) == 1 else measure_several)(args, table, about, runner, now)


def measure_one(args: argparse.Namespace, table: Optional[Path], about: Descriptions, runner, now: Dict[str, Any]) -> None:
    (path, what), = about.items()
    expectation = whole_model.expect(table, what.network, what.widths, what.quantize, now) if table else None
    found = whole_model.measure(path, path.name, runner, _judging_care(args, MODEL_PATIENCE_S), expectation)
    if args.json:
        print(json.dumps({"model": str(path), **now, **found.as_json()}, indent=1, allow_nan=False))
    else:
        print("\n".join([f"{path}: {_words(what)}, {runner.num_threads} thread(s) of {now['runtime']}", *found.lines()]))


def measure_several(args: argparse.Namespace, table: Optional[Path], about: Descriptions, runner, now: Dict[str, Any]) -> None:
    """In one session, so that they compare; beside them what the table says of those that it can predict, for the machine as
    fast as it is now."""
    expected = predictions(table, about) if table else {}
    probe = whole_model.table_probe(table, about[next(iter(expected))].network, now) if expected else None
    found = whole_model.measure_together({str(path): path for path in about}, runner,
                                         _judging_care(args, MODEL_PATIENCE_S), probe)
    expected = {path: seconds * (found.ratio if whole_model.is_alike(found.ratio) else 1) for path, seconds in expected.items()}
    if args.json:
        models = {name: {"measured_s": seconds, "predicted_s": expected.get(Path(name))} for name, seconds in found.seconds.items()}
        print(json.dumps({**now, "probe_now_over_then": found.ratio, "models": models}, indent=1, allow_nan=False))
        return
    print(f"{len(about)} models, {runner.num_threads} thread(s) of {now['runtime']}")
    for (path, what), seconds in zip(about.items(), found.seconds.values()):
        predicted = f"   predicted {expected[path] * 1e3:.4f} ms ({expected[path] / seconds - 1:+.1%})" if path in expected else ""
        print(f"measured {seconds * 1e3:.4f} ms{predicted}   {path}: {_words(what)}")
    if found.ratio:
        print(whole_model.about_probe(found.ratio))


def predictions(table: Path, about: Descriptions) -> Dict[Path, float]:
    """Seconds by the table, of the float32 networks that it is of; stderr has a word on the others. Raises UserError where
    it is of none of them."""
    found, others = {}, []
    for path, what in about.items():
        try:
            if what.quantize != "none":
                raise UserError(f"{table}: measured on float32 layers, this is {what.quantize}")
            found[path] = latency_table.latency_s(what.network, what.widths, latency_table.read_table(table, what.network))
        except UserError as error:
            others.append(f"{path}: not predicted: {error}")
    if not found:
        raise UserError(others[0])
    if others:
        print(f"{len(others)} of {len(about)} models are not predicted, first {others[0]}", file=sys.stderr)
    return found


def _description(args: argparse.Namespace, path: Path) -> Optional[model_file.Description]:
    """What the model says of itself, or the flags of it; None where neither does and no table has to predict it."""
    model_file.check(path)
    about = model_file.read(path) or _by_flags(args, path)
    if args.perf_table and about is None:
        raise UserError(f"{path}: has no {model_file.NETWORK} in it, so --perf_table cannot predict it; export it with "
                        "export.py, name its --channels, or leave --perf_table out")
    return about


def _by_flags(args: argparse.Namespace, path: Path) -> Optional[model_file.Description]:
    """What --channels and the network's flags say of a model that does not say it itself, taken to be float32."""
    if not args.channels:
        return None
    network = _network(args)
    print(f"{path}: taken on trust to be a float32 model of --channels={args.channels}", file=sys.stderr)
    return model_file.Description(network, channels.read_channels(channels.channels_path(args.channels), network), "none")


def _network(args: argparse.Namespace) -> Network:
    return cli.describe_or_fail(net=args.net, depth=args.depth, width=args.width, img_size=args.img_size,
                                num_classes=args.num_classes)


def _words(about) -> str:
    if about is None:
        return "a model that does not say what it is"
    parameters = about.network.parameter_count(about.widths)
    return (f"{latency_table.name_of(about.network)}, {parameters:,} parameters, "
            f"{'float32' if about.quantize == 'none' else about.quantize}")


def main() -> None:
    args = get_parser().parse_args()
    needed, example = {"validate": ("perf_table", "res-40-2"), "measure": ("model", "model.tflite")}.get(
        args.mode, ("save_file", "res-40-2"))
    if not getattr(args, needed):
        raise UserError(f"--{needed} is missing: --mode={args.mode} needs it, such as --{needed}={example}")
    if args.mode == "measure":  # the model says which network it is
        measure(args)
        return
    {"save": save, "load": load, "build": build, "validate": validate}[args.mode](args, _network(args))


if __name__ == "__main__":
    cli.run(main, resumable=not any(a.endswith(("validate", "measure")) for a in sys.argv))
