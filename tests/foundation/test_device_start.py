"""A GPU is made ready ahead; where there is none, nothing happens and nobody hears of it."""

from __future__ import annotations

import pytest
import torch

from opendllm.core.foundation.device_start import start_device


def test_a_cpu_needs_no_start() -> None:
    assert start_device("cpu") is None


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:7", "cuda:x"])
def test_a_gpu_that_is_not_there_says_so_later(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    thread = start_device(name)
    assert thread is not None
    thread.join()
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and none is here")
def test_a_gpu_has_its_context_afterwards() -> None:
    thread = start_device("cuda")
    assert thread is not None
    thread.join()
    assert torch.cuda.is_initialized()
