"""Build a latency table: one .tflite per layer and width, made on a desktop, timed on the device.

    python compute_table.py --mode=save --save_file='res-40-2-tf-lite-pred' --output_folder='tflite_files' --jobs=2
    python compute_table.py --mode=load --save_file='res-40-2-tf-lite-pred' --output_folder='tflite_files' \\
        --benchmark_lite_loc='path/to/benchmark_model'      # on the device; without it LiteRT in this process

``load`` writes perf_tables/SAVE_FILE.pickle and says how it was measured in SAVE_FILE.json. It needs neither torch
nor TensorFlow and runs on Python 3.9. After an interruption --resume goes on.
"""

import argparse
import time
from pathlib import Path

from model.network import Network
from utils import cli, latency_table, measuring, tflite_files
from utils.benchmark import BinaryRunner, LiteRTRunner, find_binary
from utils.errors import UserError
from utils.files import save_name, writable_folder
from utils.progress import progress


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__.splitlines()[0])
    cli.add_network_flags(parser)
    parser.add_argument("--img_size", type=cli.within(int, 4, 4096), default=32, help="side of the input, pixels")
    parser.add_argument("--num_classes", type=cli.within(int, 2, 100_000), default=10, help="of the classifier")
    parser.add_argument("--mode", choices=("save", "load"), required=True,
                        help="save: make the .tflite files; load: time them and write the table")
    parser.add_argument("--save_file", required=True, help="name of the table, perf_tables/SAVE_FILE.pickle")
    parser.add_argument("--output_folder", default="tflite_files", help="folder of the .tflite files")
    parser.add_argument("--num_images", type=cli.within(int, 1, 4096), default=1, help="images per inference")
    save = parser.add_argument_group("--mode=save")
    save.add_argument("--num_process", type=cli.within(int, 1, 1_000_000), default=1,
                      help="shells among which the files are split")
    save.add_argument("--offset_process", type=cli.within(int, 0, 1_000_000), default=0,
                      help="this shell's number, from 0")
    save.add_argument("--jobs", type=cli.within(int, 1, 1024), default=1, help="processes of this command")
    save.add_argument("--converter", choices=("direct", "keras"), default="direct",
                      help="direct: write the flatbuffers; keras: TensorFlow's converter, about 0.6 s a file")
    load = parser.add_argument_group("--mode=load")
    load.add_argument("--benchmark_lite_loc", help="benchmark_model binary; without it LiteRT in this process")
    load.add_argument("--num_measures", type=cli.within(int, 1, 1_000_000), default=11,
                      help="timed runs per file, after one to warm up")
    load.add_argument("--num_threads", type=cli.within(int, 1, 256), default=1, help="threads of the runtime")
    load.add_argument("--timeout", type=cli.within(float, 1e-3, 1e6), default=120.0,
                      help="seconds that the binary may take for one file")
    load.add_argument("--resume", action="store_true", help="go on after an interruption")
    return parser


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


def load(args: argparse.Namespace, network: Network) -> None:
    name, folder = save_name(args.save_file), Path(args.output_folder)
    manifest = tflite_files.check_manifest(folder, network, args.num_images)
    missing = tflite_files.missing_files(folder, network)
    if missing:
        raise UserError(f"{missing[0]}: missing, as are {len(missing) - 1:,} others; make them with --mode=save "
                        "(every --offset_process)")
    if args.benchmark_lite_loc:
        runner = BinaryRunner(find_binary(args.benchmark_lite_loc), args.num_threads, args.num_measures, args.timeout)
    else:
        runner = LiteRTRunner(args.num_threads, args.num_measures)
    header = {"network": network.arguments, "num_images": args.num_images, "num_measures": args.num_measures,
              "converter": manifest.get("converter"), "device": measuring.device(), **runner.describe()}
    tables = writable_folder(latency_table.FOLDER)
    log = tables / f"{name}.journal"
    path = tables / f"{name}.pickle"
    header, measured = measuring.open_journal(log, path, header, network, resume=args.resume)
    before = len(measured)
    table = measuring.measure(network, folder, runner, log, measured)
    statistic = "the tool's median, or mean where it prints none" if args.benchmark_lite_loc else "median of the runs"
    latency_table.write_table(path, table, {
        **header, "operators": latency_table.operators(network), "how": "compute_table.py --mode=load",
        "statistic": statistic, "smoothing": None,
        "entries": len(measured), "entries_from_before_a_resume": before, "ended": measuring.now()})
    total = latency_table.latency_s(network, network.full_widths, table)
    print(f"{path}: {len(measured):,} entries; the unpruned network sums to {total * 1e3:.3f} ms")


def main() -> None:
    args = get_parser().parse_args()
    network = cli.describe_or_fail(net=args.net, depth=args.depth, width=args.width, img_size=args.img_size,
                                   num_classes=args.num_classes)
    {"save": save, "load": load}[args.mode](args, network)


if __name__ == "__main__":
    cli.run(main)
