"""compute_table.py --mode=build and validate, and plot_perf_table.py, as a user meets them, with real timings."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from model.architectures import describe
from model.description import from_dict
from tests.helpers import ROOT, environment, imported_like, records_in, refused, run_here, written_anew
from utils.common.journal import line as signed_line
from utils.latency import correction, table_files, tables
from utils.latency.note import alike

BUILD = ["compute_table.py", "--depth=10", "--width=0.25", "--mode=build", "--save_file=built", "--num_measures=4"]

JUDGE = ["compute_table.py", "--depth=10", "--width=0.25", "--mode=validate", "--perf_table=built"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a table that was built there."""
    folder = tmp_path_factory.mktemp("built")
    found = run_here(*BUILD, "--patience=0", cwd=folder)
    assert found.returncode == 0, found.stderr
    return folder


@pytest.fixture
def with_table(built, tmp_path):
    shutil.copytree(built / "perf_tables", tmp_path / "perf_tables")
    return tmp_path / "perf_tables"


def test_a_built_table_says_how_it_was_measured(with_table):
    network = describe("res", depth=10, width=0.25)
    note = json.loads((with_table / "built.json").read_text())
    assert note["runtime"] == "ai_edge_litert" and note["threads"] == 1 and note["num_measures"] == 4
    assert note["entries"] == sum(t.rows * t.columns for t in network.tables.values())
    assert note["visits"] >= 2 * note["entries"] and note["probe"]["times"] > 2 and 0 <= note["probe"]["off"] <= 1
    assert note["noise"].keys() == network.tables.keys()
    for kind in note["noise"].values():
        assert 0 <= kind["first_two_passes"]["median"] <= kind["first_two_passes"]["p95"]
    assert note["smoothing"] is None and note["correction"]["factor"] > 0
    lines = (with_table / "built.journal").read_text().splitlines()[1:]
    assert sum(line.startswith("[") for line in lines) == note["visits"]
    assert sum(line.startswith('{"probe"') for line in lines) == note["probe"]["times"]


def test_a_wide_networks_journal_says_how_large_its_networks_are(script, tmp_path, monkeypatch):
    monkeypatch.setattr(correction, "EARLIER_PARAMETERS", 0)
    script("compute_table.py", "--depth=10", "--width=0.0625", "--mode=build", "--save_file=w", "--num_measures=2",
           "--patience=0", "--calibrate=2", check=True)
    assert json.loads((tmp_path / "perf_tables/w.json").read_text())["most_parameters"] == 30_000_000


