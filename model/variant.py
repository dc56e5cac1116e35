"""The network of one operator at one width: what is written to a .tflite file and timed for a latency table."""

from dataclasses import replace
from typing import Union

from model.network import Group, Input, Network
from model.operators import Node, Sides
from model.timed import Table, alone, widths_alone


def network_of(table: Table, cin: int, cout: int) -> Network:
    """The network of a table's operator, from cin to cout channels."""
    groups = tuple(Group(name, width, prunable=False) for name, width in widths_alone(table, cin, cout).items())
    inputs = tuple(Input(f"input_{n}", x.channels[0].group, _plain(x.sides), x.channels)
                   for n, x in enumerate(table.reads))
    names = tuple(i.name for i in inputs)
    nodes = []
    if table.pooled:
        nodes.append(Node("pool", "pool", names))
        names = ("pool",)
    return Network({"table": table.key}, inputs, groups, (*nodes, replace(alone(table), inputs=names)))


def _plain(sides: Sides) -> Union[int, Sides]:
    return sides[0] if sides[0] == sides[1] else sides
