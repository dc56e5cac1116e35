"""A small workplace with a run of every script, and what counts as its result."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model.architectures import describe
from tests.helpers import imported_like, proportional_table, records_in
from utils.common.checksum import sha256_of_content
from utils.latency.table_files import read_pair, write_pair
from utils.learning import checkpoint
from utils.pruning.history import header_of

NETWORK = describe("res", depth=10, width=0.125, img_size=8, num_classes=2)
SIZES = ("--depth=10", "--width=0.125", "--img_size=8")
RUN = ("--workers=0", "--threads=1", "--precision=fp32", "--batch_size=8")
TABLE = ("compute_table.py", "--depth=10", "--width=0.0625", "--img_size=8", "--patience=0", "--max_temp=150",
         "--num_passes=1")
OF_NOTE = ("network", "num_images", "how", "seed", "runtime", "threads", "operators", "entries", "correction", "merged",
           "sampling", "device")  # keys that two runs share
MODULE = """import torch


def build():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.Conv2d(4, 6, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(6, 2))
"""


@dataclass(frozen=True)
class Work:
    """A command, what it reads and what it writes."""

    flags: tuple
    inputs: tuple = ()  # files and folders
    results: tuple = ()
    resumes: bool = True
    older: tuple = ("--seed=7",)  # flags that give an older result of the same name
    pictures: tuple = ()  # that the result is whole without

    @property
    def again(self):
        """The command that a user types after an interruption."""
        return (*self.flags, "--resume") if self.resumes else self.flags


WORKS = {
    "train": Work(("train.py", *SIZES, *RUN, "--data_loc=images", "--epochs=3", "--save_file=net"), ("images",),
                  ("checkpoints/net.t7",)),
    "prune": Work(("prune.py", *RUN, "--base_model=base", "--perf_table=table", "--pruning_fact=0.4",
                   "--init_red_fact=2", "--short_term_fine_tune=3", "--save_file=pruned"),
                  ("images", "checkpoints/base.t7", "perf_tables/table.pickle", "perf_tables/table.json"),
                  ("checkpoints/pruned.t7", "nbr_channels/pruned.pickle", "history/pruned.jsonl"),
                  pictures=("history/pruned.png",)),
    "trade": Work(("prune.py", *RUN, "--base_model=base", "--perf_table=table", "--pruning_fact=0.4", "--method=trade",
                   "--scratch_epochs=2", "--save_file=traded"),
                  ("images", "checkpoints/base.t7", "perf_tables/table.pickle", "perf_tables/table.json"),
                  ("checkpoints/traded.t7", "nbr_channels/traded.pickle", "history/traded.jsonl"),
                  pictures=("history/traded.png",)),
    "build": Work((*TABLE, "--mode=build", "--calibrate=4", "--save_file=built"), (),
                  ("perf_tables/built.pickle",), older=("--seed=7", "--num_images=2")),
    "few": Work(("compute_table.py", "--net=few", *TABLE[-3:], "--mode=build", "--sample", "--max_error=1",
                 "--calibrate=4", "--save_file=few"), ("networks/few.json",), ("perf_tables/few.pickle",),
                older=("--seed=7", "--num_images=2")),
    "save": Work((*TABLE, "--mode=save", "--output_folder=f", "--save_file=x"), (), ("f",), resumes=False,
                 older=()),
    "load": Work((*TABLE, "--mode=load", "--output_folder=f", "--calibrate=0", "--save_file=loaded"), ("f",),
                 ("perf_tables/loaded.pickle",), older=("--seed=7", "--num_threads=2")),
    "merge": Work(("perf_tables/merge_perf_tables.py", "merged", "one", "two"),
                  tuple(f"perf_tables/{n}.{e}" for n in ("one", "two") for e in ("pickle", "json")),
                  ("perf_tables/merged.pickle",), resumes=False, older=("--how=median", "--sigma=1")),
    "import": Work(("import_network.py", "--model=net.py:build", "--img_size=8", "--save_file=mine"), ("net.py",),
                   ("checkpoints/mine.t7", "networks/mine.json"), resumes=False),
    "export": Work(("export.py", "--checkpoint=base", "--output=base.pt2", "--no_measure", "--workers=0"),
                   ("images", "checkpoints/base.t7"), ("base.pt2",), resumes=False, older=()),
    "compare": Work(("compare.py", "--save_file=c", "--base_model=base", "--perf_table=table", "--pruning_facts", "0.4",
                     "--methods", "netadapt", "uniform", "--seeds", "0", "--no_measure", "--threads=1",
                     "--train_flags=--epochs=2 --batch_size=8 --precision=fp32 --workers=0",
                     "--prune_flags=--batch_size=8 --precision=fp32 --workers=0 --init_red_fact=1 "
                     "--short_term_fine_tune=1"),
                    ("images", "checkpoints/base.t7", "perf_tables/table.pickle", "perf_tables/table.json"),
                    tuple(f"comparisons/c/{p}" for p in (
                        "c.csv", "checkpoints/netadapt-0.4-seed0.t7", "checkpoints/uniform-0.4-seed0.t7",
                        "checkpoints/netadapt-0.4-seed0-pruned.t7", "nbr_channels/netadapt-0.4-seed0-pruned.pickle",
                        "history/netadapt-0.4-seed0-pruned.jsonl")), older=(),
                    pictures=("comparisons/c/c.png", "comparisons/c/history/netadapt-0.4-seed0-pruned.png",
                              "comparisons/c/history/uniform-0.4-seed0-pruned.png")),
}


def write_images(folder):
    """Noise, brighter in one class."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 6)):
        for number, name in enumerate(("dark", "light")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 160, (8, 8, 3)) + 60 * number
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{i}.png")


