"""What prune.py does where no flag says: the method, and the values that follow from it and from the base model."""

from collections.abc import Mapping
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
    of_netadapt, of_trade = ([name for name in names if given[name] is not None and given[name] is not False]
                             for names in ((*NETADAPT, SCORED), TRADE))
    if of_netadapt and of_trade:
        raise UserError(f"--{of_netadapt[0]} is a flag of --method=netadapt, --{of_trade[0]} of --method=trade; name "
                        "the method")
    if of_netadapt or of_trade:
        return "netadapt" if of_netadapt else "trade", f"--{(of_netadapt or of_trade)[0]} is a flag of it"
    if not trained:
        return "netadapt", "the default, trade, needs a base model that train.py trained from scratch, and its images"
    return "trade", "the default"


def filled(given: Mapping[str, Any], method: str, training: Optional[Mapping[str, Any]]) -> dict[str, Any]:
    """The flags, with a value for each that was not given.

    training: of the base model, as FROM_SCRATCH; None: not known, and ``trade`` keeps what follows from it at None.
    """
    usual = (training or {}) if method == "trade" else FROM_SCRATCH
    values = {**NETADAPT, **{name: usual.get(name) for name in cli.SGD}, "method": method,
              "scratch_rate": usual.get("learning_rate"), "pruning_method": baselines.default_scores(method),
              "floor": baselines.default_floor(method)}
    return {name: values.get(name) if value is None else value for name, value in given.items()}
