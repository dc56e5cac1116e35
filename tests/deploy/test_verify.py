"""An export is refused unless it computes what torch does, by the limits of its quantisation."""

import numpy as np
import pytest

from utils.common.errors import UserError
from utils.deploy import metadata, verify


def test_the_limits_of_a_proof():
    expected, labels = np.eye(20, dtype=np.float32), np.arange(20)
    for size in (1, 1000, 1e-6):  # only how far outputs are apart between images counts
        near, far = (verify.Verification(size * expected, size * expected + np.float32(size * d), labels)
                     for d in (9e-4, 2e-3))
        near.check("x", "none", None)
        assert near.shows and near.spread == pytest.approx(size)
        with pytest.raises(UserError, match="its outputs differ from torch's by up to .*, allowed are"):
            far.check("x", "none", None)
    flat = verify.Verification(1000 + 1e-2 * expected, 1000 + 1e-2 * expected + np.float32(1e-3), labels)
    flat.check("x", "none", None)
    assert not flat.shows  # rounding in float32 would hide a mistake
    broken = verify.Verification(expected, np.where(expected == 1, np.nan, expected), labels)
    for quantize in metadata.QUANTIZE:
        with pytest.raises(UserError, match="nothing was written"):
            broken.check("x", quantize, None)
    found = expected.copy()
    found[[3, 5]] = found[[5, 3]]
    swapped = verify.Verification(expected, found, labels)
    assert (swapped.agreement_pct, swapped.torch_error_pct, swapped.error_pct) == (90, 0, 10)
    swapped.check("x", "int8", 90)
    with pytest.raises(UserError, match=r"int8 keeps torch's top class in 90.0%, at least 95% .*exported 10.00%"):
        swapped.check("x", "int8", None)


def test_a_model_that_the_runtime_cannot_run_is_one_line(monkeypatch):
    class Unable:
        def __init__(self, model_content):
            pass

        def allocate_tensors(self):
            raise RuntimeError("failed to create XNNPACK runtime\nNode number 43 failed to prepare")

    monkeypatch.setattr(verify, "interpreter_class", lambda: Unable)  # which model fails depends on the runtime
    with pytest.raises(UserError, match="cannot run the converted model .failed to create XNNPACK runtime.; another"):
        verify.tflite_logits(b"")
