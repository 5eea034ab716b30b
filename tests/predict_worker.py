"""Started by test_predict.py: predicts, and is killed (SIGKILL) after writing some parts."""

import os
import signal
import sys
import threading

from zoobot.predictions import passes, predict
from zoobot.system import distributed


def main(checkpoint, catalog, save_loc, parts_to_write, dying_rank=0):
    write, written, one_at_a_time = passes._write_part, [], threading.Lock()

    def write_then_die(*arguments):
        with one_at_a_time:  # else it would die with another part written or half written
            write(*arguments)
            written.append(1)
            if len(written) == int(parts_to_write) and distributed.rank() == int(dying_rank):
                os.kill(os.getpid(), signal.SIGKILL)

    if int(parts_to_write):
        passes._write_part = write_then_die
    predict.predict_to_file(
        catalog,
        checkpoint.split(os.pathsep),
        save_loc.split(os.pathsep),
        num_samples=3,
        batch_size=4,
        num_workers=1,
        summary=True,
        carry=["file_loc"],
        show_progress=False,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
