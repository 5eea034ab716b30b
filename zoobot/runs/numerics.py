"""How a GPU computes: TF32, deterministic algorithms, and convolutions that are tried first."""

import os

import torch

from zoobot.options import TF32
from zoobot.system.errors import UserError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # an environment variable, which cuBLAS reads as it starts


def set_numerics(deterministic: bool = False, tf32: str = "auto") -> None:
    """Set torch's flags, for the whole process. What is not asked for is left as it is.

    Args:
        deterministic: the same operation on the same numbers gives the same bits again; an
            operation that can't is an error.
        tf32: whether GPUs round the factors of float32 products to 10 bits of 23: ``on`` for all,
            ``off`` for none, ``auto`` as torch has it, for convolutions only.

    Raises:
        ValueError: for another ``tf32``, or if CUDA was in use before without what it needs.
    """
    if tf32 not in TF32:
        raise UserError(f"tf32 {tf32!r} is none of {', '.join(TF32)}")
    if deterministic:
        if torch.cuda.is_initialized() and WORKSPACE not in os.environ:
            raise UserError(
                "deterministic: the GPU is in use already; make the trainer first, or set "
                f"{WORKSPACE}=:4096:8 in the environment"
            )
        os.environ.setdefault(WORKSPACE, ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # it costs, and none is read
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    if tf32 != "auto":
        torch.backends.cuda.matmul.allow_tf32 = tf32 == "on"
        torch.backends.cudnn.allow_tf32 = tf32 == "on"


def try_convolutions(device: torch.device) -> None:
    """Have cuDNN try its algorithms once a shape, and take the fastest; for batches of few shapes.

    Not on a CPU, nor in a deterministic run.
    """
    if device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        torch.backends.cudnn.benchmark = True


def describe(device: torch.device, dtype: torch.dtype) -> str:
    """Device and precision in words: of float32 on a GPU also what is rounded to TF32."""
    if device.type != "cuda" or dtype != torch.float32:
        return f"{dtype} on {device}"
    is_rounded = {
        "matrix products": torch.backends.cuda.matmul.allow_tf32,
        "convolutions": torch.backends.cudnn.allow_tf32,
    }
    rounded = " and ".join(name for name, is_so in is_rounded.items() if is_so)
    return f"{dtype} ({rounded or 'nothing'} rounded to TF32) on {device}"