def test_validate_prints_a_line_each_and_the_figures(with_table, script):
    found = script(*JUDGE, "--num_networks=4", check=True)
    lines = found.stdout.splitlines()
    assert sum("predicted" in line and "measured" in line for line in lines) == 4
    assert re.match(r"validate: mean \|error\| \d+\.\d\d%, maximum \d+\.\d\d%, correlation (-?\d\.\d{5}|unknown)$",
                    lines[-1])
    assert any(line.startswith("floor, two measurements") for line in lines)
    assert (with_table / "built-validation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("multiple_of", [1, 4])
def test_validate_as_json(with_table, script, multiple_of):
    found = json.loads(script(*JUDGE, "--num_networks=5", "--seed=3", "--json", f"--multiple_of={multiple_of}",
                              check=True).stdout)
    assert len(found["networks"]) == 5
    predicted, measured = (np.array([n[k] for n in found["networks"]]) for k in ("predicted_s", "measured_s"))
    errors = np.abs(predicted / measured - 1)
    assert found["mean_abs_error"] == pytest.approx(errors.mean())
    assert found["max_abs_error"] == pytest.approx(errors.max())
    assert found["correlation"] == pytest.approx(np.corrcoef(predicted, measured)[0, 1])
    # what is predicted is what prune.py would print, times how fast the machine is by networks of the build
    network = describe("res", depth=10, width=0.25)
    table = tables.read_table(with_table / "built.pickle", network)
    expected = [tables.latency_s(network, w, table) for w in correction.judging_networks(network, 5, 3, multiple_of)]
    ratio = found["references_now_over_then"]
    np.testing.assert_allclose(predicted, np.array(expected) * (ratio if alike(ratio) else 1))


def test_validate_refuses(with_table, script):
    refused(script(*JUDGE[:-1]), "--perf_table is missing")
    refused(script(*BUILD[:-2]), "--save_file is missing")
    refused(script(*JUDGE[:-1], "--perf_table=absent"), "absent.pickle: no such file")
    refused(script(*JUDGE, "--depth=16", "--width=1"), "built.pickle: not a table of", "depth 16")
    refused(script(*JUDGE, "--benchmark_lite_loc=absent"), "absent: no benchmark_model binary there")
    refused(script(*BUILD, "--benchmark_lite_loc=absent"), "--mode=build measures with LiteRT", "--mode=load")
    refused(script(*BUILD, "--sample=0.05", "--save_file=s"), "--sample=0.05", "too few to see the steps")
    refused(script(*JUDGE, "--num_networks=1"), "--num_networks")
    assert sorted(p.name for p in with_table.iterdir()) == ["built.journal", "built.json", "built.pickle"]


def test_validate_says_where_the_machine_is_another(with_table, script):
    note = json.loads((with_table / "built.json").read_text())
    written_anew(with_table / "built.json", dict(note, version="2.17.0", device={"model": "Raspberry Pi 3"}))
    found = script(*JUDGE, "--num_networks=2", check=True)
    assert "measured with version 2.17.0, judged with" in found.stderr and "Raspberry Pi 3" in found.stderr


def test_a_journal_of_another_measurement_is_refused(with_table, script):
    journal = with_table / "built.journal"
    *lines, end = journal.read_text().splitlines(keepends=True)
    assert '"finished"' in end
    whole = "".join(lines)
    journal.write_text(whole)
    refused(script(*BUILD), "built.journal: an unfinished measurement", "--resume")
    for flag, word in (("--num_threads=2", "threads 1, now 2"), ("--width=0.5", "network"),
                       ("--seed=1", "seed 0, now 1"),
                       ("--spread=0.5", "spread 0.05, now 0.5"), ("--calibrate=3", "calibrate 30, now 3")):
        refused(script(*BUILD, "--resume", flag), "built.journal: began with", word)
    header = records_in(journal)[0]
    journal.write_text("\n".join([json.dumps(dict(header, runtime="tflite_runtime")), *whole.splitlines()[1:]]) + "\n")
    refused(script(*BUILD, "--resume"), "built.journal: began with runtime 'tflite_runtime', now 'ai_edge_litert'")
    for line in ('["Stride_9", 1, 1, [1e-5]]', '["FC", 99, 10, [1e-5]]', '["FC", 1, 9, [1e-5]]', '["FC", 1, 10, []]',
                 '["network", 77, 0, [1e-5]]', '{"probe": []}', '{"probe": [1e-5], "temperature_c": "hot"}', '"x"',
                 '[[], {}, 1, [1e-5]]',
                 '["FC", 1, 10, [NaN]]'):
        journal.write_text(whole + signed_line(json.loads(line)))
        refused(script(*BUILD, "--resume"), f"built.journal: line {len(whole.splitlines()) + 1} is no measurement")
    journal.write_text(whole)
    assert script(*BUILD, "--resume", check=True).stdout.startswith("perf_tables/built.pickle: ")
    assert journal.read_text().startswith(whole)  # a probe more, and what that shows to be unsettled


def test_a_noisy_machine_is_said_and_its_entries_named(script, tmp_path):
    found = script(*BUILD, "--spread=0.0001", "--calibrate=0", check=True)
    assert "warning: a noisy machine" in found.stderr and "the note names all" in found.stderr
    note = json.loads((tmp_path / "perf_tables/built.json").read_text())
    assert sum(len(entries.split()) for entries in note["unsettled"].values()) > 20 and "correction" not in note
    assert (tmp_path / "perf_tables/built.pickle").exists()


def test_an_unfinished_journal_is_kept_whatever_the_clock_says(with_table, script):
    journal = with_table / "built.journal"
    *lines, _ = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines))
    os.utime(journal, (1, 1))  # a board without a clock: older than the table
    refused(script(*BUILD), "built.journal: an unfinished measurement", "--resume")
    assert journal.read_text() == "".join(lines)


