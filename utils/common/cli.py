"""Flags that several scripts share, and how a script begins and ends. Standard library alone."""

import argparse
import gc
import json
import os
import shlex
import signal
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Callable, NoReturn, Optional

from model.architectures import ARCHITECTURES, describe
from model.description import from_dict
from model.network import Network
from utils.common import signals
from utils.common.checksum import checked, keeps_edits, note_without
from utils.common.errors import UserError, first_line
from utils.common.files import locate
from utils.common.output import remark

NETWORKS = "networks"  # folder of descriptions
DEFAULT_NET = "res"
SHORT = {"-d": "depth", "-w": "width"}
WITHOUT_MEANING = ("--eval_method", "--tmp_folder")  # flags of the original scripts
STOPPED = tuple(128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))  # exit codes
SGD = {"momentum": 0.9, "weight_decay": 5e-4, "batch_size": 128}  # what a flag is by default
DATASET, DATA_LOC, HOLDOUT_PROP = "cifar10", "~/Documents/CIFAR-10", 0.1  # if no flag or checkpoint sets them


def new_parser(about: Optional[str]) -> argparse.ArgumentParser:
    """about: the script's docstring; its first line becomes the description."""
    return _Parser(description=(about or "").partition("\n")[0], formatter_class=_Formatter, allow_abbrev=False)


class _Parser(argparse.ArgumentParser):
    def error(self, message):  # one line, without the usage in front of it
        self.exit(2, f"error: {message} ({self.prog} --help lists the flags)\n")


class _Ignored(argparse.Action):
    """A flag with a value that does nothing, and says so."""

    def __call__(self, parser, namespace, values, option_string=None):
        remark(f"note: {option_string}={values}: this flag of the original scripts has no meaning here; it is ignored")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog):
        super().__init__(prog, max_help_position=36, width=110)

    def _get_help_string(self, action):  # a flag without a default tells it in its help text
        if isinstance(action.default, list):
            words = " ".join(shlex.join(d) if isinstance(d, list) else str(d) for d in action.default)
            return f"{action.help} (default: {words})" if words else action.help
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def add_network_flags(parser: argparse.ArgumentParser, *, defaults: bool = True) -> None:
    """Add --net, --depth and --width. Without ``defaults`` they are None unless given: the checkpoint has them.

    Flags that have no meaning any more are accepted, too, with a line on stderr.
    """
    group = parser.add_argument_group("network")
    group.add_argument("--net", default=DEFAULT_NET if defaults else None,
                       help=f"architecture: {', '.join(sorted(ARCHITECTURES))} (res is WideResNet); or a description: "
                            "NAME of networks/NAME.json, or a path")
    for short, kind, words in (("-d", int, "number of layers"), ("-w", float, "width")):
        flag = SHORT[short]
        group.add_argument(f"--{flag}", short, type=kind, help=f"{words} ({_by_architecture(flag)}"
                           + (")" if defaults else "; default: the checkpoint's)"))
    for flag in WITHOUT_MEANING:
        parser.add_argument(flag, action=_Ignored, dest=argparse.SUPPRESS, default=argparse.SUPPRESS,
                            help=argparse.SUPPRESS)


def network_flags(network: Network) -> list[str]:
    """The flags of train.py that name a network; a description is taken to be in its folder."""
    arguments = network.arguments
    if "description" in arguments:
        return [f"--net={NETWORKS}/{arguments['net']}.json"]
    return ([f"--{k}={arguments[k]}" for k in ("net", "depth", "width") if k in arguments]
            + ([f"--img_size={arguments['img_size']}"] if arguments.get("img_size", 32) != 32 else []))


def add_size_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--img_size", type=within(int, 4, 4096),
                        help="side of the images, pixels (default: 32, or the description's)")


def _by_architecture(flag: str) -> str:
    """What each architecture takes for a flag, and its default."""
    takes = {net: module.FLAGS[flag] for net, module in ARCHITECTURES.items() if flag in module.FLAGS}
    return "; ".join(f"{net}: {words}, default {default:g}" if default else f"{net}: {words}"
                     for net, (default, words) in takes.items())


def add_data_flags(parser: argparse.ArgumentParser, *, defaults: bool = True, holdout: bool = True) -> None:
    """Add the flags of the images, with ``holdout`` also --holdout_prop. ``defaults``: as in ``add_network_flags``."""
    group = parser.add_argument_group("data")
    other = "" if defaults else " (default: the checkpoint's)"
    group.add_argument("--dataset", choices=("cifar10", "digits"), default=DATASET if defaults else None,
                       help="digits: scikit-learn's bundled digits, needs no download" + other)
    group.add_argument("--data_loc", default=DATA_LOC if defaults else None,
                       help="folder with torchvision's CIFAR-10 (downloaded if missing), or with train/CLASS/* and "
                            "test/CLASS/* images" + other)
    if holdout:
        group.add_argument("--holdout_prop", type=fraction, default=HOLDOUT_PROP if defaults else None,
                           help="part of the training images that is held out to judge pruning" + other)
    group.add_argument("--workers", type=within(int, 0, 256), default=2, help="threads that read images")


def add_run_flags(parser: argparse.ArgumentParser, *, resume: str) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--seed", type=within(int, 0, 2 ** 32 - 1), default=0,
                       help="random seed; the same seed gives the same result")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto",
                       help="precision of convolutions; auto: bf16 where it is faster, else fp32")
    group.add_argument("--resume", action="store_true", help=resume)


