"""Flags, and how a script ends: a line and an exit code for everything that a user can put right."""

import argparse
import errno
import signal
import subprocess
import sys

import pytest

from tests.helpers import ROOT, environment
from utils.common import cli
from utils.common.errors import UserError


def raising(error):
    def main():
        raise error
    return main


@pytest.mark.parametrize("error, code, line", [
    (UserError("a.t7: wrong\n in two  lines"), 2, "error: a.t7: wrong in two lines"),
    (ImportError("No module named 'x'"), 2, "error: No module named 'x' in this Python; install it, or everything "
     "with pip install -r requirements.txt, on a board requirements-pi.txt"),
    (MemoryError(), 2, "error: too little memory (no details known); a smaller --batch_size, --depth, --width or "
     "--img_size, or --sample, needs less"),
    (OSError(errno.ENOSPC, "No space left on device", "a.t7"), 2, "error: a.t7: No space left on device; what was "
     "finished is kept"),
    (OSError("odd"), 2, "error: odd; what was finished is kept")])
def test_what_goes_wrong_is_one_line_and_a_code(capsys, error, code, line):
    with pytest.raises(SystemExit) as end:
        cli.run(raising(error))
    assert end.value.code == code and capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize("argv, resumable, line", [
    (["a.py", "--x=1 2"], True, "stopped; what was finished is kept. To go on: python a.py '--x=1 2' --resume"),
    (["a.py", "--resume", "--y"], True, "stopped; what was finished is kept. To go on: python a.py --y --resume"),
    (["a.py", "--y"], False, "stopped; nothing was written. To run it again: python a.py --y")])
def test_ctrl_c_gives_the_command_that_goes_on(capsys, monkeypatch, argv, resumable, line):
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as end:
        cli.run(raising(KeyboardInterrupt()), resumable=resumable)
    assert end.value.code == 130 and capsys.readouterr().err == f"\n{line}\n"


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_end_like_ctrl_c(capsys, monkeypatch, number, code):
    monkeypatch.setattr(sys, "argv", ["a.py"])
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as end:
            cli.run(lambda: signal.raise_signal(number))
        assert end.value.code == code and "stopped; what was finished is kept. To go on" in capsys.readouterr().err
        assert signal.getsignal(number) is signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)  # by nohup
        cli.run(lambda: signal.raise_signal(number))
    finally:
        signal.signal(number, before)


def test_a_defect_shows_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(raising(ZeroDivisionError()))


def test_a_reader_that_leaves_ends_the_script_as_a_shell_does():
    code = ("import sys\n" f"sys.path.insert(0, {str(ROOT)!r})\n" "from utils.common import cli\n"
            "cli.run(lambda: [print('x' * 1000) for _ in range(1000)])")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=environment())
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141


@pytest.mark.parametrize("kind, good, bad", [
    (cli.within(int, 1, 5), {"1": 1, "5": 5}, ["0", "6", "2.5", "x", ""]),
    (cli.within(float, 1e-3, 2), {"0.001": 1e-3, "2": 2.0}, ["0", "2.1", "nan", "x"]),
    (cli.fraction, {"0.5": 0.5}, ["0", "1", "nan", "-1"]), (cli.part, {"0.5": 0.5, "1": 1.0}, ["0", "1.1", "nan"])])
