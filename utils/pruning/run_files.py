"""The files of a run. An unfinished run keeps its state in these, and turns them into its results at the end:

    history/NAME.unfinished.jsonl       the journal: the start, every trial (a candidate judged at a rung), every step
    checkpoints/NAME.unfinished.t7      the network after the last step, a checkpoint like any other
    checkpoints/NAME.candidates/        the progress of the current step's remaining candidates
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from utils.common import journal, resume
from utils.common.errors import UserError
from utils.common.files import write_whole
from utils.common.journal import Record
from utils.learning import checkpoint
from utils.pruning.history import is_record, written
from utils.pruning.store import remove_candidates
from utils.search import defaults

OLD_EPOCHS = 3  # after which --method=trade compared networks, in journals that do not tell


@dataclass(frozen=True)
class RunFiles:
    """The results of a run, and its unfinished state."""

    checkpoint: Path
    channels: Path
    history: Path
    picture: Path
    journal: Path
    current: Path
    candidates: Path  # a folder

    def remove_unfinished(self) -> None:
        for path in (self.journal, self.current):
            path.unlink(missing_ok=True)
        remove_candidates(self.candidates)

    def write_history(self) -> None:
        """Turn the journal into the history, after every other result is written."""
        write_whole(self.history, written([r for r in journal.stream(self.journal) if r["event"] != "trial"]))
        self.remove_unfinished()


def files_of(name: str) -> RunFiles:
    checkpoints, history = Path("checkpoints"), Path("history")
    return RunFiles(checkpoint=checkpoints / f"{name}.t7", channels=Path("nbr_channels") / f"{name}.pickle",
                    history=history / f"{name}.jsonl", picture=history / f"{name}.png",
                    journal=history / f"{name}.unfinished.jsonl", current=checkpoints / f"{name}.unfinished.t7",
                    candidates=checkpoints / f"{name}.candidates")


def flags_begun_with(files: RunFiles) -> dict[str, Any]:
    """The flags of an unfinished run, {} where there is none."""
    found = journal.header(files.journal).get("flags")
    return found if isinstance(found, dict) else {}


def epochs_begun_with(files: RunFiles) -> Optional[int]:
    """The epochs after which an unfinished run of --method=trade compares networks; None where there is none."""
    found = journal.header(files.journal)
    return found.get("scratch_epochs", OLD_EPOCHS) if found.get("flags") else None


def method_begun_with(files: RunFiles) -> Optional[str]:
    """The method of an unfinished run, or else of a finished one; None where there is none."""
    unfinished = files.journal.exists() or not files.checkpoint.exists()
    flags = flags_begun_with(files) if unfinished else checkpoint.load(files.checkpoint)["flags"]
    found = flags.get("method")
    return found if isinstance(found, str) and found in defaults.METHODS else None


def begin_or_go_on(files: RunFiles, header: Record, *, going_on: bool) -> tuple[Optional[dict[str, Any]], list[Record]]:
    """Begin or resume a run's journal; returns (checkpoint after the last step or None, trials done since).

    header: what the run was asked for and where it began. Raises UserError rather than lose an unfinished run or
    go on with other flags.
    """
    found = resume.begun(files.journal, header, resume=going_on, at_stake=lambda records: "an unfinished run",
                         over_again="remove it to start over",
                         newer={"scratch_epochs": OLD_EPOCHS} if "scratch_epochs" in header else {})
    if files.candidates.is_symlink():
        raise UserError(f"{files.candidates}: a link, expected a folder that the run makes; remove the link")
    if found is None:
        if files.current.exists() and "prune_history" not in checkpoint.load(files.current):
            raise UserError(f"{files.current}: an unfinished training; go on with train.py --resume, or choose another "
                            "--save_file")
        files.remove_unfinished()
        journal.begin(files.journal, header)
        return None, []
    began, records = found[0], list(found[1])
    if not all(is_record(r) for r in records):
        raise UserError(f"{files.journal}: a line in it is no record of a pruning run; remove the file to start over")
    content = checkpoint.load(files.current) if files.current.exists() else None
    if content and not {"prune_history", "table_costs_history"} <= set(content):
        raise UserError(f"{files.current}: no checkpoint of an unfinished pruning run; remove it and {files.journal} "
                        "to start over")
    steps = len(content["prune_history"]) if content else 0
    done = [r for r in records if r["event"] in ("trial", "network") and r["step"] == steps + 1]
    kept = [r for r in records if r["event"] != "end" and r["step"] <= steps] + done
    if kept != records:  # the process died between recording a step, or the end, and saving it
        write_whole(files.journal, "".join(journal.line(r) for r in [began] + kept))
    return content, done
