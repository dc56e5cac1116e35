"""Two keys of every result: ``made_by`` is the version of this project that wrote it, ``format`` a number.

The format grows when older versions could no longer read the file. A newer format is refused in one line; an older one
is read. A resume does not compare the two keys. Standard library alone, Python 3.9.
"""

import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from utils.common.errors import UserError
from utils.common.files import PROJECT

VERSION = "0.2.0"  # as in pyproject.toml and at the top of CHANGELOG.md
KEYS = ("made_by", "format")


def stamp(newest: int) -> dict[str, Any]:
    """The two keys for a new file, of format ``newest``."""
    return {"format": newest, "made_by": made_by()}


@cache
def made_by() -> str:
    """The version, in a git checkout with its commit: ``0.2.0+1369e04c8d4f`` (PEP 440's local version). ``.dirty``
    follows if files were changed since."""
    commit = _commit(PROJECT)
    return f"{VERSION}+{commit}" if commit else VERSION


def check_format(path: Path, content: Mapping[str, Any], newest: int) -> None:
    """Raise UserError if ``content``, of the file at ``path``, has a format newer than ``newest``. A file without a
    format is older than formats."""
    found = content.get("format", 0)
    if type(found) is not int or found < 0:
        raise UserError(f"{path}: format {found!r}, expected a number up to {newest}; restore the file, or make it "
                        "again")
    if found > newest:
        writer = content.get("made_by")
        raise UserError(f"{path}: format {found}{f', made by version {writer}' if isinstance(writer, str) else ''}; "
                        f"this version, {VERSION}, reads up to {newest}: update the project")


def _commit(folder: Path) -> str:
    """The first 12 digits of the commit that is checked out; "" where the folder is no checkout, or git is missing."""
    if not (folder / ".git").exists():  # the folder may lie in another project's checkout
        return ""
    asked = ["git", "-C", str(folder), "describe", "--always", "--dirty=.dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
