"""What a .tflite file says of itself: it is read back, and what is broken in it is named."""

import io
import zipfile

import pytest
import torchvision  # noqa: F401  brings Triton, which crashes where TensorFlow was loaded before it
from ai_edge_litert.interpreter import Interpreter

from model.architectures import describe
from tests.helpers import described, plain_model
from utils.common.errors import UserError
from utils.deploy import metadata

NETWORK = describe("res", depth=10, width=0.5)


def test_labels_and_description_stand_in_a_zip_archive(tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(described())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and archive.namelist() == ["labels.txt", "network.json"]
        assert archive.read("labels.txt").decode().splitlines() == [f"class {i}" for i in range(10)]
    about = metadata.read(path)
    assert about.network == NETWORK and about.widths["Conv_3_0_1"] == 0
    path.write_bytes(plain_model()[0])
    assert metadata.read(path) is None
    assert described() == described()
    Interpreter(model_content=described()).allocate_tensors()


def rezipped(name, text):
    buffer = io.BytesIO(plain_model()[0])
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return buffer.getvalue()


def flipped(raw, index):
    return raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1:]


@pytest.mark.parametrize("raw, words", [
    (lambda: rezipped("network.json", "{"), r"its network.json cannot be read \(JSONDecodeError"),
    (lambda: rezipped("network.json", "[" * 100_000), "its network.json cannot be read"),
    (lambda: rezipped("network.json", "[]"), "expected an object, found list"),
    (lambda: rezipped("network.json", " " * (metadata.LARGEST + 1)), "larger than"),
    (lambda: flipped(described(), -400), "its network.json cannot be read"),
    (lambda: rezipped("network.json", "{}"), "describes no network"),
    (lambda: described(network={"net": "res", "depth": 1e9, "width": 1}), "describes no network"),
    (lambda: described(network={"net": ["x"]}), "describes no network"),
    (lambda: described(widths={"Conv_0": 4}), "describes no network"),
    (lambda: described(quantize="int4"), "has quantize 'int4', expected one of none"),
    (lambda: flipped(described(), 5000), "damaged, the model in it is not the one")])
def test_a_broken_description_is_said(tmp_path, raw, words):
    path = tmp_path / "a.tflite"
    path.write_bytes(raw())
    with pytest.raises(UserError, match=words) as caught:
        metadata.read(path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < 500
