"""Check the flags that a comparison passes to prune.py and train.py, at once and not hours later."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from utils.common import cli
from utils.common.errors import UserError
from utils.common.files import locate
from utils.comparison.jobs import parser_of
from utils.comparison.settings import TRAINED_ONLY
from utils.learning import device
from utils.search import defaults

METHODS = (*defaults.METHODS, *TRAINED_ONLY)
# flags that a comparison sets itself
OURS = ("net", "depth", "width", "img_size", "init", "channels", "dataset", "data_loc", "holdout_prop", "seed",
        "threads", "save_file",
        "resume", "base_model", "perf_table", "method", "pruning_fact", "plan", "json")
NEEDED = {"prune.py": ["--perf_table=x", "--pruning_fact=0.5"], "train.py": ["--save_file=x"]}


def checked_methods(methods: Sequence[Sequence[str]], prune_flags: list[str], train_flags: list[str],
                    training: Optional[Mapping[str, Any]] = None) -> tuple[tuple[str, ...], ...]:
    """The methods, each with its own flags in a standard spelling. Raises UserError for flags that prune.py or train.py
    would refuse, or that a comparison sets itself.

    training: of the base model, as ``defaults.training_of`` gives it.
    """
    _check("--train_flags", "train.py", train_flags)
    _check("--prune_flags", "prune.py", prune_flags)
    found = []
    for words in methods:
        method, *flags = words or [""]
        if method not in METHODS:
            raise UserError(f"--methods: expected {', '.join(METHODS)}, found {method!r}")
        if method in TRAINED_ONLY and flags:
            raise UserError(f"--methods: {method} is only trained and takes no flags, found {' '.join(flags)}")
        _check("--methods", "prune.py", flags)
        found.append((method, *_own_flags(method, flags, prune_flags, training or defaults.FROM_SCRATCH)))
    return tuple(found)


def teacher_in(train_flags: list[str]) -> Optional[Path]:
    """The checkpoint of the teacher in ``train_flags``, None if there is no teacher."""
    teacher = cli.parsed(parser_of("train.py"), [*NEEDED["train.py"], *train_flags], "--train_flags").teacher
    return locate(teacher, "checkpoints", ".t7").resolve() if teacher else None


def precision_of(train_flags: list[str]) -> str:
    """The precision in which this machine trains the networks: one for all of a comparison."""
    given = cli.parsed(parser_of("train.py"), [*NEEDED["train.py"], *train_flags], "--train_flags")
    return device.pick(given.device, given.precision).precision


def _check(where: str, script: str, flags: Sequence[str]) -> None:
    for flag in flags:
        name = cli.SHORT.get(flag[:2], flag[2:].partition("=")[0] if flag.startswith("--") else "")
        if name in OURS:
            raise UserError(f"{where}: {flag} is for the comparison to set; leave it out")
    given = cli.parsed(parser_of(script), [*NEEDED[script], *flags], where)
    if given.device != "auto":
        try:
            device.pick(given.device, given.precision)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


def _own_flags(method: str, flags: Sequence[str], prune_flags: Sequence[str],
               training: Mapping[str, Any]) -> list[str]:
    """The flags that a method changes in prune.py, in a standard spelling and order: two spellings are one method."""
    def meant(given: Sequence[str]) -> dict[str, Any]:
        found = vars(parser_of("prune.py").parse_args([*NEEDED["prune.py"], *given]))
        return defaults.filled(found, method, training)

    before = meant(prune_flags)
    changed = {k: str(int(v)) if isinstance(v, float) and v.is_integer() else str(v)
               for k, v in meant([*prune_flags, *flags]).items() if v != before[k]}
    return [f"--{k}" if v == "True" else f"--{k}={v}" for k, v in changed.items()]
