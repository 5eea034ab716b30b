"""Errors of torch in the step that are a user's mistake, told as such."""

import contextlib
from collections.abc import Iterator

from zoobot.system.errors import OneProcessError, UserError


@contextlib.contextmanager
def told_as_mistakes() -> Iterator[None]:
    """Turn errors of torch that a user can mend into ``UserError``; others pass as they are."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise OneProcessError(
            "a batch had one galaxy, for which BatchNorm has no variance: choose a batch size "
            "that gives each process two or more, or an encoder without BatchNorm"
        ) from error
    except RuntimeError as error:
        operation, found, _ = str(error).partition(" does not have a deterministic implementation")
        if not found:
            raise
        raise UserError(
            f"{operation} gives other bits each time on this device: leave deterministic out, or "
            "use an encoder without it"
        ) from error
