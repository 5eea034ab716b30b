"""Run in several processes: their numbers and devices, and the exchange of data between them.

torchrun sets the number of processes and the rank of each one by environment variables (``RANK``,
``WORLD_SIZE``, ``LOCAL_RANK``). All functions also work in a single process without
torch.distributed: then the rank is 0, and there is nothing to exchange.
"""

import atexit
import contextlib
import datetime
import os
import signal
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from zoobot.system import threads
from zoobot.system.errors import OneProcessError, UserError

LONGEST_START = datetime.timedelta(minutes=30)  # until all processes have found each other
# Long, because all ranks wait while the main process joins parts or writes a report. If a process
# dies, torchrun ends the others.
LONGEST_WAIT = datetime.timedelta(hours=24)
PARTS_OF = (
    ("RANK", "WORLD_SIZE"),
    ("LOCAL_RANK", "WORLD_SIZE"),
    ("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # Slurm sends SIGUSR1 before the time is over


def _number(name: str, default: int) -> int:
    """A number that torchrun puts into the environment; OneProcessError if it is none."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise OneProcessError(f"the environment has {name}={text!r}, no whole number: unset it")
    return int(text)


def rank() -> int:
    """Number of this process among all processes, from 0."""
    return _part("RANK", "WORLD_SIZE")


def local_rank() -> int:
    """Number of this process among those on its node, from 0."""
    return _number("LOCAL_RANK", 0)


def world_size() -> int:
    """Number of processes in the run."""
    return _number("WORLD_SIZE", 1)


def local_world_size() -> int:
    """Number of processes on this node."""
    return _number("LOCAL_WORLD_SIZE", 1)


def _part(name: str, of_name: str) -> int:
    """A process's number, which is less than the number of processes in ``of_name``.

    Raises:
        OneProcessError: if it is not.
    """
    number = _number(name, 0)
    if number >= _number(of_name, 1 if of_name == "WORLD_SIZE" else number + 1):
        raise OneProcessError(
            f"the environment has {_told(name)} and {_told(of_name)}: start several processes "
            f"with torchrun, or unset {name} and {of_name} for one"
        )
    return number


def num_restarts() -> int:
    """How many times ``torchrun --max-restarts`` has restarted the processes."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0)


def is_main() -> bool:
    """True in the main process (rank 0), which writes files and shows progress."""
    return rank() == 0


def check_environment() -> None:
    """Check what the environment tells of the run's processes, before anything relies on it.

    Raises:
        OneProcessError: it names a process that can't be, or only half of a run.
    """
    num_restarts()
    for name, of_name in PARTS_OF:
        _part(name, of_name)
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if not os.environ.get(name)]
    if world_size() > 1 and missing:
        raise OneProcessError(
            f"the environment has WORLD_SIZE={world_size()} but no {', '.join(missing)}: start "
            "several processes with torchrun, or unset WORLD_SIZE for one"
        )


def _told(name: str) -> str:
    return f"{name}={os.environ[name]}" if name in os.environ else f"no {name}"


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Run a ``with`` block together with the other processes, and wait for them at its end."""
    join(device)
    yield
    barrier()


def join(device: torch.device) -> None:
    """Connect to the other processes of the run, by nccl on GPUs and by gloo on CPUs.

    The connection ends with the process. torchrun keeps its store of addresses over a restart, and
    the addresses of ended processes are still in it. So each start uses keys of its own in it.

    Raises:
        OneProcessError: the environment does not say how to find the others, or they don't come.
    """
    check_environment()
    if world_size() > 1 and not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            store, _, _ = next(dist.rendezvous("env://", timeout=LONGEST_START))
            store = dist.PrefixStore(f"start {num_restarts()}", store)
            dist.init_process_group(
                backend, store=store, rank=rank(), world_size=world_size(), timeout=LONGEST_WAIT
            )
        except (ValueError, dist.DistError) as error:
            raise OneProcessError(
                f"process {rank()} can't find the other processes at {os.environ['MASTER_ADDR']}, "
                f"port {os.environ['MASTER_PORT']}: {error}"
            ) from error
        atexit.register(_leave)


def _leave() -> None:
    dist.destroy_process_group()
    threads.wait_until_threads_rest()


def has_lost_another(error: RuntimeError) -> bool:
    """Whether the error comes from the connection: then another process has failed, not this."""
    return world_size() > 1 and (isinstance(error, dist.DistError) or "/gloo/" in str(error))


def choose_device(name: str) -> torch.device:
    """The device of this process. Local rank r uses GPU r of its node.

    Args:
        name: ``cpu``, ``cuda``, or ``auto``: GPUs if the node has any, else the CPU.

    Raises:
        ValueError: if GPUs are to be used and there is none for this local rank.
    """
    num_gpus = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and num_gpus == 0):
        return torch.device("cpu")
    if local_rank() >= num_gpus:
        raise UserError(
            f"local rank {local_rank()} has no GPU ({num_gpus} found): "
            "start fewer processes a node, or use --device cpu"
        )
    device = torch.device("cuda", local_rank())
    torch.cuda.set_device(device)
    return device


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model in DistributedDataParallel, or the model itself if there is one process.

    Buffers (BatchNorm statistics) are not exchanged at every step: ``average_buffers`` does it
    once per epoch, before evaluation.
    """
    if world_size() == 1:
        return model
    with warnings.catch_warnings():
        # torch 2.14 deprecates what has no substitute yet: buffers not exchanged at the start, when
        # a resumed run's ranks have their own.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            broadcast_buffers=False,
        )


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, without DistributedDataParallel."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def gradient_sync(model: nn.Module, *, now: bool) -> contextlib.AbstractContextManager[None]:
    """A context for ``backward``, for models in DistributedDataParallel.

    Args:
        now: True: gradients are averaged over the ranks. False: each rank only adds its gradients
            to those that it has, for accumulation.
    """
    if now or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all ranks, in place and on its device. Returns the tensor."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def average_buffers(model: nn.Module) -> None:
    """Set statistics of layers, such as BatchNorm's, on every rank to their mean over all ranks.

    Those are all buffers of floating-point numbers. What is the same on all ranks stays the same
    to the last bit. Layers in evaluation mode (frozen layers) are left as they are.
    """
    layers = [layer for layer in model.modules() if layer.training]
    buffers = [b for layer in layers for b in layer.buffers(recurse=False) if b.is_floating_point()]
    if world_size() == 1 or not buffers:
        return
    own = torch.cat([buffer.reshape(-1).double() for buffer in buffers])
    main = own.clone()
    dist.broadcast(main, src=0)
    difference = torch.where(own == main, 0.0, own - main)
    mean = main + all_reduce_sum(difference) / world_size()
    parts = mean.split([buffer.numel() for buffer in buffers])
    for buffer, part in zip(buffers, parts, strict=True):
        buffer.copy_(part.view_as(buffer))


def barrier() -> None:
    """Wait until all processes have called this."""
    if world_size() > 1:
        dist.barrier()


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Run a ``with`` block in the main process first, then in all others."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def gather(value: Any) -> list:
    """The values of all processes, in the order of their ranks. For small Python objects."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(value: Any) -> Any:
    """The value of the main process, in every process. For small Python objects."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
