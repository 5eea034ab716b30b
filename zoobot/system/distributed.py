"""One process or many: who am I, which device is mine, and how sums meet.

Everything here also works in a single process without torch.distributed, where it does nothing.
Under torchrun the environment (RANK, WORLD_SIZE, LOCAL_RANK) decides.
"""

import atexit
import contextlib
import datetime
import os
import signal

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from zoobot.system.errors import UserError

# The others wait while one joins parts or writes a report; torchrun sees a process that dies.
LONGEST_WAIT = datetime.timedelta(hours=24)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # SIGUSR1: Slurm's warning


def rank() -> int:
    """This process's number among all processes."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """This process's number among those of its node."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """Number of processes of the run."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_world_size() -> int:
    """Number of processes on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def num_restarts() -> int:
    """How often ``torchrun --max-restarts`` has started these processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def is_main() -> bool:
    """True in the one process that writes files and shows progress."""
    return rank() == 0


@contextlib.contextmanager
def process_group(device: torch.device):
    """Run a ``with`` block together with the other processes, over nccl or gloo."""
    join(device)
    yield
    barrier()


def join(device: torch.device) -> None:
    """Join the other processes of the run until this one ends.

    torchrun's store outlives a restart, and with it the addresses of processes that are no more:
    each start has its own part of it.
    """
    if world_size() > 1 and not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        store, _, _ = next(dist.rendezvous("env://", timeout=LONGEST_WAIT))
        store = dist.PrefixStore(f"start {num_restarts()}", store)
        dist.init_process_group(
            backend, store=store, rank=rank(), world_size=world_size(), timeout=LONGEST_WAIT
        )
        atexit.register(dist.destroy_process_group)


def has_lost_another(error: RuntimeError) -> bool:
    """Whether gloo or nccl say so: it is not this process that failed."""
    return world_size() > 1 and (isinstance(error, dist.DistError) or "/gloo/" in str(error))


def choose_device(name: str) -> torch.device:
    """The device of this process for ``auto``, ``cpu`` or ``cuda`` (one GPU a local rank).

    Raises:
        ValueError: if a GPU is asked for and there is none for this local rank.
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
    """DistributedDataParallel around the model if there are several processes.

    Buffers (BatchNorm statistics) are not sent at every step; ``average_buffers`` does it once an
    epoch, before evaluation.
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


def gradient_sync(model: nn.Module, *, now: bool):
    """A context in which ``backward`` reduces gradients over ranks (``now``) or only adds them."""
    if now or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all ranks, in place, on its own device."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def average_buffers(model: nn.Module) -> None:
    """Give every rank the mean of all ranks' BatchNorm statistics, but for frozen ones."""
    if world_size() == 1:
        return
    for module in model.modules():
        if module.training and getattr(module, "running_mean", None) is not None:
            for statistic in (module.running_mean, module.running_var):
                dist.all_reduce(statistic)
                statistic.div_(world_size())


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


@contextlib.contextmanager
def main_first():
    """Run a ``with`` block in the main process first, then in the others."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def gather(value) -> list:
    """Every process's value of a small Python object, by rank, in every process."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(value):
    """The main process's value of a small Python object, in every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