def parsed(parser: argparse.ArgumentParser, flags: list[str], where: str) -> argparse.Namespace:
    """Parse a script's flags that are the value of another flag, ``where``. Raises UserError naming ``where``."""
    def fail(message: str) -> NoReturn:
        raise UserError(f"{where}: {message}")

    parser.error = fail  # argparse calls it for every error
    return parser.parse_args(flags)


def describe_or_fail(net: str, **arguments) -> Network:
    """The network of these flags: of an architecture, or of a description, which has its sizes. Raises UserError."""
    path = locate(net, NETWORKS, ".json")
    sizes = {k: v for k in ("img_size", "num_classes") if (v := arguments.pop(k, None)) is not None}
    if net not in ARCHITECTURES and (path.exists() or path != Path(NETWORKS) / f"{net}.json"):
        network = read_description(path)
        for name, value in sizes.items():
            if network.arguments[name] != value:
                raise UserError(f"--{name}={value}: {path} is a network of {name} {network.arguments[name]}; leave the "
                                "flag out, or import the network again with it")
        return network
    if net not in ARCHITECTURES:
        raise UserError(f"--net={net}: expected one of {', '.join(ARCHITECTURES)}, or a description, but {path} is not "
                        "there")
    for flag in ("depth", "width"):
        default, words = ARCHITECTURES[net].FLAGS.get(flag, (None, ""))
        if arguments.get(flag) is None:
            arguments[flag] = default
        if words and arguments[flag] is None:
            raise UserError(f"--net={net}: needs --{flag}, {words}")
        if not words and arguments.pop(flag) is not None:
            raise UserError(f"--net={net}: takes no --{flag}")
    try:
        return describe(net, **arguments, **sizes)
    except ValueError as error:
        raise UserError(str(error)) from error


def note_shadowed(net: str) -> None:
    """Report a description that has the name of an architecture."""
    path = locate(net, NETWORKS, ".json")
    if net in ARCHITECTURES and path.exists():
        print(f"note: --net={net} is an architecture; {path} is not read, unless it is named with its folder",
              file=sys.stderr)


def read_description(path: Path) -> Network:
    """The network that a file of networks/ describes. Raises UserError naming the file."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            return from_dict(content)
        network = from_dict(checked(path, content, keeps_edits("restore it, or import the network again")))
        note_without(path, content)
        return network
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; expected a description of a network") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {first_line(error)}; restore the file or make it again") from error


def within(kind: type, low: float, high: float) -> Callable[[str], float]:
    """The type of a flag that takes a number of this kind (int or float) in low..high."""
    def number(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {low:,} to {high:,}, found {text}")
        return value
    return number


def optimiser_flags(group, *, learning_rate: Optional[float], rate_help: str, later: str = "") -> None:
    """Flags of SGD, the same in training and fine-tuning.

    later: words for the defaults of all but the rate, if they are chosen after parsing; the flags are then None.
    """
    group.add_argument("--learning_rate", type=within(float, 1e-12, 1e6), default=learning_rate, help=rate_help)
    for name, kind, words in (("momentum", within(float, 0, 1), "momentum"),
                              ("weight_decay", within(float, 0, 1e3), "L2 penalty"),
                              ("batch_size", within(int, 2, 1_000_000), "images per batch")):
        group.add_argument(f"--{name}", *(["--wd"] if name == "weight_decay" else []), type=kind,
                           default=None if later else SGD[name],
                           help=words + (f" (default: {SGD[name]}{later})" if later else ""))


def fraction(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, both excluded, found {text}")
    return value


def part(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, at most 1, found {text}")
    return value


def run(main: Callable[[], None], *, resumable: bool = True) -> None:
    """Run a script's main. An error that the user can correct ends in one line and exit code 2; Ctrl-C, SIGTERM and
    SIGHUP in 130, 143 and 129.

    resumable: whether the line after Ctrl-C tells to run again with --resume.
    """
    try:
        with signals.raised() if threading.current_thread() is threading.main_thread() else nullcontext():
            main()
        sys.stdout.flush()
        gc.freeze()  # or Python goes through a million objects of torch as it ends, which takes a second
    except UserError as error:
        _end(f"error: {error}", 2)
    except ImportError as error:
        _end(f"error: {error} in this Python; install it, or everything with pip install -r requirements.txt, on a "
             "board requirements-pi.txt", 2)
    except KeyboardInterrupt as stop:
        again = [a for a in sys.argv if a != "--resume"] + ["--resume"] * resumable
        words = ("stopped; what was finished is kept. To go on" if resumable
                 else "stopped; nothing was written. To run it again")
        number = stop.args[0] if isinstance(stop, signals.Stopped) else signal.SIGINT
        _end(f"{words}: python {shlex.join(again)}", 128 + number)
    except MemoryError as error:
        _end(f"error: too little memory ({str(error) or 'no details known'}); a smaller --batch_size, --depth, "
             "--width or --img_size, or --sample, needs less", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left, e.g. `| head`
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _end(f"error: {where}{error.strerror or error}; what was finished is kept", 2)


def _end(line: str, code: int) -> None:
    print("\n" * (code == 130) + " ".join(line.split()), file=sys.stderr, flush=True)
    sys.exit(code)
