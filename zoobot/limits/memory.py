"""Compare what a file takes, once it is read, with the memory that is free."""

from pathlib import Path

from torch.utils.data import get_worker_info

from zoobot.system.errors import UserError
from zoobot.system.memory import free_bytes

TEXT_BYTES = 80  # of a short text as an object of Python, and its place


def check_memory(num_bytes: int, what: str, cure: str = "") -> None:
    """ValueError if what a file holds, or options ask for, is larger than the memory that is free.

    A loader's workers, which may all meet such a file at once, have equal shares of it.

    Args:
        num_bytes: the least that it takes.
        what: it is, for the message.
        cure: what to do, for the message.
    """
    free, worker = free_bytes(), get_worker_info()
    if free is not None and worker is not None:
        free //= worker.num_workers
        cure = cure or f"a worker's share, with --num-workers {worker.num_workers}"
    if free is not None and num_bytes > free:
        cure = f": {cure}" if cure else ""
        raise UserError(
            f"{what} takes {num_bytes:,} bytes; {free:,} bytes of memory are free{cure}"
        )


def check_size(path: Path) -> None:
    """ValueError if a file that is read whole is larger than the memory that is free.

    Holes in it, which take no place on the disk, take memory.
    """
    check_memory(path.stat().st_size, "the file")
