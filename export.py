"""Write a trained network, pruned or not, as one file for the device, and prove that it computes what torch does.

    python export.py --checkpoint='res-40-2-pruned' --output=model.tflite
    python export.py --checkpoint='res-40-2-pruned' --output=small.tflite --quantize=int8
    python export.py --checkpoint='res-40-2-pruned' --output=model.onnx

The model takes images of 0..255 and gives logits. A .tflite file has the signature ``serving_default``: image
[1, size, size, 3] (float32; uint8 with --quantize=int8) -> logits [1, classes], and labels.txt and network.json in a
zip archive at its end. An ONNX file takes image [N, 3, size, size]. On the device, compute_table.py --mode=measure
times a .tflite file.
"""

import argparse
import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Dict, Tuple

from utils import cli, latency_table, machine, measuring, model_file, whole_model
from utils.benchmark import LiteRTRunner, OnnxRunner
from utils.errors import UserError
from utils.files import locate, writable_folder, write_whole
from utils.quiet import quiet

RANDOM_IMAGES = 64  # to compare on, without the data


def get_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="trained network, checkpoints/CHECKPOINT.t7 or a path")
    parser.add_argument("--output", help="file to write (default: the checkpoint's name in this folder)")
    parser.add_argument("--format", choices=("tflite", "onnx"), help="of the file (default: by its suffix, else tflite)")
    parser.add_argument("--seed", type=cli.within(int, 0, 2 ** 32 - 1), default=0, help="of the images that are drawn")
    group = parser.add_argument_group("quantisation, after training (tflite)")
    group.add_argument("--quantize", choices=model_file.QUANTIZE, default="none",
                       help="float16: weights in half the size; dynamic: weights in int8; int8: everything, and the image "
                            "uint8")
    group.add_argument("--num_calibration_images", type=cli.within(int, 1, 1_000_000), default=200,
                       help="training images that int8 finds the ranges of values on")
    group.add_argument("--min_agreement", type=cli.within(float, 0, 100),
                       help="percent of the test images whose top class has to stay, or nothing is written (default: 99 "
                            "with float16, else 95)")
    cli.add_data_flags(parser, defaults=False, holdout=False)
    parser.add_argument("--num_test_images", type=cli.within(int, 1, 1_000_000), default=500,
                        help="images to compare with torch on")
    group = parser.add_argument_group("latency on this machine")
    group.add_argument("--num_threads", type=cli.within(int, 1, 256), help="of the runtime (default: the table's, else 1)")
    group.add_argument("--patience", type=cli.within(float, 0, 1e6), default=30.0,
                       help="seconds to wait, at most, for a machine as fast as usual")
    group.add_argument("--no_measure", action="store_true", help="leave the measurement out")
    group.add_argument("--perf_table", help="print what this table predicts beside it; perf_tables/PERF_TABLE.pickle or "
                                            "a path")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    source = locate(args.checkpoint, "checkpoints", ".t7")
    output, kind = target(args, source)
    from utils import device
    with device.memory_errors():
        export(args, source, output, kind)


def target(args: argparse.Namespace, source: Path) -> Tuple[Path, str]:
    """The file to write and its format. Raises UserError where the flags contradict each other."""
    kinds = {".tflite": "tflite", ".onnx": "onnx"}
    output = Path(args.output or f"{source.stem}.{args.format or 'tflite'}")
    if output.is_dir():
        raise UserError(f"--output={output}: a folder, expected the place for a file")
    kind = args.format or kinds.get(output.suffix)
    if kind is None or kind != kinds.get(output.suffix):
        raise UserError(f"--output={output}: expected a name ending in "
                        + (f".{kind}, --format={kind} being asked for" if kind else ".tflite or .onnx"))
    if kind == "onnx":
        for flag, given in (("--quantize", args.quantize != "none"), ("--perf_table", args.perf_table)):
            if given:
                raise UserError(f"{flag}: only with --format=tflite; an ONNX file is float32, and no table tells of it")
    return output, kind


