"""The progress of the current step's remaining candidates, in memory and in a folder of files."""

import contextlib
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Optional

import torch

from model.network import Network
from utils.common import checksum
from utils.common.files import write_whole
from utils.pruning.candidates import Progress, number_of
from utils.search.netadapt import Key

_OWN = re.compile(r"\d+-\d+\.t7|\..*\.tmp")  # the files of a store


class CandidateStore:
    """A file per candidate, FOLDER/GROUP_NUMBER-WIDTH.t7: a killed process loses only the current candidate."""

    def __init__(self, folder: Path, network: Network):
        self._folder, self._network = folder, network
        self._kept: dict[Key, Progress] = {}

    def read(self, step: int) -> None:
        """Read what a process that was killed in this step left. Broken files are skipped."""
        for path in sorted(self._folder.glob("*.t7")):
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
                expected = content.pop(checksum.KEY, None)  # an older version wrote none
                if expected not in (None, checksum.sha256_of_content(content)):
                    continue
                key = content["group"], content["width"]
                if content["step"] == step and path == self._path(key):
                    self._kept[key] = content["state"]
            except Exception:  # torch raises many kinds for a broken file; the candidate can be made again
                continue

    @property
    def keys(self) -> set[Key]:
        return set(self._kept)

    def progress(self, key: Key, shapes: Mapping[str, tuple[int, ...]], most_batches: int) -> Optional[Progress]:
        """The candidate's progress; None if there is none, it had more than ``most_batches`` of fine-tuning, or it does
        not fit ``shapes``, those of its weights by name."""
        found = self._kept.get(key)
        return found if found and _fits(found, shapes) and found["batches"] <= most_batches else None

    def keep(self, step: int, key: Key, progress: Progress) -> None:
        self._kept[key] = progress
        buffer = io.BytesIO()
        content = {"step": step, "group": key[0], "width": key[1], "state": progress}
        torch.save(checksum.with_checksum(content), buffer)
        self._folder.mkdir(exist_ok=True)
        write_whole(self._path(key), buffer.getvalue())

    def drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._kept.pop(key, None)
            self._path(key).unlink(missing_ok=True)

    def clear(self) -> None:
        self._kept.clear()
        remove_candidates(self._folder)

    def _path(self, key: Key) -> Path:
        group, width = key
        return self._folder / f"{number_of(self._network, group)}-{width}.t7"


def remove_candidates(folder: Path) -> None:
    """Remove the files that a store writes, and the folder if nothing else is in it; nothing behind a link."""
    if folder.is_dir() and not folder.is_symlink():
        for path in folder.iterdir():
            if _OWN.fullmatch(path.name):
                path.unlink()
        with contextlib.suppress(OSError):  # somebody else's files are in it
            folder.rmdir()


def _fits(progress: Any, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the progress, which may come from any file, is of a candidate with weights of these shapes."""
    if not (isinstance(progress, dict) and isinstance(progress.get("batches"), int)
            and isinstance(progress.get("model"), dict)):
        return False
    found = {k: v for k, v in progress["model"].items() if not str(k).endswith("num_batches_tracked")}
    statistics = {k for k in shapes if "running_" in k}
    whole = set(found) == set(shapes) or progress["batches"] == 0 and set(found) <= statistics
    return whole and all(isinstance(v, torch.Tensor) and shapes[k] == tuple(v.shape) for k, v in found.items())