def test_two_processes_do_not_share_a_journal(tmp_path, script):
    slow = [*BUILD, "--num_passes=50"]
    process = subprocess.Popen([sys.executable, str(ROOT / slow[0]), *slow[1:]], cwd=tmp_path, env=environment(),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        journal = tmp_path / "perf_tables/built.journal"
        while process.poll() is None and not (journal.exists() and journal.stat().st_size > 5000):
            time.sleep(0.01)
        for more in ([], ["--resume"]):
            refused(script(*slow, *more), "built.journal: another process is writing it")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    refused(script(*BUILD, "--num_passes=50", "--num_measures=3", "--resume"), "num_measures")  # its lock went with it


def test_a_table_that_cannot_be_written_leaves_the_one_before_with_its_note(with_table, script):
    before = {p.name: p.read_bytes() for p in with_table.iterdir()}
    limited = subprocess.run(["sh", "-c", f"ulimit -f 4; exec {sys.executable} {ROOT}/perf_tables/merge_perf_tables.py "
                              "built built built --force"], cwd=with_table.parent, capture_output=True, text=True,
                             env=environment())
    refused(limited, "perf_tables/built.json: File too large")
    assert {p.name: p.read_bytes() for p in with_table.iterdir()} == before
    (with_table / "folder.pickle").mkdir()
    refused(script(*BUILD[:-2], "--save_file=folder"), "folder.pickle: a folder")


def test_a_table_of_another_machine_is_not_made_to_fit(with_table, script):
    """Ten times slower, probe and networks and all: the error is said as it is."""
    note = json.loads((with_table / "built.json").read_text())
    arrays = table_files.read_arrays(with_table / "built.pickle")
    note["probe"]["usual_s"] *= 10
    note["correction"]["overhead_s"] *= 10
    note["references"]["seconds"] = [10 * s for s in note["references"]["seconds"]]
    table_files.write_pair(with_table / "built.pickle", {k: 10 * a for k, a in arrays.items()}, note)
    found = json.loads(script(*JUDGE, "--num_networks=3", "--json", check=True).stdout)
    assert found["mean_abs_error"] > 3 and found["probe_now_over_then"] < 0.5
    assert found["references_now_over_then"] < 0.5


def test_a_sample_fills_the_table_and_reports_its_error(script, tmp_path):
    flags = ["compute_table.py", "--depth=10", "--width=1", "--img_size=8", "--mode=build", "--num_measures=2",
             "--save_file=s",
             "--sample=0.12", "--calibrate=5"]
    found = script(*flags, check=True)
    assert re.search(r"filled in from a sample; off by \d+\.\d% \(median\)", found.stderr)
    note = json.loads((tmp_path / "perf_tables/s.json").read_text())["sampling"]
    assert note["measured"] <= 0.12 * note["of"] and note["error_on_held_out"]["entries"] > 30
    network = describe("res", depth=10, width=1.0)
    table = table_files.read_arrays(tmp_path / "perf_tables/s.pickle")
    assert {k: v.shape for k, v in table.items()} == {k: t.shape for k, t in network.tables.items()}


def test_merged_tables_keep_a_correction_only_if_all_have_one(with_table, script):
    note = json.loads((with_table / "built.json").read_text())
    for name, made in (("a", {"factor": 1.0, "overhead_s": 0.0}), ("b", {"factor": 1.1, "overhead_s": 2e-6}),
                             ("c", None)):
        shutil.copy(with_table / "built.pickle", with_table / f"{name}.pickle")
        written_anew(with_table / f"{name}.json", dict(note, correction=made))
    script("perf_tables/merge_perf_tables.py", "ab", "a", "b", check=True)
    script("perf_tables/merge_perf_tables.py", "abc", "a", "b", "c", check=True)
    assert json.loads((with_table / "ab.json").read_text())["correction"] == \
        {"factor": pytest.approx(1.05), "overhead_s": pytest.approx(1e-6)}
    assert "correction" not in json.loads((with_table / "abc.json").read_text())


def test_tables_are_drawn(with_table, script):
    plot = "perf_tables/plot_perf_table.py"
    assert "built.png: 14 kinds of layers" in script(plot, "built", check=True).stdout
    arrays = table_files.read_arrays(with_table / "built.pickle")
    table_files.write_pair(with_table / "other.pickle", {k: 1.25 * a for k, a in arrays.items()}, {})
    found = script(plot, "built", "other", "--output=both.png", check=True).stdout
    assert "other against built: 25.00% apart (median), 25.00% (95th percentile) over 876 entries" in found
    assert (with_table / "built.png").read_bytes() != (with_table.parent / "both.png").read_bytes()
    refused(script(plot, "absent"), "perf_tables/absent.pickle: no such file")
    refused(script(plot, "built", "--output=x.jpg"), "--output=x.jpg", ".png")
    table_files.write_pair(with_table / "strange.pickle", {"Other": np.ones((2, 2))}, {})
    refused(script(plot, "built", "strange"), "strange.pickle: has no kind of layer in common")


def test_a_check_looks_at_the_board_and_says_how_long_a_table_takes(script, tmp_path):
    found = script("compute_table.py", "--mode=check", "--depth=10", "--width=0.25", check=True)
    subjects = [line[:12].strip() for line in found.stdout.splitlines() if not line.startswith(" ")]
    assert subjects == ["board", "system", "clock", "temperature", "throttling", "load", "measuring", "runtime",
                        "table", "to change"]
    assert "ai_edge_litert 2." in found.stdout and ", 1 thread, delegate XNNPACK" in found.stdout
    assert "table       876 entries, about " in found.stdout and found.stderr == ""
    facts = json.loads(script("compute_table.py", "--mode=check", "--depth=10", "--width=0.25", "--json",
                              check=True).stdout)
    assert facts["entries"] == 876 and facts["table_s"] > 0 and facts["trouble"] is None
    assert facts["conditions"]["python_bits"] in (32, 64) and facts["tool"]["delegate"] == "XNNPACK"
    assert list(tmp_path.iterdir()) == []


def test_a_check_without_a_runtime_says_why_and_ends_with_2(process, tmp_path, monkeypatch):
    package = tmp_path / "packages/ai_edge_litert"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text("raise ImportError('libm.so.6: version `GLIBC_2.38` not found')")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    found = process("compute_table.py", "--mode=check", "--depth=10", "--width=0.25")
    assert found.returncode == 2 and "runtime     none, 1 thread, delegate not known" in found.stdout
    assert found.stderr.count("\n") == 1 and "GLIBC_2.38` not found" in found.stderr


def test_a_note_tells_the_conditions_and_the_delegate(with_table):
    note = json.loads((with_table / "built.json").read_text())
    assert note["delegate"] == "XNNPACK" and note["other_delegates"] == {} and note["elapsed_s"] > 0
    for when in ("conditions", "conditions_at_end"):
        assert {"kernel", "governors", "clocks_mhz", "load", "affinity", "python_bits", "throttling"} <= set(note[when])
    assert note["max_temp_c"] is None or note["max_temp_c"] > 0


# --- few entries, found while measuring ------------------------------------------------------------------------

FEW = ["compute_table.py", "--mode=build", "--sample", "--max_error=1", "--num_measures=2", "--calibrate=6"]


@pytest.fixture
def nets(tmp_path):
    """networks/mine.json, and networks/wider.json with the same operators."""
    (tmp_path / "networks").mkdir()
    for content in (imported_like("mine"), imported_like("wider", 20, 28)):
        (tmp_path / f"networks/{content['name']}.json").write_text(json.dumps(content))
    return {name: from_dict(imported_like(name, *sizes)) for name, sizes in (("mine", ()), ("wider", (20, 28)))}


def test_few_entries_of_a_described_network_give_a_table_that_any_pickle_opens(nets, script, tmp_path):
    found = script(*FEW, "--net=mine", "--save_file=few", check=True)
    path, network = tmp_path / "perf_tables/few.pickle", nets["mine"]
    with open(path, "rb") as file:
        plain = pickle.load(file)
    assert set(plain) == {"format", "operators"} and plain["operators"].keys() == network.tables.keys()
    note = table_files.read_note(path)
    about, measured = note["sampling"], sum(len(o["measured"]["seconds"]) for o in plain["operators"].values())
    assert about["measured"] == measured == note["entries"] < about["of"] == sum(
        t.rows * t.columns for t in network.tables.values())
    assert about["stopped_by"] == "max_error" and about["rounds"] == 2 and about["networks"] == 6
    assert about["max_error"] == 1 and about["minutes"] == 10 and about["reused"] == 0
    assert 0 <= about["expected_error"] < 1
    assert about["tiles"].keys() == {key for key, o in plain["operators"].items() if o["fit"]}
    assert len(about["tiles"]) == 2 and about["error_on_held_out"]["entries"] >= 48
    assert note["correction"]["networks"] == 6 and note["sample"] == "few points"
    assert re.search(rf"{measured} of [\d,]+ entries, 2 rounds; whole networks are expected to be predicted within "
                     r"\d+\.\d% \(mean; each within \d+\.\d%\); ended because as good as --max_error=1 asked for",
                     found.stderr)
    assert found.stdout.startswith(f"perf_tables/few.pickle: {measured} entries measured in ")
    table = tables.read_table(path, network)
    assert {k: v.shape for k, v in table.items()} == {k: t.shape for k, t in network.tables.items()}
    judged = script("compute_table.py", "--mode=validate", "--net=mine", "--perf_table=few", "--num_networks=2",
                    "--json", check=True)
    assert all(n["predicted_s"] > 0 for n in json.loads(judged.stdout)["networks"])


def test_few_entries_of_a_wideresnet_give_arrays_that_earlier_programs_read(script, tmp_path):
    script(*FEW, "--depth=10", "--width=0.5", "--img_size=8", "--save_file=few", check=True)
    network = describe("res", depth=10, width=0.5, img_size=8)
    with open(tmp_path / "perf_tables/few.pickle", "rb") as file:
        plain = pickle.load(file)
    assert {k: v.shape for k, v in plain.items()} == {k: t.shape for k, t in network.tables.items()}
    assert all(v.dtype == np.float64 and (v > 0).all() for v in plain.values())
    about = json.loads((tmp_path / "perf_tables/few.json").read_text())["sampling"]
    assert about["measured"] < about["of"] == 3016 and about["rounds"] == 2
    assert sum(len(pairs.split()) for pairs in about["entries"].values()) == about["measured"]
    again = script(*FEW, "--depth=10", "--width=0.5", "--img_size=8", "--reuse", "few", "--save_file=again")
    assert f"perf_tables/few.pickle: {about['measured']} entries of {len(network.tables)} operators are reused" in (
        again.stderr)
    if again.returncode:  # other programs came or went between the two
        assert "the entries that are reused take" in again.stderr.splitlines()[-1]
        pytest.skip("the machine's speed changed by more than a table may be scaled")
    about = json.loads((tmp_path / "perf_tables/again.json").read_text())["sampling"]
    assert sum(len(pairs.split()) for pairs in about["entries"].values()) == about["measured"] >= about["reused"] > 0


def test_what_few_entries_cannot_do_is_refused(nets, script, tmp_path):
    net = ["--net=mine", "--save_file=few"]
    refused(script("compute_table.py", "--mode=save", "--sample", *net), "--sample without a value chooses its entries "
            "while it measures, which only --mode=build can", "--sample=0.05")
    refused(script(*FEW[:2], *net, "--reuse", "other"), "--reuse: only --sample without a value can leave entries out")
    refused(script(*FEW[:2], *net, "--sample=0.9", "--reuse", "other"), "--reuse: only --sample without a value")
    refused(script(*FEW, *net, "--reuse", "absent"), "absent.pickle: no such file")
    refused(script(*FEW[:2], *net, "--multiple_of=8"), "--multiple_of=8: only --sample without a value")
    refused(script(*FEW, *net, "--max_error=0"), "--max_error")
    refused(script(*FEW, *net, "--minutes=0"), "--minutes")
    assert not list((tmp_path / "perf_tables").glob("few.*"))


def test_too_few_minutes_are_refused_with_how_many_are_needed(nets, script, tmp_path):
    slow = [*FEW, "--net=mine", "--save_file=few", "--num_measures=20000", "--minutes=0.01"]
    found = script(*slow)
    refused(found, "--minutes=0.01: a fit of this network needs", "entries and 6 whole networks, which take about")
    assert re.search(r"take about ([\d.]+) minutes here; expected --minutes=\1 or more$", found.stderr.strip())
    assert sorted(p.name for p in (tmp_path / "perf_tables").iterdir()) == ["few.journal"]


def labels(path):
    """How often each item was visited."""
    return Counter(tuple(r[:-1]) for r in records_in(path)[1:] if isinstance(r, list))


@pytest.mark.parametrize("part", [0.2, 0.8])
def test_an_interrupted_measurement_of_few_entries_goes_on(nets, script, tmp_path, part):
    flags = [*FEW, "--net=mine", "--save_file=few", "--spread=10", "--drift=10"]  # little is visited a third time
    script(*flags, check=True)
    journal = tmp_path / "perf_tables/few.journal"
    lines = journal.read_text().splitlines(keepends=True)
    kept = "".join(lines[:int(part * len(lines))])
    journal.write_text(kept)
    (tmp_path / "perf_tables/few.pickle").unlink()
    refused(script(*flags), "few.journal: an unfinished measurement", "--resume")
    script(*flags, "--resume", check=True)
    assert journal.read_text().startswith(kept) and set(labels(journal).values()) <= {2, 3, 4}
    note = table_files.read_note(tmp_path / "perf_tables/few.pickle")
    assert note["visits_from_before_a_resume"] == kept.count("\n[") and note["sampling"]["stopped_by"] == "max_error"
    before = labels(journal)
    again = script(*flags, "--resume", check=True)
    assert again.stdout.startswith("perf_tables/few.pickle: ") and labels(journal) == before


def test_entries_that_another_network_has_measured_are_reused(nets, script, tmp_path):
    script(*FEW, "--net=wider", "--save_file=wider", check=True)
    found = script(*FEW, "--net=mine", "--save_file=few", "--reuse", "wider")
    count = int(re.search(r"perf_tables/wider.pickle: (\d+) entries of \d operators are reused", found.stderr)[1])
    if found.returncode:  # other programs came or went between the two
        assert "the entries that are reused take" in found.stderr.splitlines()[-1]
        pytest.skip("the machine's speed changed by more than a table may be scaled")
    note = table_files.read_note(tmp_path / "perf_tables/few.pickle")
    assert note["sampling"]["reused"] == count > 100 and note["reuse"] == ["perf_tables/wider.pickle"]
    assert f"{count} entries reused" in found.stderr
    assert note["entries"] < note["sampling"]["measured"]
    tables.read_table(tmp_path / "perf_tables/few.pickle", nets["mine"])
    written_anew(tmp_path / "perf_tables/wider.json", dict(json.loads(
        (tmp_path / "perf_tables/wider.json").read_text()), version="2.0.0"))
    refused(script(*FEW, "--net=mine", "--save_file=other", "--reuse", "wider"),
            "perf_tables/wider.pickle: measured with version 2.0.0, now with", "leave it out of --reuse")


def test_a_check_says_how_many_entries_few_are(nets, script):
    found = script("compute_table.py", "--mode=check", "--sample", "--net=mine", check=True).stdout
    entries = int(re.search(r"table +([\d,]+) entries", found)[1].replace(",", ""))
    assert 100 < entries < sum(t.rows * t.columns for t in nets["mine"].tables.values())
