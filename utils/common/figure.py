"""Pictures, drawn without a screen; matplotlib is loaded when the first one is drawn."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.common.errors import UserError, first_line
from utils.common.files import write_whole


@contextmanager
def beside_a_result(path: Path) -> Iterator[None]:
    """For a picture of a result that is on the disk: whatever is wrong with matplotlib, with the user's settings of it
    or with the disk costs the picture alone. A line on stderr says why."""
    try:
        yield
    except Exception as error:  # matplotlib raises many kinds
        print(f"{path}: no picture, {_why(error)}. The result is whole without it", file=sys.stderr)


@contextmanager
def as_the_result() -> Iterator[None]:
    """For a picture that is all that was asked for. Raises UserError where it cannot be drawn."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise UserError(f"no picture, {_why(error)}") from error


def _why(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "as matplotlib cannot be imported: pip install matplotlib"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {first_line(error)[:300]}; look at MPLBACKEND and at your matplotlibrc"


def new_figure(**size: Any) -> Any:
    """An empty figure; size: as matplotlib's ``Figure`` takes it (``figsize`` in inches)."""
    from matplotlib.figure import Figure  # with no pyplot there is no screen, and nothing to close
    return Figure(layout="constrained", **size)


def colours(name: str) -> Any:
    """matplotlib's colour map of this name: a function of a number in 0..1, or of an index where it is a list."""
    import matplotlib
    return matplotlib.colormaps[name]


def time_unit(largest_s: float) -> tuple[str, float]:
    """The unit in which times up to this one are read well, and how many of it make a second."""
    return ("ms", 1e3) if largest_s >= 1e-3 else ("µs", 1e6)


def logarithmic(axes: Any) -> None:
    """A logarithmic vertical axis whose ticks are plain numbers."""
    from matplotlib.ticker import LogLocator
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")


def write_figure(path: Path, figure: Any, dpi: int = 110) -> None:
    """The figure as a PNG file, whole."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    write_whole(path, buffer.getvalue())


def plain(text: str) -> str:
    """The text with ``$`` escaped, which matplotlib reads as mathematics."""
    return text.replace("$", r"\$")
