"""train.py with faults at given steps, for the tests: python train_worker.py FAULTS ARGUMENTS.

FAULTS is JSON, a list of [kind, start, rank, step]: at this step of this start (0: the first, 1:
after torchrun has restarted) this rank sends itself the signal ``kind``, or its loss is ``nan``.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
import train
from zoobot import engine
from zoobot.models.tree import ZoobotTree
from zoobot.script import run_script
from zoobot.system import distributed


def main(faults: list[list]) -> None:
    torch.set_num_threads(1)
    seed_step, losses, at = engine.seed_step, ZoobotTree.losses, {"step": None}

    def due(kind: str) -> bool:
        here = [distributed.num_restarts(), distributed.rank(), at["step"]]
        return [kind, *here] in faults

    def seed_then_signal(seed, step):
        at["step"] = step
        for kind in ("SIGKILL", "SIGTERM", "SIGUSR1", "SIGINT"):
            if due(kind):
                os.kill(os.getpid(), signal.Signals[kind])
        seed_step(seed, step)

    def losses_or_nan(self, outputs, labels):
        found = losses(self, outputs, labels)
        return found * float("nan") if self.training and due("nan") else found

    engine.seed_step, ZoobotTree.losses = seed_then_signal, losses_or_nan
    try:
        run_script(train.main, train.parse)
    except SystemExit as leaving:
        line = f"start {distributed.num_restarts()} rank {distributed.rank()}: exit {leaving.code}"
        print(line, flush=True)
        raise


if __name__ == "__main__":
    main(json.loads(sys.argv.pop(1)))
