"""A description as plain data, for JSON, and back: what is read is checked entry by entry.

    {"format": 1, "name": "mine",
     "inputs": [{"name": "image", "group": "image", "size": [32, 32]}],
     "groups": [{"name": "image", "width": 3, "prunable": false}, {"name": "a", "width": 8}, ...],
     "nodes": [{"name": "stem", "kind": "conv", "inputs": ["image"], "channels": [["a", 1]], "kernel": [3, 3]}, ...]}

A field that is left out has its default (operators.py, network.py). Runs on Python 3.9 with the standard library alone.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Callable

from model.network import Group, Input, Network
from model.operators import OPERATORS, Node, Segment

FORMAT = 1
MOST_NODES, MOST_CHANNELS, MOST_PIXELS = 10_000, 1_000_000, 100_000
MOST_PARAMETERS = 4_000_000_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_TITLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,199}")  # of a network: it is a file's name, too
_PATH = re.compile(r"[\w+:@-]{1,100}(\.[\w+:@-]{1,100}){0,30}", re.ASCII)  # of a module, such as layer1.0.conv2


def as_dict(network: Network, name: str) -> dict[str, Any]:
    """The description under this name, without fields that have their defaults."""
    return {"format": FORMAT, "name": name, "inputs": [_plain(i) for i in network.inputs],
            "groups": [_plain(g) for g in network.groups], "nodes": [_plain(n) for n in network.nodes]}


def from_dict(content: Any) -> Network:
    """The network of a description; its ``arguments`` hold the description itself, so that they rebuild it.

    Raises ValueError with the place of what is wrong.
    """
    content = _object("the description", content, {"format", "name", "inputs", "groups", "nodes"})
    found = content.get("format")
    if type(found) is not int or not 0 < found <= FORMAT:
        raise ValueError(f"format {found!r}, expected 1 to {FORMAT}; a newer version of the project made it")
    name = _title("name", content.get("name"))
    inputs = tuple(_made(Input, f"inputs[{n}]", e) for n, e in enumerate(_list("inputs", content.get("inputs"), 8)))
    groups = tuple(_made(Group, f"groups[{n}]", e) for n, e in enumerate(_list("groups", content.get("groups"),
                                                                                MOST_NODES)))
    nodes = tuple(_made(Node, f"nodes[{n}]", e) for n, e in enumerate(_list("nodes", content.get("nodes"),
                                                                             MOST_NODES)))
    _different("groups", groups)
    _check_references(inputs, groups)
    for number, node in enumerate(nodes):
        if node.kind not in OPERATORS:
            raise ValueError(f"nodes[{number}].kind: unknown {node.kind!r}, expected one of {', '.join(OPERATORS)}")
    network = Network({}, inputs, groups, nodes)
    last = network.tensors[network.output]
    if not last.flat or any(network.group[s.group].prunable for s in last.channels):
        raise ValueError(f"nodes[{len(nodes) - 1}]: the output must be a vector of groups that are not prunable")
    if network.parameter_count(network.full_widths) > MOST_PARAMETERS:
        raise ValueError(f"more than {MOST_PARAMETERS:,} parameters")
    height, width = inputs[0].sides
    arguments = {"net": name, "img_size": height if height == width else [height, width],
                 "num_classes": network.layers(network.full_widths)[-1].cout, "description": dict(content)}
    return Network(arguments, inputs, groups, nodes)


# --- written ---------------------------------------------------------------------------------------------------

def _plain(entry: Any) -> dict[str, Any]:
    values = {f.name: getattr(entry, f.name) for f in fields(entry)
              if f.default is MISSING or getattr(entry, f.name) != f.default}
    return {key: _lists(value) for key, value in values.items()}


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, tuple) else value


# --- read ------------------------------------------------------------------------------------------------------

def _object(place: str, value: Any, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected an object, found {type(value).__name__}")
    for key in value:
        if key not in known:
            raise ValueError(f"{place}: unknown field {str(key)[:100]!r}, expected some of {', '.join(sorted(known))}")
    return value


def _list(place: str, value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or not 0 < len(value) <= most:
        found = f"{len(value):,}" if isinstance(value, list) else type(value).__name__
        raise ValueError(f"{place}: expected a list of 1 to {most:,} entries, found {found}")
    return value


def _made(kind: Any, place: str, entry: Any) -> Any:
    """An Input, a Group or a Node of the fields of an entry."""
    known = {f.name: f for f in fields(kind)}
    entry = _object(place, entry, set(known))
    for name, field in known.items():
        if field.default is MISSING and name not in entry:
            raise ValueError(f"{place}: {name} is missing")
    return kind(**{name: _FIELDS[name](f"{place}.{name}", value) for name, value in entry.items()})


def _name(place: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{place}: expected a name of letters, digits and _, found {str(value)[:100]!r}")
    return value


def _title(place: str, value: Any) -> str:
    if not isinstance(value, str) or not _TITLE.fullmatch(value):
        raise ValueError(f"{place}: expected a name of letters, digits, _, - and dots, found {str(value)[:100]!r}")
    return value


def _path(place: str, value: Any) -> str:
    if not isinstance(value, str) or not _PATH.fullmatch(value):
        raise ValueError(f"{place}: expected names joined by dots, found {str(value)[:100]!r}")
    return value


def _text(place: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError(f"{place}: expected a word, found {str(value)[:100]!r}")
    return value


def _names(place: str, value: Any) -> tuple[str, ...]:
    return tuple(_name(f"{place}[{n}]", v) for n, v in enumerate(_list(place, value, MOST_NODES)))


def _whole(low: int, high: int) -> Callable[[str, Any], int]:
    def number(place: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{place}: expected a whole number of {low:,} to {high:,}, found {str(value)[:100]!r}")
        return value
    return number


def _several(count: int, low: int, high: int, *, single: bool = False) -> Callable[[str, Any], Any]:
    """So many whole numbers; or, if ``single``, one that stands for all."""
    def numbers(place: str, value: Any) -> Any:
        if single and not isinstance(value, list):
            return _whole(low, high)(place, value)
        if not isinstance(value, list) or len(value) != count:
            raise ValueError(f"{place}: expected {count} whole numbers, found {str(value)[:100]}")
        return tuple(_whole(low, high)(f"{place}[{n}]", v) for n, v in enumerate(value))
    return numbers


def _real(low: float, high: float) -> Callable[[str, Any], float]:
    def number(place: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"{place}: expected a number of {low:g} to {high:g}, found {str(value)[:100]!r}")
        return float(value)
    return number


def _flag(place: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{place}: expected true or false, found {str(value)[:100]!r}")
    return value


def _channels(place: str, value: Any) -> tuple[Segment, ...]:
    found = []
    for number, segment in enumerate(_list(place, value, MOST_NODES)):
        if not isinstance(segment, list) or len(segment) != 2:
            raise ValueError(f"{place}[{number}]: expected a group and a repeat, found {str(segment)[:100]}")
        found.append(Segment(_name(f"{place}[{number}][0]", segment[0]),
                             _whole(1, MOST_CHANNELS)(f"{place}[{number}][1]", segment[1])))
    return tuple(found)


def _or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda place, value: None if value is None else check(place, value)


_sides = _several(2, 1, MOST_PIXELS, single=True)

_FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "name": _name, "kind": _text, "inputs": _names, "channels": _channels, "kernel": _sides, "stride": _sides,
    "bn": _flag, "activation": _text, "bias": _flag, "table": _or_none(_name), "dilation": _sides,
    "padding": _or_none(_several(4, 0, MOST_PIXELS)), "grouped": _flag, "multiplier": _whole(1, MOST_CHANNELS),
    "ceil_mode": _flag, "count_include_pad": _flag, "size": _sides, "part": _several(2, 0, MOST_NODES),
    "blocks": _whole(1, MOST_CHANNELS), "rate": _real(0, 1), "slope": _real(-10, 10), "bn_epsilon": _real(0, 1),
    "bn_momentum": _or_none(_real(0, 1)), "transparent": _flag, "module": _or_none(_path), "bn_module": _or_none(_path),
    "group": _name, "width": _whole(1, MOST_CHANNELS), "prunable": _flag, "removable": _flag}


def _different(place: str, entries: tuple[Any, ...]) -> None:
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        if entry.name in seen:
            raise ValueError(f"{place}[{number}].name: {entry.name!r} is used twice")
        seen.add(entry.name)


def _check_references(inputs: tuple[Input, ...], groups: tuple[Group, ...]) -> None:
    names = {g.name for g in groups}
    for number, entry in enumerate(inputs):
        if entry.group not in names:
            raise ValueError(f"inputs[{number}].group: no group {entry.group!r}")
        if entry.channels:
            raise ValueError(f"inputs[{number}].channels: an image has those of its group, found others")
    for number, group in enumerate(groups):
        if group.removable and not group.prunable:
            raise ValueError(f"groups[{number}]: removable, but not prunable")
