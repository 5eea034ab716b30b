"""Run in several processes: their numbers and devices, and the exchange of data between them.

torchrun sets the number of processes and the rank of each one by environment variables (``RANK``,
``WORLD_SIZE``, ``LOCAL_RANK``). All functions also work in a single process without
torch.distributed: then the rank is 0, and there is nothing to exchange.

What is on GPUs (gradients, flags of a step) is exchanged by nccl. All else goes over gloo between
CPUs: Python values, and waiting for one another. There the end of a process is noticed at once, and
nothing waits for a GPU.
"""

import atexit
import contextlib
import datetime
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from zoobot.system import messages, news, threads, windows
from zoobot.system.errors import OneProcessError, UserError

LONGEST_START = datetime.timedelta(minutes=30)  # until all processes have found each other
# Long, because all ranks wait while the main process joins parts or writes a report. If a process
# dies, torchrun ends the others.
LONGEST_WAIT = datetime.timedelta(hours=24)
LONGEST_NCCL_WAIT = datetime.timedelta(minutes=30)  # for another GPU, within a step
PARTS_OF = (
    ("RANK", "WORLD_SIZE"),
    ("LOCAL_RANK", "WORLD_SIZE"),
    ("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
)
STOP_SIGNALS = (signal.SIGTERM,)
if not windows.HERE:
    STOP_SIGNALS += (signal.SIGUSR1,)  # Slurm sends it before the time is over

_news: news.News | None = None
_between_cpus: dist.ProcessGroup | None = None


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
    """Connect to the other processes of the run, by gloo, and between GPUs by nccl.

    The connection ends with the process.

    Raises:
        OneProcessError: the environment does not say how to find the others, or they don't come.
    """
    global _between_cpus, _news
    check_environment()
    if world_size() == 1 or dist.is_initialized():
        return
    on_gpu = device.type == "cuda"
    try:
        store, listener = (news.connect(num_restarts(), LONGEST_START) for _ in range(2))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=store,
            rank=rank(),
            world_size=world_size(),
            timeout=LONGEST_NCCL_WAIT if on_gpu else LONGEST_WAIT,
            device_id=device if on_gpu else None,
        )
        _between_cpus = dist.new_group(backend="gloo", timeout=LONGEST_WAIT) if on_gpu else None
    except (ValueError, dist.DistError) as error:
        raise OneProcessError(
            f"process {rank()} can't find the other processes at {os.environ['MASTER_ADDR']}, "
            f"port {os.environ['MASTER_PORT']}: {error}"
        ) from error
    _news = news.News(store, listener, rank(), world_size())
    show = sys.excepthook

    def show_and_tell(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        show(kind, error, trace)
        tell_failure(repr(error))

    sys.excepthook = show_and_tell
    atexit.register(_leave)


def _leave() -> None:
    """End the connection. After a failure nobody is waited for: the others may never come."""
    _news.leave()
    if _news.has_failed and dist.get_backend() != "gloo":
        dist.distributed_c10d._abort_process_group()
    else:
        dist.destroy_process_group()
    threads.wait_until_threads_rest()


def tell_failure(what: str, *, alone: bool = False) -> bool:
    """Tell the other processes that this one has failed: they end too, within a minute.

    Args:
        what: what it has to say of it.
        alone: it is a failure of this process alone.

    Returns:
        Whether to say it: that no other process has said the same. Before processes have joined,
        each node's first one says what is not of one process alone.
    """
    if _news is None:
        return alone or local_rank() == 0
    return _news.tell_failure(what)


def has_lost_another(error: RuntimeError) -> bool:
    """Whether the error comes from the connection: then another process has failed, not this."""
    return world_size() > 1 and news.is_of_connection(error)


def choose_device(name: str) -> torch.device:
    """The device of this process. Local rank r uses GPU r of its node.

    Args:
        name: ``cpu``, ``cuda``, ``mps`` (the GPU of an Apple computer, for one process), or
            ``auto``: what there is of cuda and mps, else the CPU.

    Raises:
        ValueError: if GPUs are to be used and there is none for this local rank.
    """
    num_gpus = torch.cuda.device_count()
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        alone = world_size() == 1
        name = "cuda" if num_gpus else "mps" if has_mps and alone else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not has_mps or world_size() > 1:
            found = f"{world_size()} processes would share it" if has_mps else "there is none here"
            raise UserError(f"--device mps is one GPU of an Apple computer, and {found}: use cpu")
        return torch.device("mps")
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
        dist.all_reduce(tensor, group=_between_cpus if tensor.is_cpu else None)
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
        dist.barrier(group=_between_cpus)


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Run a ``with`` block in the main process first, then in all others."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def gather(value: Any) -> list:
    """The values of all processes, in the order of their ranks: small plain data and tensors.

    With several processes values are as ``messages.unpack`` gives them: lists in place of tuples,
    and tensors, on the CPU, in place of arrays.
    """
    if world_size() == 1:
        return [value]
    own = messages.pack(value)
    sizes = torch.zeros(world_size(), dtype=torch.int64)
    sizes[rank()] = len(own)
    dist.all_reduce(sizes, group=_between_cpus)
    padded = own.new_zeros(int(sizes.max()))
    padded[: len(own)] = own
    everywhere = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(everywhere, padded, group=_between_cpus)
    return [messages.unpack(x[:size]) for x, size in zip(everywhere, sizes.tolist(), strict=True)]


def from_main(value: Any) -> Any:
    """The value of the main process, in every process; see ``gather``."""
    if world_size() == 1:
        return value
    data = messages.pack(value if is_main() else None)
    size = torch.tensor(len(data))
    dist.broadcast(size, src=0, group=_between_cpus)
    data = data if is_main() else data.new_empty(int(size))
    dist.broadcast(data, src=0, group=_between_cpus)
    return messages.unpack(data)
