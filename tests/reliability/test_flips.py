"""A flipped bit in a file is seen, or changes nothing: no reader gives another result without a word.

Each file is read as the next command of a user reads it. ``FLIPS_SEED`` draws other bits.
"""

import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from model.architectures import describe
from tests.forked import KILL_AFTER
from tests.helpers import described
from tests.works import NETWORK, WORKS, begin, results
from utils.common import journal
from utils.common.channels import read_channels
from utils.common.checksum import sha256_of_content
from utils.common.cli import read_description
from utils.common.errors import UserError
from utils.common.output import remark
from utils.comparison.results import from_record, read_csv, to_csv
from utils.deploy.on_device import describe_model
from utils.latency import variants
from utils.latency.entries import Entries
from utils.latency.table_files import read_pair
from utils.learning import checkpoint
from utils.pruning import history
from utils.pruning.store import CandidateStore

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("flips")]  # thousands of flips, of files made once

SEED = int(os.environ.get("FLIPS_SEED", "0"))
OF_TABLES = describe("res", depth=10, width=0.0625, img_size=8)


def flipped(path, tries, name):
    """Write the file again and again, each time with another bit flipped; it ends as it was."""
    whole, draw = path.read_bytes(), random.Random(f"{SEED} {name}")
    for _ in range(tries):
        hurt, bit = bytearray(whole), draw.randrange(8 * len(whole))
        hurt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(hurt)
        yield bit
    path.write_bytes(whole)


# --- readers ---------------------------------------------------------------------------------------------------

def read_checkpoint(path):
    content = checkpoint.load(path)
    checkpoint.build(content, path)
    return sha256_of_content(content)


def read_records(path):
    """All of a journal but its last line: where that is torn, its work is done again."""
    header, records = journal.read(path)
    return header, records[:98]


def read_rows(path):
    """Likewise, of a comparison."""
    header, records = journal.read(path)
    return header, [from_record(record) for record in records[:1]]


def read_candidate(path):
    store = CandidateStore(path.parent, NETWORK)
    store.read(2)
    found = {key: sha256_of_content(store._kept[key]) for key in store.keys}
    if not found:
        raise UserError("made again")
    return found


def read_table(path):
    table, note = read_pair(path.with_suffix(".pickle"))
    return sha256_of_content(table), {k: v for k, v in note.items() if k != "sha256"}


def read_tflite(path):
    about = describe_model(path, None, None, needed=True)
    return about.network.arguments, about.widths, about.quantize, path.read_bytes()[:1000]


def read_files(path):
    """The folder of --mode=save, as --mode=load reads it."""
    folder = next(p for p in (path, *path.parents) if (p / "manifest.json").exists())
    variants.check_manifest(folder, OF_TABLES, 1)
    checksums, entries = variants.read_checksums(folder), Entries(OF_TABLES)
    return [variants.whole_file(folder, checksums, *entries[n]).read_bytes() for n in range(len(entries))]


READ = {  # kind: (its file, what reads it, flips)
    "checkpoint": ("done/checkpoints/pruned.t7", read_checkpoint, 150),
    "unfinished checkpoint": ("train/checkpoints/net.unfinished.t7", read_checkpoint, 150),
    "candidate's state": ("candidate/*.t7", read_candidate, 150),
    "journal of a search": ("prune/history/pruned.unfinished.jsonl", journal.read, 150),
    "history": ("done/history/pruned.jsonl", history.header_of, 150),
    "journal of a table": ("build/perf_tables/built.journal", read_records, 150),
    "table": ("done/perf_tables/built.pickle", read_table, 150),
    "note": ("done/perf_tables/built.json", read_table, 150),
    "manifest": ("done/f/manifest.json", read_files, 150),
    "checksums of files": ("done/f/checksums-1-of-1.journal", read_files, 150),
    "file to be timed": ("done/f/FC/FC_2_10.tflite", read_files, 150),
    "description": ("done/networks/mine.json", lambda path: read_description(path).arguments, 150),
    "channels": ("done/nbr_channels/pruned.pickle", lambda path: read_channels(path, NETWORK), 150),
    "journal of a comparison": ("compare/comparisons/c/journal.jsonl", read_rows, 150),
    "CSV of a comparison": ("done/comparisons/c/c.csv", lambda path: to_csv(read_csv(path)), 150),
    "exported .tflite": ("done/model.tflite", read_tflite, 150),
}


