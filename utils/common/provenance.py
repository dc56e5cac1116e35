"""Where a file comes from and whether it can be read: ``made_by``, the version of this project that wrote it, and
``format``, a number that grows when an older version could no longer read what is written.

No resume and no comparison of headers looks at either; a newer format is refused in a line, an older one is read.
Standard library alone, Python 3.9.
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
    """What a file of format ``newest`` says of itself."""
    return {"format": newest, "made_by": made_by()}


@cache
def made_by() -> str:
    """The version, and where this is a git checkout its commit: ``0.2.0+1369e04c8d4f``, ``.dirty`` where files were
    changed since (PEP 440's local version)."""
    commit = _commit(PROJECT)
    return f"{VERSION}+{commit}" if commit else VERSION


def check_format(path: Path, content: Mapping[str, Any], newest: int) -> None:
    """Raise UserError where ``content``, of the file at ``path``, is of a format newer than ``newest``; a file that
    tells none is older than formats."""
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
    if not (folder / ".git").exists():  # it may lie in somebody else's
        return ""
    asked = ["git", "-C", str(folder), "describe", "--always", "--dirty=.dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
