"""A script answers signals from its first moment on, and leaves none of its answers behind."""

import signal
import subprocess
import sys

import pytest

from tests.helpers import ROOT, environment, run_here
from utils.common import signals

SCRIPTS = ("train.py", "prune.py", "compute_table.py", "export.py", "compare.py", "import_network.py",
           "perf_tables/merge_perf_tables.py", "perf_tables/plot_perf_table.py")


def hearing():
    """A process that was itself started in the background, or by nohup, hands on that signals are ignored."""
    for number in signals.NUMBERS:
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", signals.NUMBERS, ids=lambda n: n.name)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_signal_while_a_script_imports_its_modules(tmp_path, name, number):
    """A module that every script imports stands still until the signal comes."""
    (tmp_path / "argparse.py").write_text("import signal\nprint('importing', flush=True)\nsignal.pause()\n")
    process = subprocess.Popen([sys.executable, str(ROOT / name), "--a", "b c"], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hearing,
                               env=environment(PYTHONPATH=str(tmp_path)))
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert errors == f"stopped before anything began. To run it again: python {ROOT / name} --a 'b c'\n"


def test_what_nohup_ignores_stays_ignored(tmp_path):
    code = ("import signal, os, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
            f"sys.path.insert(0, {str(ROOT)!r})\nfrom utils.common import signals\nsignals.answer_at_once()\n"
            "os.kill(os.getpid(), signal.SIGHUP)\nwith signals.raised(): os.kill(os.getpid(), signal.SIGHUP)\n"
            "print('still here')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("still here\n", 0)


def test_a_script_run_in_a_notebook_leaves_its_signals_alone(tmp_path):
    before = [signal.getsignal(number) for number in signals.NUMBERS]
    assert run_here("perf_tables/plot_perf_table.py", "absent", cwd=tmp_path).returncode == 2
    assert [signal.getsignal(number) for number in signals.NUMBERS] == before
    with pytest.raises(signals.Stopped), signals.raised():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in signals.NUMBERS] == before
