import os

import pytest
import torch
from torch.backends import cuda, cudnn

from zoobot.runs import numerics
from zoobot.system.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _flags_as_before(monkeypatch):
    monkeypatch.setenv(numerics.WORKSPACE, "before")  # put back at the end
    monkeypatch.delenv(numerics.WORKSPACE)
    before = cuda.matmul.allow_tf32, cudnn.allow_tf32
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    cuda.matmul.allow_tf32, cudnn.allow_tf32 = before
    cudnn.deterministic = cudnn.benchmark = False


def test_what_is_not_asked_for_is_left_as_it_is():
    cudnn.benchmark, cuda.matmul.allow_tf32, cudnn.allow_tf32 = True, True, False
    numerics.set_numerics()
    assert (cudnn.benchmark, cuda.matmul.allow_tf32, cudnn.allow_tf32) == (True, True, False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert numerics.WORKSPACE not in os.environ


def test_deterministic_sets_all_that_cuda_needs_and_tries_no_algorithms():
    cudnn.benchmark = True
    numerics.set_numerics(deterministic=True)
    numerics.try_convolutions(GPU)
    assert torch.are_deterministic_algorithms_enabled()
    assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
    assert os.environ[numerics.WORKSPACE] == ":4096:8"


def test_deterministic_is_refused_once_cuda_is_in_use_without_what_it_needs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(UserError, match="the GPU is in use already"):
        numerics.set_numerics(deterministic=True)
    monkeypatch.setenv(numerics.WORKSPACE, ":16:8")
    numerics.set_numerics(deterministic=True)
    assert os.environ[numerics.WORKSPACE] == ":16:8"


@pytest.mark.parametrize("tf32", ["on", "off"])
def test_tf32_is_chosen_for_all_products(tf32):
    numerics.set_numerics(tf32=tf32)
    assert cuda.matmul.allow_tf32 == cudnn.allow_tf32 == (tf32 == "on")


def test_another_tf32_is_told():
    with pytest.raises(UserError, match="tf32 'yes' is none of auto, on, off"):
        numerics.set_numerics(tf32="yes")


def test_convolutions_are_tried_on_gpus_only():
    numerics.try_convolutions(CPU)
    assert not cudnn.benchmark
    numerics.try_convolutions(GPU)
    assert cudnn.benchmark


def test_float32_on_a_gpu_says_what_is_rounded():
    cuda.matmul.allow_tf32, cudnn.allow_tf32 = False, True
    told = numerics.describe(GPU, torch.float32)
    assert told == "torch.float32 (convolutions rounded to TF32) on cuda:0"
    numerics.set_numerics(tf32="off")
    assert "(nothing rounded to TF32)" in numerics.describe(GPU, torch.float32)
    assert numerics.describe(GPU, torch.bfloat16) == "torch.bfloat16 on cuda:0"
    assert numerics.describe(CPU, torch.float32) == "torch.float32 on cpu"
