"""The module that --model names: of torchvision or timm, or made by the user's own code, which runs."""

import difflib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Optional, cast

import torch
from torch import nn

from utils.common.errors import UserError, first_line

FORMS = "torchvision:NAME, timm:NAME, FILE.py:CALLABLE or PACKAGE.MODULE:CALLABLE"


def make(spec: str, arguments: Mapping[str, Any], seed: int) -> nn.Module:
    """The module, in eval mode, freshly initialised with the seed. Raises UserError naming --model."""
    source, colon, name = spec.rpartition(":")
    if not colon or not source or not name:
        raise UserError(f"--model={spec}: expected {FORMS}")
    where = f"--model={spec}"
    build = {"torchvision": _torchvision, "timm": _timm}.get(source, _own)(source, name, where)
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about initialisations
            module = build(**arguments)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # the user's code, which may even exit
        given = f" with {dict(arguments)}" if arguments else ""
        raise UserError(f"{where}: calling it{given} raised {type(error).__name__}: {first_line(error)[:300]}; its "
                        "arguments are --model_args, a JSON object") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{where}: gave a {type(module).__name__}, expected a torch.nn.Module")
    return module.eval()


def _torchvision(source: str, name: str, where: str) -> Callable[..., Any]:
    from torchvision import models
    _check_known(name, models.list_models(module=models), where)
    return lambda **arguments: models.get_model(name, **{"weights": None, **arguments})


def _timm(source: str, name: str, where: str) -> Callable[..., Any]:
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise UserError(f"{where}: {error}; install it with pip install timm") from error
    _check_known(name, timm.list_models(), where)
    return lambda **arguments: timm.create_model(name, **{"pretrained": False, **arguments})


def _check_known(name: str, known: list[str], where: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 4)
        raise UserError(f"{where}: no such model" + (f"; did you mean {', '.join(near)}?" if near else ""))


def _own(source: str, name: str, where: str) -> Callable[..., Any]:
    """The callable of the user's file or package."""
    try:
        found = _file(Path(source)) if source.endswith(".py") else _package(source)
    except UserError:
        raise
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # the user's code, which may even exit
        raise UserError(f"{where}: importing {source} raised {type(error).__name__}: "
                        f"{first_line(error)[:300]}{_taken(source, error)}") from error
    callable_ = getattr(found, name, None)
    if not callable(callable_):
        near = difflib.get_close_matches(name, [n for n in vars(found) if callable(getattr(found, n))], 4)
        raise UserError(f"{where}: {source} has no callable {name}" + (f"; did you mean {', '.join(near)}?" if near
                                                                       else "") + _taken(source))
    return callable_


def _taken(source: str, error: Optional[BaseException] = None) -> str:
    """What to do where the user's code has, or imports, a package of the name of one of this project's."""
    names = {source.partition(".")[0], (getattr(error, "name", None) or "").partition(".")[0]}
    taken = sorted(names & {"model", "utils"})
    return f"; {taken[0]} is a package of this project: give yours another name" if taken else ""


def _file(path: Path) -> ModuleType:
    """A file as a module, run; it may import what lies beside it."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected Python code that makes the network")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "a file ending in .py has a loader"
    found = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, found)  # dataclasses look for it
    sys.path.insert(0, str(path.resolve().parent))
    cast(Any, spec.loader).exec_module(found)
    return found


def _package(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the folder that the user is in
    return importlib.import_module(name)