def test_numbers_within_their_limits(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises((argparse.ArgumentTypeError, ValueError)):
            kind(text)


def test_help_has_a_default_for_every_flag_that_has_one(capsys):
    parser = cli.new_parser("What it is for.\n\nMore of it.")
    cli.add_network_flags(parser)
    cli.add_data_flags(parser)
    cli.add_run_flags(parser, resume="go on")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "What it is for." in text and "More of it" not in text
    for words in ("res: 6n + 4, default 40", "resnet: 6n + 2", "default 2;", "(default: cifar10)", "(default: 0.1)"):
        assert words in text
    assert "(default: None)" not in text and "(default: False)" not in text


def test_without_defaults_a_flag_is_none_until_given():
    parser = cli.new_parser("x")
    cli.add_network_flags(parser, defaults=False)
    cli.add_data_flags(parser, defaults=False)
    assert {v for k, v in vars(parser.parse_args([])).items() if k != "workers"} == {None}


def test_flags_of_the_original_scripts(capsys):
    parser = cli.new_parser("x")
    cli.add_network_flags(parser)
    cli.optimiser_flags(parser, learning_rate=0.1, rate_help="rate")
    spelled = parser.parse_args(["--depth=16", "--width=0.5", "--weight_decay=0.01"])
    assert (spelled.depth, spelled.width, spelled.weight_decay) == (16, 0.5, 0.01)
    for flags in (["-d", "16", "-w", "0.5", "--wd", "0.01"], ["-d16", "-w0.5", "--wd=0.01"],
                  ["-d=16", "-w=.5", "--wd=1e-2"]):
        assert parser.parse_args(flags) == spelled
    assert capsys.readouterr().err == ""
    assert parser.parse_args(["--eval_method=tf-lite-2-times", "--tmp_folder", "/dev/shm/tmp", "--depth=16",
                              "--width=0.5", "--wd=0.01"]) == spelled
    assert capsys.readouterr().err == (
        "note: --eval_method=tf-lite-2-times: this flag of the original scripts has no meaning here; it is ignored\n"
        "note: --tmp_folder=/dev/shm/tmp: this flag of the original scripts has no meaning here; it is ignored\n")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = capsys.readouterr().out
    assert "--depth DEPTH, -d DEPTH" in text and "--weight_decay WEIGHT_DECAY, --wd WEIGHT_DECAY" in text
    assert "eval_method" not in text and "tmp_folder" not in text


@pytest.mark.parametrize("flags, words", [
    (["--eval_method"], "argument --eval_method: expected one argument"),
    (["-d", "x"], "argument --depth/-d: invalid int value: 'x'"), (["-x", "1"], "unrecognized arguments: -x 1")])
def test_short_flags_are_as_strict_as_long_ones(capsys, flags, words):
    parser = cli.new_parser("x")
    cli.add_network_flags(parser)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(flags)
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_a_wrong_flag_is_one_line_that_names_help(capsys):
    parser = cli.new_parser("x")
    parser.prog = "a.py"
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--nothing"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --nothing (a.py --help lists the flags)\n"


def test_flags_that_came_by_another_flag_are_refused_in_its_name():
    parser = cli.new_parser("x")
    parser.add_argument("--n", type=int)
    assert cli.parsed(parser, ["--n=3"], "--train_flags").n == 3
    with pytest.raises(UserError, match="--train_flags: argument --n: invalid int value: 'x'"):
        cli.parsed(parser, ["--n=x"], "--train_flags")


def test_a_network_that_cannot_be_is_the_users_to_put_right():
    assert cli.describe_or_fail(net="res", depth=10, width=1.0).short_name == "res-10-1"
    with pytest.raises(UserError, match="--depth=11: "):
        cli.describe_or_fail(net="res", depth=11, width=1.0)


def test_each_architecture_has_its_own_flags_and_defaults(monkeypatch):
    assert cli.describe_or_fail(net="res", depth=None, width=None).short_name == "res-40-2"
    assert cli.describe_or_fail(net="resnet", depth=20, width=None, num_classes=5).short_name == "resnet-20-1"
    with pytest.raises(UserError, match="--net=resnet: needs --depth, 6n \\+ 2"):
        cli.describe_or_fail(net="resnet", depth=None, width=None)
    monkeypatch.setattr(cli.ARCHITECTURES["resnet"], "FLAGS", {"depth": (None, "6n + 2")})
    with pytest.raises(UserError, match="--net=resnet: takes no --width"):
        cli.describe_or_fail(net="resnet", depth=20, width=2.0)


def test_help_shows_a_default_of_zero(capsys):
    parser = cli.new_parser("x")
    parser.add_argument("--seed", type=int, default=0, help="seed")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "seed (default: 0)" in capsys.readouterr().out
