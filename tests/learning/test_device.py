"""--precision=auto is bfloat16 where the processor is faster in it, not where it only has instructions for it."""

import pytest
import torch

from utils.learning import device as devices


@pytest.fixture
def processor(monkeypatch):
    """A processor whose convolutions take these seconds in float32 and bfloat16; without instructions: None."""
    def has(fp32_s, bf16_s, able=("avx512_bf16",)):
        clock = [0.0]

        def convolution(dtype):
            return lambda: clock.__setitem__(0, clock[0] + (fp32_s if dtype == torch.float32 else bf16_s))

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(able, True))
        monkeypatch.setattr(devices, "_convolution", convolution)
        monkeypatch.setattr(devices, "time", type("Clock", (), {"perf_counter": staticmethod(lambda: clock[0])}))
    return has


@pytest.mark.parametrize("bf16_s, able, precision", [
    (0.5, ("avx512_bf16",), "bf16"), (0.5, ("amx_bf16",), "bf16"), (3.0, ("avx512_bf16",), "fp32"),
    (0.9, ("amx_bf16",), "fp32"), (0.5, ("avx512",), "fp32"), (0.5, (), "fp32")])
def test_auto_takes_what_is_faster(processor, bf16_s, able, precision):
    processor(1.0, bf16_s, able)
    threads = torch.get_num_threads()
    assert devices.pick("auto", "auto") == devices.Device("cpu", precision)
    assert devices.pick("cpu", "bf16").precision == "bf16" and torch.get_num_threads() == threads


def test_both_precisions_run_here():
    for dtype in (torch.float32, torch.bfloat16):
        of_input, of_weight = devices._convolution(dtype)()
        assert of_input.shape == (8, 64, 16, 16) and of_weight.shape == (64, 64, 3, 3) and of_weight.dtype == dtype
        assert float(of_weight[0, 0, 1, 1]) == 8 * 16 * 16
