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
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from zoobot.system.errors import UserError

# Long, because all ranks wait while the main process joins parts or writes a report. If a process
# dies, torchrun ends the others.
LONGEST_WAIT = datetime.timedelta(hours=24)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # Slurm sends SIGUSR1 before the time is over


def _number(name: str, default: int) -> int:
    """A number that torchrun puts into the environment; ValueError if it is none."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"the environment has {name}={text!r}, no whole number: unset it")
    return int(text)


def rank() -> int:
    """Number of this process among all processes, from 0."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Number of this process among those on its node, from 0."""
    return _number("LOCAL_RANK", 0)


def world_size() -> int:
    """Number of processes in the run."""
    return _number("WORLD_SIZE", 1)


def local_world_size() -> int:
    """Number of processes on this node."""
    return _number("LOCAL_WORLD_SIZE", 1)


def num_restarts() -> int:
    """How many times ``torchrun --max-restarts`` has restarted the processes."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def is_main() -> bool:
    """True in the main process (rank 0), which writes files and shows progress."""
    return rank() == 0


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
    """
    if world_size() > 1 and not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            store, _, _ = next(dist.rendezvous("env://", timeout=LONGEST_WAIT))
        except ValueError as error:  # an incomplete environment
            raise UserError(f"the other processes can't be found: {error}; use torchrun") from error
        store = dist.PrefixStore(f"start {num_restarts()}", store)
        dist.init_process_group(
            backend, store=store, rank=rank(), world_size=world_size(), timeout=LONGEST_WAIT
        )
        atexit.register(dist.destroy_process_group)


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
    """Set BatchNorm statistics on every rank to their mean over all ranks.

    Layers in evaluation mode (frozen layers) are left as they are.
    """
    if world_size() == 1:
        return
    for module in model.modules():
        has_statistics = isinstance(module, _NormBase) and module.running_mean is not None
        if module.training and has_statistics:
            for statistic in (module.running_mean, module.running_var):
                dist.all_reduce(statistic)
                statistic.div_(world_size())


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
