"""The writer of .tflite files, which needs flatbuffers and LiteRT's schema classes. A board that times files with the
benchmark_model binary needs neither."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Optional

from model.network import Network, Widths
from model.operators import Unsupported
from model.timed import Table
from utils.common.errors import UserError


def tflite_writer() -> Optional[ModuleType]:
    """model/tflite_net.py; None where a package that it needs is missing."""
    try:
        from model import tflite_net
        return tflite_net
    except ImportError:
        return None


def needed_writer() -> ModuleType:
    """model/tflite_net.py. Raises UserError if a package that it needs is missing."""
    writer = tflite_writer()
    if writer is None:
        raise UserError("writing models needs flatbuffers and LiteRT's schema, which this Python lacks: "
                        "pip install -r requirements-pi.txt on a board (requirements-pi32.txt with 32-bit Python), "
                        "requirements.txt on a desktop")
    return writer


def variant(num_images: int, table: Table, cin: int, cout: int) -> bytes:
    """The .tflite file of one operator at one width, for batches of ``num_images``."""
    with _refusals():
        return needed_writer().variant(table, cin, cout, num_images)


def whole_network(num_images: int, network: Network, widths: Widths) -> bytes:
    """The .tflite file of a network with random weights, for batches of ``num_images``."""
    writer = needed_writer()
    with _refusals():
        return writer.write(network, widths, writer.random_weights(network, widths), num_images)


@contextmanager
def _refusals() -> Iterator[None]:
    """An operator that the writer does not have is the user's to put right."""
    try:
        yield
    except Unsupported as error:
        raise UserError(f"{error}; prune it by --perf_table=macs or params") from error
