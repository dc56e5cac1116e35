"""What libraries print: silenced or in a file, on Python's streams and on the descriptors below them.

In processes of their own: pytest's capture stands between the two."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT, environment

SPOKEN = f"""
import os, subprocess, sys
sys.path.insert(0, {str(ROOT)!r})
from utils.common.output import printing_to, quiet

def spoken(number):
    print("python", number)
    print("error", number, file=sys.stderr)
    os.write(1, f"library {{number}}\\n".encode())
    os.write(2, f"complaint {{number}}\\n".encode())

"""


@pytest.fixture
def said(tmp_path):
    """(stdout, stderr) of code after SPOKEN, in sorted lines."""
    def run(code):
        found = subprocess.run([sys.executable, "-c", SPOKEN + code], cwd=tmp_path, capture_output=True, text=True,
                               env=environment(PYTHONUNBUFFERED=""))  # what is held back matters
        assert found.returncode == 0, found.stderr
        return sorted(found.stdout.splitlines()), sorted(found.stderr.splitlines())
    return run


def lines(words, numbers):
    return sorted(f"{word} {number}" for word in words for number in numbers)


OUT, ERR = ("python", "library"), ("error", "complaint")


def test_quiet_silences_the_descriptors_it_is_given_and_gives_them_back(said):
    found = said("spoken(1)\nwith quiet(1):\n    spoken(2)\nwith quiet(1, 2):\n    spoken(3)\nspoken(4)")
    assert found == (lines(OUT, (1, 4)), lines(ERR, (1, 2, 4)))


def test_what_goes_wrong_is_raised_and_the_descriptors_are_back(said):
    found = said("try:\n    with quiet(1, 2):\n        spoken(1)\n        raise ValueError\nexcept ValueError:\n"
                 "    spoken(2)")
    assert found == (lines(OUT, (2,)), lines(ERR, (2,)))


def test_everything_goes_to_the_file_in_order(said, tmp_path):
    found = said("with open('log', 'w', buffering=1) as log, printing_to(log):\n    spoken(1)\n"
                 "    subprocess.run([sys.executable, '-c', 'print(\"child\")'], check=True)\nspoken(2)")
    assert (tmp_path / "log").read_text().splitlines() == ["python 1", "error 1", "library 1", "complaint 1", "child"]
    assert found == (lines(OUT, (2,)), lines(ERR, (2,)))


def test_a_closed_descriptor_stays_closed(said):
    out, err = said("os.close(1)\nwith quiet(1, 2):\n    os.write(2, b'unseen')\ntry:\n    os.fstat(1)\n"
                    "except OSError:\n    os.write(2, b'closed\\n')\nsys.stdout = None")
    assert out == [] and err == ["closed"]
