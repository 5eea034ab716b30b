"""Runs a script in several processes of one run, as torchrun does, but imports for all at once.

python forked_ranks.py NUMBER SCRIPT ARGUMENTS
"""

import os
import runpy
import socket
import sys


def main(number: int, script: str, *arguments: str) -> None:
    """Raises SystemExit with 1 where a process fails, in the first process after all have ended."""
    runpy.run_path(script, run_name="imports")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(number)}
    sys.argv = [script, *arguments]
    for rank in range(number):
        if os.fork() == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            runpy.run_path(script, run_name="__main__")
            return
    if any([os.wait()[1] for _ in range(number)]):
        sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
