"""Write a trained network, pruned or not, as one file for the device, and check that its outputs equal torch's.

    python export.py --checkpoint='res-40-2-retrained' --output=model.tflite
    python export.py --checkpoint='res-40-2-retrained' --output=small.tflite --quantize=int8
    python export.py --checkpoint='res-40-2-retrained' --output=model.onnx
    python export.py --checkpoint='res-40-2-retrained' --output=model.pt2       # for torch.export.load, without this
    project

The model takes images with pixel values of 0..255 and returns logits. A .tflite file has the signature
``serving_default``: image [1, size, size, 3] (float32; uint8 with --quantize=int8) -> logits [1, classes]. A zip
archive at its end holds labels.txt and network.json. The input of an ONNX file is image [N, 3, size, size]. On the
device, compute_table.py --mode=measure times a .tflite file.
"""

if __name__ == "__main__":
    from utils.common.signals import answer_at_once
    answer_at_once()

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from utils.common import cli
from utils.common.errors import UserError
from utils.common.files import locate, writable_folder, write_whole
from utils.common.lock import locked
from utils.deploy import metadata
from utils.latency import model_timing
from utils.latency.model_timing import Timing
from utils.latency.note import how_measured, threads_in
from utils.latency.own_process import OwnProcess
from utils.latency.runners import OnnxRunner, Runner
from utils.latency.table_files import read_note, table_path

if TYPE_CHECKING:  # these import torch, which main loads only where it is needed
    from utils.deploy.assembly import Export, Exported


SUFFIXES = {"tflite": ".tflite", "onnx": ".onnx", "pt2": ".pt2"}  # by format
OPSET = 18  # ONNX 1.13, of December 2022


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="trained network, checkpoints/CHECKPOINT.t7 or a path")
    parser.add_argument("--output", help="file to write (default: the checkpoint's name in this folder)")
    parser.add_argument("--format", choices=tuple(SUFFIXES),
                        help="format of the file (default: by its suffix, else tflite)")
    parser.add_argument("--seed", type=cli.within(int, 0, 2 ** 32 - 1), default=0, help="seed of the images drawn")
    group = parser.add_argument_group("quantisation, after training (tflite)")
    group.add_argument("--quantize", choices=metadata.QUANTIZE, default="none",
                       help="float16: weights of half the size; dynamic: int8 weights; int8: everything but the "
                            "logits in int8, and a uint8 image")
    group.add_argument("--num_calibration_images", type=cli.within(int, 1, 1_000_000), default=200,
                       help="int8: training images on which the ranges of values are found")
    group.add_argument("--min_agreement", type=cli.within(float, 0, 100),
                       help="least percentage of test images that keep their top class; with less, nothing is written "
                            "(default: 99 with float16, else 95)")
    parser.add_argument("--opset", type=cli.within(int, 13, 26), default=OPSET,
                        help="version of the ONNX operators; runtimes since 2023 read the default")
    cli.add_data_flags(parser, defaults=False, holdout=False)
    parser.add_argument("--num_test_images", type=cli.within(int, 1, 1_000_000), default=500,
                        help="images on which to compare with torch")
    group = parser.add_argument_group("latency on this machine")
    group.add_argument("--num_threads", type=cli.within(int, 1, 256),
                       help="threads of the runtime (default: the table's, else 1)")
    group.add_argument("--patience", type=cli.within(float, 0, 1e6), default=30.0,
                       help="seconds to wait, at most, for a machine as fast as usual")
    group.add_argument("--no_measure", action="store_true", help="leave the measurement out")
    group.add_argument("--perf_table",
                       help="also print what this table predicts, perf_tables/PERF_TABLE.pickle or a path")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    source = locate(args.checkpoint, "checkpoints", ".t7")
    output, kind = target(args.output, args.format, source)
    if kind != "tflite":
        for flag, given in (("--quantize", args.quantize != "none"), ("--perf_table", args.perf_table)):
            if given:
                raise UserError(f"{flag}: only with --format=tflite; a .{kind} file is float32, and no table predicts "
                                "it")

    from utils.deploy import assembly  # torch takes seconds to load: first what does not need it
    from utils.learning import device
    writable_folder(output.parent)
    with locked(output), device.memory_errors():
        trained, expectation = assembly.open_trained(source), None
        table = table_path(args.perf_table) if args.perf_table else None
        runner = runner_of(kind, args.num_threads, table)
        if table and runner:
            expectation = model_timing.expect(table, trained.network, trained.model.widths, args.quantize,
                                              how_measured(runner))
        asked = assembly.Export(output, kind, args.opset, args.quantize, args.num_calibration_images,
                                args.num_test_images,
                                args.min_agreement, args.seed)
        images = assembly.images_for(asked, trained, args.dataset, args.data_loc, args.workers)
        exported, timing = assembly.export(asked, trained, images), None
        if runner and not args.no_measure:
            care = replace(model_timing.CARE, patience_s=args.patience, short_wait_s=args.patience, seed=args.seed)
            timing = model_timing.time_model(exported.raw, output.name, runner, care, expectation)
        write_whole(output, exported.raw)
    report(asked, exported, timing, runner)


def target(named: Optional[str], format: Optional[str], source: Path) -> tuple[Path, str]:
    """The file to write and its format. Raises UserError where the flags contradict each other."""
    kinds = {suffix: kind for kind, suffix in SUFFIXES.items()}
    output = Path(named or f"{source.stem}.{format or 'tflite'}")
    if output.is_dir():
        raise UserError(f"--output={output}: a folder, expected the place for a file")
    kind = format or kinds.get(output.suffix)
    if kind is None or kind != kinds.get(output.suffix):
        raise UserError(f"--output={output}: expected a name ending in "
                        + (f".{kind}, --format={kind} being asked for" if kind else " or ".join(kinds)))
    return output, kind


def runner_of(kind: str, num_threads: Optional[int], table: Optional[Path]) -> Optional[Runner]:
    """The runner that times the export, by default on the table's number of threads; None: torch itself runs it, which
    is not timed. Raises UserError if the runtime is missing, which is also needed to compare the export with torch."""
    if kind == "pt2":
        return None
    threads = num_threads or (threads_in(read_note(table)) if table else 1)
    runner = OnnxRunner(threads) if kind == "onnx" else OwnProcess(threads)
    runner.describe()
    return runner


def report(asked: "Export", exported: "Exported", timing: Optional[Timing], runner: Optional[Runner]) -> None:
    """Print what the export is like."""
    found, name = exported.verification, asked.output.name
    if found.labels is None:
        print(f"test error  unknown, compared on {len(found.found)} random images")
    else:
        print(f"test error  torch {found.torch_error_pct:.2f}%, {name} {found.error_pct:.2f}% "
              f"({len(found.found)} images)")
    print(f"outputs     the same top class on {found.agreement_pct:.1f}% of the images; logits differ by up to "
          f"{found.difference:.2g}, {found.difference / (found.spread or 1):.2g} of their spread between images")
    if not found.shows:
        print("            logits hardly vary between these images, so that the comparison shows little: train the "
              "network first")
    if timing and runner:
        for line in timing.lines():
            print(line)
        about = runner.describe()
        print(f"            on {about['threads']} thread{'s' * (about['threads'] > 1)} of {about['runtime']} "
              f"{about['version']}")
    print(f"{asked.output}: {len(exported.raw) / 1000:,.1f} KB, "
          f"{'float32' if asked.quantize == 'none' else asked.quantize}")


if __name__ == "__main__":
    cli.run(main, resumable=False)
