"""Several ranks in one process: threads that exchange Python values."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from zoobot.system import distributed, messages


def as_ranks(number: int, work: Callable[[], Any]) -> list:
    """What ``work()`` returns on each of so many ranks; raises the error of the lowest rank."""
    here, barrier, box = threading.local(), threading.Barrier(number), [None] * number
    results, errors = [None] * number, {}

    def gather(value):
        box[here.rank] = messages.pack(value)
        barrier.wait()
        values = [messages.unpack(data) for data in box]
        barrier.wait()
        return values

    def run(rank: int) -> None:
        here.rank = rank
        try:
            results[rank] = work()
        except threading.BrokenBarrierError:
            pass  # another rank has ended
        except Exception as error:
            errors[rank] = error
            barrier.abort()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "rank", lambda: here.rank)
        patch.setattr(distributed, "world_size", lambda: number)
        patch.setattr(distributed, "gather", gather)
        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[min(errors)]
    return results
