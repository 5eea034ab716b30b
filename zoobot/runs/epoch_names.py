"""Names of epochs' checkpoints, made from a template with ``{epoch}`` and perhaps metrics."""

import math
import string
from collections.abc import Collection, Mapping

from zoobot.system.errors import UserError, did_you_mean


def epoch_name(template: str, epoch: int, metrics: Mapping[str, float]) -> str:
    """A template with its fields filled in, each named: ``epoch=3-val_loss=0.125``.

    ``{epoch:02d}`` gives ``epoch=03``, and ``{finetuning/val_loss:.3f}`` ``val_loss=0.125``.
    A field that the text before it names already, as in ``epoch-{epoch}``, gives its value only.

    Args:
        metrics: of the epoch, as metrics.jsonl names them. One that is not there is ``nan``.
    """
    values = {**metrics, "epoch": epoch}
    parts = []
    for text, field, spec, _ in string.Formatter().parse(template):
        parts.append(text)
        if field is not None:
            name = field.rpartition("/")[2]
            is_named = text.rstrip("-_=").endswith(name)
            value = format(values.get(field, math.nan), spec or "")
            parts.append(value if is_named else f"{name}={value}")
    return "".join(parts)


def check_template(template: str, metrics: Collection[str] | None = None) -> None:
    """Raise ValueError for a template that can't name epochs' files.

    Args:
        metrics: names of those that it may have; None: any.
    """
    told = f"file_template {template!r}"
    try:
        fields = [(text, field) for text, field, *_ in string.Formatter().parse(template)]
        names = {epoch_name(template, epoch, {}) for epoch in (1, 2)}
    except ValueError as error:
        raise UserError(f"{told}: {error}") from error
    if len(names) < 2:
        raise UserError(f"{told} lacks {{epoch}}")
    if any("/" in text or "\\" in text for text, _ in fields):
        raise UserError(f"{told} names files, not folders: leave out its slash")
    for _, field in fields:
        if metrics is not None and field not in (None, "epoch", *metrics):
            near = did_you_mean(field, metrics)
            raise UserError(f"{told} may name {{epoch}} and metrics, not {field!r}{near}")
