"""What prune.py does where no flag says: the method, and the values that follow from it and from the base model."""

from collections.abc import Mapping
from typing import Any, Optional

from utils.search import baselines

# Flags of NetAdapt and of fine-tuning. One of them without a method means NetAdapt.
NETADAPT: Mapping[str, Any] = {
    "init_red_fact": 20.0, "decay_rate": 0.98, "allow_small_prunings": False, "criterion": "ratio", "reach": 1.0,
    "removals": "last", "search": "halving", "layer_fraction": 1.0, "short_term_fine_tune": 100,
    "long_term_fine_tune": 0, "learning_rate": 8e-4}
SCORED = "pruning_method"  # a flag of NetAdapt too, whose value follows from the method
TRAINING: Mapping[str, Any] = {"momentum": 0.9, "weight_decay": 5e-4, "batch_size": 128}
FROM_SCRATCH: Mapping[str, Any] = {"learning_rate": 0.1, **TRAINING}  # as train.py


def training_of(content: Mapping[str, Any]) -> Optional[dict[str, Any]]:
    """How train.py trained a checkpoint's network from scratch, as FROM_SCRATCH; None where it did not: somebody else
    trained it, or its weights came from another network."""
    flags = content["flags"]
    if content["epoch"] == 0 or flags.get("init"):
        return None
    if "prune_history" in content:  # its flags are those of the pruning
        return dict(FROM_SCRATCH)
    return {name: flags[name] if type(flags.get(name)) is type(usual) and flags[name] >= 0 else usual
            for name, usual in FROM_SCRATCH.items()}


def method(given: Mapping[str, Any], begun: Optional[str], *, trained: bool) -> tuple[str, str]:
    """The method that the flags ask for, and why in words; "" where they name it.

    given: the flags by name, None or False where they are not given; begun: the method of the run that goes on;
    trained: whether the training of the base model can be repeated.
    """
    if given["method"]:
        return given["method"], ""
    if begun:
        return begun, "as the run began"
    own = [name for name in (*NETADAPT, SCORED) if given[name] is not None and given[name] is not False]
    if own:
        return "netadapt", f"--{own[0]} is a flag of it"
    if not trained:
        return "netadapt", "--method=trade, the default, cannot repeat a training that was not done here"
    return "trade", "the default"


def filled(given: Mapping[str, Any], method: str, training: Optional[Mapping[str, Any]]) -> dict[str, Any]:
    """The flags, with a value for each that was not given.

    training: of the base model, as FROM_SCRATCH; None: not known, and ``trade`` keeps what follows from it at None.
    """
    usual = (training or {}) if method == "trade" else FROM_SCRATCH
    values = {**NETADAPT, **{name: usual.get(name) for name in TRAINING}, "method": method,
              "scratch_rate": usual.get("learning_rate"), "pruning_method": baselines.default_scores(method),
              "floor": baselines.default_floor(method)}
    return {name: values.get(name) if value is None else value for name, value in given.items()}
