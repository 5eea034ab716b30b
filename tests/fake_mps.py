"""A device that is called ``mps``, computes on the CPU, and refuses float64, as Apple's GPUs do."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from zoobot.system import distributed

MPS = torch.device("mps:0")
NAMES = ("mps", "meta")  # the second is the name in C++
MAY_MIX = ("copy_", "_local_scalar_dense", "index")  # operations on tensors of two devices


class OnMps(torch.Tensor):
    """A tensor on the device. For torch's own code in C++ it is on ``meta``."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        if held.dtype == torch.float64:
            raise TypeError("MPS has no float64")
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )

    def __init__(self, held: torch.Tensor):
        self.held = held

    @property
    def device(self) -> torch.device:
        return MPS

    def tolist(self) -> list:
        return self.cpu().tolist()

    def __repr__(self):
        return f"OnMps({self.held})"

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        with torch.inference_mode(False):  # in which views can't be wrapped
            return compute(operation, args, kwargs or {})


def compute(operation, args, kwargs):
    """Compute on the CPU; what comes out is on the fake device, unless it is asked for on another.

    Tensors that an operation changes or returns as they are stay the same objects.
    """
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    wrapped = {id(x.held): x for x in tensors if isinstance(x, OnMps)}
    name = operation.overloadpacket.__name__
    if wrapped and name not in MAY_MIX:
        others = [x for x in tensors if not isinstance(x, OnMps) and x.ndim > 0]
        assert not others, f"{name}: tensors are on the CPU and on mps"
    asked = kwargs.get("device")
    on_mps = bool(wrapped) if asked is None else torch.device(asked).type in NAMES
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map(lambda x: x.held if isinstance(x, OnMps) else x, (args, kwargs))
    results = operation(*args, **kwargs)

    def back(result):
        if not on_mps or not isinstance(result, torch.Tensor):
            return result
        return wrapped[id(result)] if id(result) in wrapped else OnMps(result)

    return tree_map(back, results)


class Makes(TorchDispatchMode):
    """Lets ``device="mps"`` make tensors on the fake device."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        if asked is not None and torch.device(asked).type in NAMES:
            with torch.inference_mode(False):
                return compute(operation, args, kwargs)
        return operation(*args, **kwargs)


@contextlib.contextmanager
def fake_mps() -> Iterator[torch.device]:
    """A computer with the fake device, within a ``with`` block."""
    make = torch.tensor  # which sends numbers to a device without asking the mode

    def tensor(data, *, device=None, **more):
        return make(data, **more) if device is None else make(data, **more).to(device)

    with pytest.MonkeyPatch.context() as patch, Makes():
        patch.setattr(torch, "tensor", tensor)
        patch.setattr(distributed, "choose_device", lambda name: MPS)  # torch finds none itself
        patch.setattr(torch.mps, "get_rng_state", lambda device: None)
        patch.setattr(torch.mps, "set_rng_state", lambda state, device: None)
        yield MPS