def export(args: argparse.Namespace, source: Path, output: Path, kind: str) -> None:
    from utils import checkpoint, proof
    content = checkpoint.load(source)
    model, normalisation = checkpoint.build(content, source), checkpoint.normalisation_of(content)
    network = model.network
    runner, expectation = runner_and_expectation(args, model, kind)
    writable_folder(output.parent)
    images = images_of(args, content, network, source)
    labels = class_names(content, images, network, source)
    pixels, truth = compared_on(args, images, network)
    expected = proof.torch_logits(model, normalisation, pixels)
    about = {"network": network.arguments, "widths": model.widths, "quantize": args.quantize,
             "normalisation": asdict(normalisation), "range": [0, 255],
             "checkpoint": {"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()},
             "test_error_pct": proof.error_pct(expected, truth), "test_images": len(pixels) if images else 0}
    print(f"{source}: {latency_table.name_of(network)}, {network.parameter_count(model.widths):,} parameters; converting",
          flush=True)
    if kind == "onnx":
        raw = converted(output, lambda: onnx_bytes(model, normalisation, labels, about))
        found = proof.onnx_logits(raw)(pixels)
    else:
        calibration = calibration_images(args, images)
        raw = converted(output, lambda: tflite_bytes(model, normalisation, args.quantize, calibration))
        raw = model_file.append(raw, labels, about)
        found = proof.tflite_logits(raw)(pixels)
    proved = proof.Proof(expected, found, truth)
    proved.check(str(output), args.quantize, args.min_agreement)
    timing = None
    if not args.no_measure:
        care = replace(whole_model.CARE, patience_s=args.patience, short_wait_s=args.patience, seed=args.seed)
        timing = whole_model.measure(raw, output.name, runner, care, expectation)
    write_whole(output, raw)
    report(args, output, raw, proved, timing, runner)


def runner_and_expectation(args: argparse.Namespace, model, kind: str):
    """What times the export, and what the table predicts for it, if one is named."""
    if kind == "onnx":
        return OnnxRunner(args.num_threads or 1), None
    if not args.perf_table:
        runner = LiteRTRunner(args.num_threads or 1)
        runner.describe()  # without a runtime there is nothing to compare with
        return runner, None
    table = latency_table.table_path(args.perf_table)
    runner = LiteRTRunner(args.num_threads or machine.threads_of(latency_table.read_provenance(table)))
    now = {**runner.describe(), "num_images": 1, "device": measuring.device()}
    return runner, whole_model.expect(table, model.network, model.widths, args.quantize, now)


# --- images ----------------------------------------------------------------------------------------------------

def images_of(args: argparse.Namespace, content: Dict[str, Any], network, source: Path):
    """The images to calibrate and compare on; None where the checkpoint's are not at hand and none were named."""
    from utils import checkpoint, data
    known, named = checkpoint.data_flags(content), args.dataset or args.data_loc
    try:
        return data.load_for(network, source, args.dataset or known["dataset"], args.data_loc or known["data_loc"],
                             args.workers)
    except UserError as error:
        if args.quantize != "none":
            raise UserError(f"--quantize={args.quantize}: needs the images, training ones to calibrate on (int8) and test "
                            f"ones to show what it costs: {error}") from None
        if named:
            raise
        print(f"comparing on random images, and no test error, since there are no images: {error}", flush=True)
        return None


def class_names(content: Dict[str, Any], images, network, source: Path) -> Tuple[str, ...]:
    """The checkpoint's, else the data's, else numbers."""
    count = network.arguments["num_classes"]
    names = content.get("classes") or (images.classes if images else [str(i) for i in range(count)])
    if len(names) != count:
        raise UserError(f"{source}: has {len(names)} class names for {count} classes; train the network again")
    return tuple(names)


def compared_on(args: argparse.Namespace, images, network):
    """(pixels, labels) to compare on: test images drawn at random, or random pixels and no labels."""
    import torch
    generator = torch.Generator().manual_seed(args.seed)
    if images is None:
        entry, = network.inputs
        shape = (RANDOM_IMAGES, network.full_widths[entry.group], entry.size, entry.size)
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8), None
    drawn = images.test[torch.randperm(len(images.test), generator=generator)[:args.num_test_images]]
    return drawn.pixels, drawn.labels.numpy()


def calibration_images(args: argparse.Namespace, images) -> list:
    """Training images as the model takes them, uint8 [1, size, size, channels]. The first one has a black and a white
    corner, so that the range of the input is 0..255 and its uint8 values are the pixels' own."""
    import torch
    if args.quantize != "int8":
        return []
    drawn = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(args.seed))
    pixels = images.train.pixels[drawn[:args.num_calibration_images]].permute(0, 2, 3, 1).clone()
    pixels[0, 0, 0], pixels[0, 0, -1] = 0, 255
    return list(pixels[:, None].numpy())


# --- conversion ------------------------------------------------------------------------------------------------

def converted(output: Path, convert) -> bytes:
    """What ``convert()`` gives, without what the converters print. Raises UserError where one fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with quiet(1, 2):
            return convert()
    except (UserError, ImportError, MemoryError):
        raise
    except Exception as error:  # the converters raise many kinds
        raise UserError(f"{output}: the converter failed, nothing was written: {type(error).__name__}: "
                        f"{' '.join(str(error).split())[:500]}") from error


def tflite_bytes(model, normalisation, quantize: str, calibration: list) -> bytes:
    from model import keras_net
    from model.torch_net import weights_of
    keras = keras_net.build(model.network, model.widths, weights_of(model), pixels=(normalisation.mean, normalisation.std))
    try:
        return keras_net.to_signed_tflite(keras, quantize, calibration)
    finally:
        keras_net.forget_all()  # a comparison exports many in one process


def onnx_bytes(model, normalisation, labels: Tuple[str, ...], about: Dict[str, Any]) -> bytes:
    from model import onnx_net
    return onnx_net.to_onnx(model, normalisation.mean, normalisation.std,
                            {"labels": model_file.labels_text(labels), "network": json.dumps(about)})


# --- report ----------------------------------------------------------------------------------------------------

def report(args: argparse.Namespace, output: Path, raw: bytes, proved, timing, runner) -> None:
    count = len(proved.found)
    if proved.labels is None:
        print(f"test error  unknown, compared on {count} random images")
    else:
        print(f"test error  torch {proved.torch_error_pct:.2f}%, {output.name} {proved.error_pct:.2f}% ({count} images)")
    print(f"outputs     the same top class on {proved.agreement_pct:.1f}% of the images; logits differ by up to "
          f"{proved.difference:.2g}")
    if timing:
        for line in timing.lines():
            print(line)
        about = runner.describe()
        print(f"            on {about['threads']} thread{'s' * (about['threads'] > 1)} of {about['runtime']} {about['version']}")
    print(f"{output}: {len(raw) / 1000:,.1f} KB, {'float32' if args.quantize == 'none' else args.quantize}")


if __name__ == "__main__":
    cli.run(main, resumable=False)
