"""Started by test_news.py as a rank, without torchrun: python news_worker.py WHAT_IT_DOES."""

import argparse
import signal
import sys
import threading

import torch

from zoobot.script import run_script
from zoobot.system import distributed, news
from zoobot.system.errors import UserError


def main(what: str) -> None:
    news.LAST_WORDS_S = 3.0
    distributed.join(torch.device("cpu"))
    distributed.barrier()
    if what == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Event().wait()
    if what == "mistake":
        raise UserError("this is a mistake of the user")
    if what == "fault":
        raise AssertionError("this is a fault of ours")


if __name__ == "__main__":
    run_script(lambda _: main(sys.argv[1]), lambda: argparse.Namespace(debug=False))
