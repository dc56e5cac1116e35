"""What prune.py does where no flag says: the method, and the values that follow from it and from the base model."""

from collections.abc import Iterable, Mapping
from typing import Any, Optional

from utils.common import cli
from utils.common.errors import UserError
from utils.search import baselines

METHODS = ("trade", "netadapt", *baselines.METHODS)
# Flags of NetAdapt's search and of its fine-tuning, and of trade. One of them without a method means that method.
NETADAPT: Mapping[str, Any] = {
    "init_red_fact": 20.0, "decay_rate": 0.98, "allow_small_prunings": False, "criterion": "ratio", "reach": 1.0,
    "removals": "last", "search": "halving", "layer_fraction": 1.0, "short_term_fine_tune": 100,
    "long_term_fine_tune": 0, "learning_rate": 8e-4}
SCORED = "pruning_method"  # a flag of NetAdapt too, whose value follows from the method
TRADE = ("scratch_epochs", "scratch_rate")
KNAPSACK = ("knapsack_steps",)
SEARCHED = ("init_red_fact", "decay_rate", "allow_small_prunings", "criterion", "reach", "removals", "search",
            "layer_fraction")  # that no other method reads
READ_BY: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(SEARCHED, ("netadapt",)), **dict.fromkeys(TRADE, ("trade",)),
    **dict.fromkeys(KNAPSACK, ("knapsack",)), "short_term_fine_tune": ("netadapt", "knapsack"),
    "floor": ("knapsack", "params", "macs", "trade")}  # of the flags that not every method reads
FROM_SCRATCH: Mapping[str, Any] = {"learning_rate": 0.1, **cli.SGD}  # what the flags of train.py are by default
SOUND = {"learning_rate": (1e-12, 1e6), "momentum": (0, 1), "weight_decay": (0, 1e3), "batch_size": (2, 1_000_000)}


def training_of(content: Mapping[str, Any]) -> Optional[dict[str, Any]]:
    """How train.py trained a checkpoint's network from scratch, as FROM_SCRATCH; None where it did not: somebody else
    trained it, or its weights came from another network. A pruned network's is that of its base."""
    pruned, flags = "prune_history" in content, content["flags"]
    if content["epoch"] == 0 or flags.get("init") or (pruned and not isinstance(content.get("training"), dict)):
        return None
    found = content["training"] if pruned else flags
    return {name: found[name] if _sound(name, found.get(name)) else usual for name, usual in FROM_SCRATCH.items()}


def _sound(name: str, value: Any) -> bool:
    """Whether train.py takes this value of a flag."""
    low, high = SOUND[name]
    return type(value) is type(FROM_SCRATCH[name]) and low <= value <= high


def method(given: Mapping[str, Any], begun: Optional[str], *, trained: bool) -> tuple[str, str]:
    """The method that the flags ask for, and why in words; "" where they name it.

    given: the flags by name, None or False where they are not given; begun: the method of the run that goes on;
    trained: whether the training of the base model can be repeated. Raises UserError for flags of two methods.
    """
    if given["method"]:
        return given["method"], ""
    if begun:
        return begun, "as the run began"
    of_knapsack = _given(given, KNAPSACK)  # which may fine-tune with NetAdapt's flags
    of_one = {"knapsack": of_knapsack, "netadapt": _given(given, SEARCHED if of_knapsack else (*NETADAPT, SCORED)),
              "trade": _given(given, TRADE)}
    found = [(name, flags[0]) for name, flags in of_one.items() if flags]
    if len(found) > 1:
        (one, flag), (other, another) = found[:2]
        raise UserError(f"--{flag} is a flag of --method={one}, --{another} of --method={other}; name the method")
    if found:
        return found[0][0], f"--{found[0][1]} is a flag of it"
    if not trained:
        return "netadapt", "the default, trade, needs a base model that train.py trained from scratch, and its images"
    return "trade", "the default"


def unread(given: Mapping[str, Any], method: str) -> list[str]:
    """The flags that are given and that the method does not read."""
    return [flag for flag in _given(given, READ_BY) if method not in READ_BY[flag]]


def _given(given: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [name for name in names if given[name] is not None and given[name] is not False]


def filled(given: Mapping[str, Any], method: str, training: Optional[Mapping[str, Any]]) -> dict[str, Any]:
    """The flags, with a value for each that was not given.

    training: of the base model, as FROM_SCRATCH; None: not known, and ``trade`` keeps what follows from it at None.
    """
    usual = (training or {}) if method == "trade" else FROM_SCRATCH
    values = {**NETADAPT, "knapsack_steps": 1, **{name: usual.get(name) for name in cli.SGD}, "method": method,
              "scratch_rate": usual.get("learning_rate"), "pruning_method": baselines.default_scores(method),
              "floor": baselines.default_floor(method)}
    return {name: values.get(name) if value is None else value for name, value in given.items()}