@pytest.fixture(scope="session")
def stations(forks, furnished, tmp_path_factory):
    """A folder in which every script is done, ``done``, and folders in which one was killed at work."""
    home = tmp_path_factory.mktemp("stations")
    done = shutil.copytree(furnished, home / "done")
    for work in WORKS.values():
        assert forks.run(done, *work.flags).code == 0
    (done / "model.tflite").write_bytes(described())
    (home / "candidate").mkdir()
    for name, call, path, count in (("train", "rename", "net.unfinished.t7", 2),
                                    ("prune", "rename", "pruned.candidates/", 9),
                                    ("build", "write", "built.journal", 100),
                                    ("compare", "rename", "uniform-0.4-seed0.unfinished.t7", 1)):
        killed_at(forks, furnished, home / name, WORKS[name], call, path, count)
    shutil.copy(sorted(home.glob("prune/checkpoints/pruned.candidates/*.t7"))[0], home / "candidate")
    return home


def killed_at(forks, furnished, folder, work, call, path, count):
    """The work's folder as a kill leaves it after the call number ``count`` of this name on such a path."""
    whole = folder.with_name(f"{folder.name}-whole")
    for place in (whole, folder):
        place.mkdir()
        begin(work, furnished, place)
    calls = [c for c in forks.run(whole, *work.flags).calls if c.name == call and path in c.path]
    assert forks.run(folder, *work.flags, chosen=calls[count - 1].number, how=KILL_AFTER).code == -9


@pytest.fixture
def told(capfd):
    """What was said on stderr since it was last asked for."""
    def said():
        remark.cache_clear()
        return capfd.readouterr().err
    return said


@pytest.mark.parametrize("kind", READ)
def test_a_flipped_bit_is_seen_or_changes_nothing(stations, told, kind, record_property):
    pattern, read, tries = READ[kind]
    (path,) = sorted(stations.glob(pattern))[-1:]
    what = path.parent if read is read_files and path.name.startswith(("manifest", "checksums")) else path
    expected, found = read(what), Counter()
    told()
    for bit in flipped(path, tries, kind):
        try:
            same = read(what) == expected
        except UserError as error:
            assert path.name in str(error) or str(error) == "made again" or read is read_files, error
            found["refused"] += 1
            continue
        words = told()
        assert same or path.name in words, f"{kind}: bit {bit} of {path} gives another result, unseen"
        found["unchanged" if same else "said"] += 1
    assert found.total() == tries and found["refused"] > tries // 4
    record_property("flips", f"{kind}: {dict(found)}")
    assert read(what) == expected


RESUMED = {  # what a script goes on with: (its file, flips)
    "train": (("train/checkpoints/net.unfinished.t7", 40),),
    "prune": (("prune/history/pruned.unfinished.jsonl", 40), ("prune/checkpoints/pruned.unfinished.t7", 20),
              ("prune/checkpoints/pruned.candidates/*.t7", 20), ("prune/checkpoints/base.t7", 20)),
    "build": (("build/perf_tables/built.journal", 40),),
    "load": (("done/f/manifest.json", 20), ("done/f/checksums-1-of-1.journal", 40), ("done/f/FC/FC_1_10.tflite", 20)),
    "compare": (("compare/comparisons/c/journal.jsonl", 30),
                ("compare/comparisons/c/checkpoints/uniform-0.4-seed0.unfinished.t7", 20),
                ("compare/comparisons/c/checkpoints/netadapt-0.4-seed0.t7", 10),
                ("compare/comparisons/c/nbr_channels/uniform-0.4-seed0-pruned.pickle", 10)),
    "merge": (("done/perf_tables/one.pickle", 20), ("done/perf_tables/two.json", 20)),
}


@pytest.mark.parametrize("name, pattern, tries", [(name, *kind) for name, kinds in RESUMED.items() for kind in kinds])
def test_a_script_that_goes_on_sees_a_flipped_bit_or_ends_the_same(forks, stations, tmp_path, name, pattern, tries,
                                                                  record_property):
    work, found = WORKS[name], Counter()
    (path,) = sorted(stations.glob(pattern))[-1:]
    state, expected = stations / pattern.split("/")[0], results(work, stations / "done")
    for number, bit in enumerate(flipped(path, tries, pattern)):
        folder = shutil.copytree(state, tmp_path / str(number))
        for done in (*work.results, "perf_tables/loaded.journal") if state.name == "done" else ():
            (folder / done).unlink(missing_ok=True)
        ended = forks.run(folder, *work.again)
        assert "Traceback" not in ended.stderr and ended.code in (0, 2), (bit, ended.stderr)
        told = Path(path).name in ended.stderr
        if ended.code:
            assert told or name == "compare", (bit, ended.stderr)
            found["refused"] += 1
        else:
            same = results(work, folder) == expected
            assert same or told, f"bit {bit} of {path} gives another result, unseen"
            found["unchanged" if same else "said"] += 1
        shutil.rmtree(folder)
    record_property("flips", f"{pattern} before {name}: {dict(found)}")
    assert found.total() == tries