def furnish(folder, run):
    """Everything that the works read. run(folder, *flags): runs a script."""
    write_images(folder / "images")
    (folder / "net.py").write_text(MODULE)
    (folder / "networks").mkdir()
    (folder / "networks/few.json").write_text(json.dumps(imported_like("few", 6, 8)))
    (folder / "perf_tables").mkdir()
    write_pair(folder / "perf_tables/table.pickle", proportional_table(NETWORK), {"device": {"model": "A Board 3"}})
    for number, name in enumerate(("one", "two")):
        table = {key: (1 + number) * array for key, array in proportional_table(NETWORK).items()}
        write_pair(folder / f"perf_tables/{name}.pickle", table, {"device": {"model": "A Board 3"}})
    for flags in ((*WORKS["train"].flags[:-2], "--epochs=2", "--save_file=base"), WORKS["save"].flags):
        found = run(folder, *flags)
        assert found.code == 0, found.stderr


def begin(work, furnished, folder):
    """An empty folder becomes that of the work, with what it reads."""
    for name in work.inputs:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (furnished / name).is_dir():
            shutil.copytree(furnished / name, folder / name)
        else:
            shutil.copy(furnished / name, folder / name)


def result(folder, name):
    """What is in a result, without what no two runs share; None where there is none. Raises what its reader raises."""
    path = Path(folder) / name
    if not path.exists():
        return None
    if path.is_dir():
        return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()
                and not p.name.endswith(".tmp")}
    if path.suffix == ".t7":
        content = checkpoint.load(path)
        return sha256_of_content({k: v for k, v in content.items() if k != "flags"})  # which has paths
    if path.suffix == ".pickle" and path.parent.name == "perf_tables":
        table, note = read_pair(path)
        return sha256_of_content(table), json.dumps({k: note.get(k) for k in OF_NOTE})
    if path.suffix == ".jsonl":
        header_of(path)
        return [{k: v for k, v in record.items() if k not in ("sha256", "flags")} for record in records_in(path)]
    return path.read_bytes()


def results(work, folder):
    return {name: result(folder, name) for name in work.results}
