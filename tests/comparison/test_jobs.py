"""Jobs of a comparison: commands run in their folder until one fails, and the log has all that they print."""

import sys
from pathlib import Path

import pytest

from utils.comparison import jobs
from utils.comparison.jobs import Ended, Job, last_line, parser_of, run_job


def job(folder, *commands):
    return Job("one", str(folder), "log", commands)


def test_commands_run_in_their_folder_and_the_log_has_them(tmp_path, capsys):
    argv, here = list(sys.argv), Path.cwd()
    plan = ("prune.py", "--plan", "--net=res", "--depth=10", "--width=1", "--perf_table=macs", "--pruning_fact=0.4")
    assert run_job(job(tmp_path, plan, plan)) == Ended("one", 0)
    log = (tmp_path / "log").read_text()
    assert log.count("$ python prune.py --plan --net=res ") == 2 and log.count("total multiply-accumulate") == 2
    assert (sys.argv, Path.cwd()) == (argv, here) and capsys.readouterr() == ("", "")


def test_the_first_that_fails_ends_the_job_and_its_last_line_says_why(tmp_path):
    wrong = ("prune.py", "--plan", "--perf_table=gone", "--pruning_fact=0.4")
    assert run_job(job(tmp_path, wrong, ("train.py", "--help"))) == Ended("one", 2)
    assert last_line(tmp_path / "log").startswith("error: perf_tables/gone.pickle: no such file")
    assert "train.py" not in (tmp_path / "log").read_text()


def test_ctrl_c_is_not_taken_for_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_run", lambda command, log: 130)
    with pytest.raises(KeyboardInterrupt):
        run_job(job(tmp_path, ("train.py",)))


def test_a_fault_of_a_script_is_a_traceback_in_the_log(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a fault")
    monkeypatch.setattr(jobs.runpy, "run_path", broken)
    assert run_job(job(tmp_path, ("train.py",))) == Ended("one", 1)
    assert last_line(tmp_path / "log") == "ZeroDivisionError: a fault"


@pytest.mark.parametrize("text, line", [("", "it printed nothing"), ("a\n b \n\n", "b"), ("bar 1\rbar 2\n", "bar 2")])
def test_the_last_line_of_a_log(tmp_path, text, line):
    (tmp_path / "log").write_text(text)
    assert last_line(tmp_path / "log") == line


def test_flags_are_a_scripts_own_word():
    assert parser_of("train.py").parse_args(["--save_file=x"]).epochs == 200
