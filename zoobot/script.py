"""Run a script: set its process up, print errors in one line, exit with the right code."""

import argparse
import io
import sys
import time
import traceback
import warnings
from collections.abc import Callable

import torch

from zoobot.runs.numerics import set_numerics
from zoobot.runs.watch import Interrupted
from zoobot.system import distributed
from zoobot.system.errors import OneProcessError, UserError, one_line
from zoobot.system.memory import keep_freed_memory
from zoobot.system.news import LAST_WORDS_S, LOST_ANOTHER

_as_python_does = warnings.formatwarning


def run_script(
    main: Callable[[argparse.Namespace], None], parse: Callable[[], argparse.Namespace]
) -> None:
    """Parse and run a script.

    A ``UserError`` is one line on stderr and exit code 2, and so is what the operating system
    refuses (``OSError``: a full disk, a folder that can't be written to). Any other exception is a
    fault of this package and keeps its traceback.

    A process that fails tells the others of the run, which then end too. Many make the same checks,
    and only the first that finds a mistake says so. A mistake that is found before processes have
    joined is said by each node's first process, or by the one that it concerns alone.
    """
    debug = "--debug" in sys.argv
    print_anything()
    try:
        distributed.check_environment()
        options = parse()
        debug = debug or options.debug
        set_up_process(debug)
        if "deterministic" in options:
            set_numerics(options.deterministic, options.tf32)  # before CUDA starts
        main(options)
    except (UserError, OSError) as error:
        if debug:
            traceback.print_exc()
        told = f"error: {one_line(str(error))}"
        if distributed.tell_failure(told, alone=isinstance(error, OneProcessError | OSError)):
            print(told, file=sys.stderr, flush=True)
        sys.exit(2)
    except RuntimeError as error:
        if debug or not distributed.has_lost_another(error):
            raise
        print(f"rank {distributed.rank()}: {LOST_ANOTHER}", file=sys.stderr, flush=True)
        distributed.tell_failure(LOST_ANOTHER)
        time.sleep(LAST_WORDS_S)  # for the other to end first: torchrun reports the first
        sys.exit(1)
    except KeyboardInterrupt as error:
        if debug:
            traceback.print_exc()
        if not isinstance(error, Interrupted):  # which all processes raise together
            distributed.tell_failure("interrupted")
        if distributed.local_rank() == 0:
            told = str(error) or "what is saved stays; the same command with --resume auto goes on"
            print(f"interrupted: {told}", file=sys.stderr)
        sys.exit(130)


def print_anything() -> None:
    """Have stdout escape what its encoding lacks, as stderr does, in place of an error.

    In a terminal of Windows these are the letters of other languages, such as in an id.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def set_up_process(debug: bool = False) -> None:
    """Settings of the whole process, which are for a script to make, not for a library.

    Freed memory is kept (``system.memory``). Warnings of the readers of images are not shown: what
    matters in an image is an error of ours. Warnings for users are one line each. ``debug`` has
    autograd check every gradient, and name the operation that made one that is NaN.
    """
    keep_freed_memory()
    warnings.formatwarning = _one_line_for_users
    for module in ("PIL", "astropy"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
    torch.autograd.set_detect_anomaly(debug)


def _one_line_for_users(
    message: Warning | str, category: type[Warning], *place: str | int | None, **more: str | None
) -> str:
    """A warning as it is shown: one for users without its place in the code."""
    if issubclass(category, UserWarning):
        return f"warning: {one_line(str(message))}\n"
    return _as_python_does(message, category, *place, **more)
