"""The folder of --mode=save: for one network, whole files alone, a share at a time."""

import json

import numpy as np
import pytest

from model.architectures import describe
from utils.common.errors import UserError
from utils.latency import variants
from utils.latency.entries import Entries

SMALL = describe("res", depth=10, width=0.0625)
COUNT = len(Entries(SMALL))
ALL = slice(0, None, 1)


def write(folder, share=ALL, num_images=1, network=SMALL, converter="direct"):
    found = list(variants.write_share(folder, network, num_images=num_images, converter=converter,
                                      wanted=np.arange(COUNT)[share], jobs=1))
    return sum(new for new, _ in found), sum(whole for _, whole in found)


def missing(folder):
    return variants.missing_files(folder, Entries(SMALL), np.arange(COUNT))


def test_every_entry_has_a_file_and_whole_ones_are_left_alone(tmp_path):
    assert len(missing(tmp_path)) == COUNT
    assert write(tmp_path) == (COUNT, 0) and missing(tmp_path) == []
    assert write(tmp_path) == (0, COUNT)
    first, second = (variants.file_path(tmp_path, *Entries(SMALL)[n]) for n in (0, 1))
    whole = first.read_bytes()
    first.write_bytes(whole[:-1])
    second.unlink()
    assert missing(tmp_path) == [second]
    assert write(tmp_path) == (2, COUNT - 2) and first.read_bytes() == whole


def test_shares_make_up_the_whole(tmp_path):
    counts = [write(tmp_path, slice(n, None, 3))[0] for n in range(3)]
    assert sum(counts) == COUNT and max(counts) - min(counts) <= 1
    assert missing(tmp_path) == []


def test_a_folder_of_another_network_is_refused(tmp_path):
    with pytest.raises(UserError, match="manifest.json: missing; make the files with compute_table.py --mode=save"):
        variants.check_manifest(tmp_path, SMALL, 1)
    write(tmp_path)
    assert variants.check_manifest(tmp_path, SMALL, 1)["converter"] == "direct"
    with pytest.raises(UserError, match="these files are for network .*width=0.0625.*asked for .*width=0.25"):
        write(tmp_path, network=describe("res", depth=10, width=0.25))
    with pytest.raises(UserError, match="for num_images 1, asked for 8"):
        write(tmp_path, num_images=8)
    with pytest.raises(UserError, match="made with --converter=direct; name another --output_folder"):
        write(tmp_path, converter="keras")


@pytest.mark.parametrize("text, words", [("{", "not whole JSON"), ("[]", "these files are for network None"),
                                         ("{}", "these files are for network None"),
                                         (json.dumps({"network": 3}), "these files are for network 3")])
def test_a_broken_manifest_is_named(tmp_path, text, words):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=f"manifest.json: {words}"):
        variants.check_manifest(tmp_path, SMALL, 1)
