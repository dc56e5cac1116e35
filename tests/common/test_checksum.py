"""Checksums are of values: the same content has the same one, any other content another."""

import json

import numpy as np
import pytest
import torch

from utils.common import checksum
from utils.common.checksum import checked, keeps_edits, sha256_of_content, signed_json, with_checksum
from utils.common.errors import UserError

CONTENT = {"a": [1, 2.5, None, True], "b": {"c": "text", "d": (1,)}, "e": np.arange(6.0).reshape(2, 3)}


def test_what_a_tensor_holds_counts_and_not_how_it_lies_in_memory():
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4)
    lying = tensor.contiguous(memory_format=torch.channels_last)
    assert lying.stride() != tensor.stride()
    assert sha256_of_content({"w": tensor}) == sha256_of_content({"w": lying}) == sha256_of_content({
        "w": tensor.numpy()})
    assert sha256_of_content(torch.tensor(3)) == sha256_of_content(np.int64(3)) != sha256_of_content(3)


class OnAGraphicsCard:
    """Behaves as a CUDA tensor does: NumPy cannot read it where it is."""

    def __init__(self, values):
        self.values, self.dtype, self.shape = values, values.dtype, values.shape

    def cpu(self):
        return self.values

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def test_where_a_tensor_is_does_not_count():
    values = torch.arange(6.0).reshape(2, 3)
    assert sha256_of_content({"w": OnAGraphicsCard(values)}) == sha256_of_content({"w": values})
    if torch.cuda.is_available():
        assert sha256_of_content({"w": values.cuda()}) == sha256_of_content({"w": values})


@pytest.mark.parametrize("other", [
    {**CONTENT, "a": [1, 2.5, None, False]}, {**CONTENT, "a": [1, 2.5, "None", True]},
    {**CONTENT, "a": [1.0, 2.5, None, True]},
    {**CONTENT, "b": {"c": "text", "d": [1]}}, {**CONTENT, "b": {"c": "text", "d": (1, 2)}},
    {**CONTENT, "e": np.arange(6.0).reshape(3, 2)}, {**CONTENT, "e": np.arange(6.0, dtype=np.float32).reshape(2, 3)},
    {**CONTENT, "f": 0}, {k: v for k, v in CONTENT.items() if k != "a"}, {"b": CONTENT["b"], **CONTENT}])
def test_every_other_content_has_another_one(other):
    assert sha256_of_content(other) != sha256_of_content(CONTENT)


def test_a_content_comes_back_without_its_checksum_and_a_changed_one_does_not(tmp_path):
    path = tmp_path / "a"
    assert checked(path, with_checksum({"a": 1}), "").items() == {"a": 1}.items()
    with pytest.raises(UserError, match="a: damaged or edited, it does not match the checksum in it; do this"):
        checked(path, {**with_checksum({"a": 1}), "a": 2}, "do this")


def test_json_is_read_back_to_what_its_checksum_is_of(tmp_path):
    found = json.loads(signed_json({"tuple": (1, 2), "number": 0.1 + 0.2, "nested": {"x": None}}))
    assert checked(tmp_path, found, "") == {"tuple": [1, 2], "number": 0.1 + 0.2, "nested": {"x": None}}


def test_an_edit_is_accepted_where_the_checksum_is_deleted(tmp_path, capsys):
    edited = {**json.loads(signed_json({"a": 1})), "a": 2}
    with pytest.raises(UserError, match='restore it, or delete its "sha256" to use it as it is'):
        checked(tmp_path / "x.json", edited, keeps_edits("restore it"))
    del edited[checksum.KEY]
    for _ in range(2):
        assert checked(tmp_path / "x.json", edited, "") == {"a": 2}
        checksum.note_without(tmp_path / "x.json", edited)
    checksum.note_without(tmp_path / "y.json", with_checksum(edited))
    assert capsys.readouterr().err.count("carries no checksum") == 1, "said once"
