"""The forward passes of a prediction: part after part, through the models of all its outputs.

Where a model predicts distributions, as trees do, every forward pass is a sample: the prediction is
their mixture. So V views, S passes with dropout and M models make M * V * S samples, in this order:
the models are furthest apart. Probabilities and numbers are averaged over views; models and passes
are samples of these too.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import torch
from torch import nn

from zoobot import engine, statistics
from zoobot.data.device_batches import on_device, to_host
from zoobot.data.loaders import GalaxyLoader
from zoobot.models import speed
from zoobot.predictions.image_notes import ImageNotes
from zoobot.predictions.models import predict_samples
from zoobot.predictions.outputs import Output
from zoobot.predictions.parts import Work, write_part
from zoobot.runs import numerics
from zoobot.system.errors import UserError
from zoobot.system.progress import Bar

WRITERS = 4  # threads; intervals are most of their work, and scipy lets several compute at once


def predict_parts(
    outputs: Sequence[Output],
    loader: GalaxyLoader | Iterable[dict],
    parts: Sequence[int],
    settings: engine.Settings,
    bar: Bar,
) -> ImageNotes:
    """Predict parts; earlier ones are copied to the host, summarised and written meanwhile.

    Args:
        outputs: of the same galaxies in the same parts, each of which is predicted where it is to
            do; a batch goes through the models of all of them.
        loader: the batches of these parts, in order.
    """
    notes = ImageNotes()
    for output in outputs:
        output.members.to(settings.device, memory_format=torch.channels_last).eval()
        speed.use_fast_norms(output.members, settings.device, settings.dtype)
    numerics.try_convolutions(settings.device)
    batches = on_device(_looked_at(loader, notes), settings.device)
    with (
        torch.inference_mode(),  # from here: weights that were moved in it could not be trained
        ExitStack() as stack,
        ThreadPoolExecutor(WRITERS) as writer,
    ):
        for output in outputs:
            _compile(output, settings.device, stack)
        writing = deque()
        for part in parts:
            due = [output for output in outputs if part in output.todo]
            predicted, errors = _predict_part(due, batches, part, settings, bar)
            for output, values in zip(due, predicted, strict=True):
                copied = to_host(values)
                writing.append(writer.submit(_write_part, output.work, part, copied, errors))
            while len(writing) > WRITERS:
                writing.popleft().result()
        while writing:
            writing.popleft().result()
    return notes


def _compile(output: Output, device: torch.device, stack: ExitStack) -> None:
    """Have an output's models run compiled, if that is chosen, until the stack is closed."""
    for member in output.members:  # of several passes, the encoder makes only one
        module = member if output.work.num_passes == 1 else member.encoder
        fixed = (module, output.compiled, device, output.work.batch_size)
        stack.enter_context(speed.compiled_to_predict(*fixed))


def _predict_part(
    outputs: Sequence[Output],
    batches: Iterator[dict],
    part: int,
    settings: engine.Settings,
    bar: Bar,
) -> tuple[list[torch.Tensor], dict[int, str]]:
    """What each output has of a part, (galaxies, A, S); and why images can't be read, by row."""
    predicted, errors = [[] for _ in outputs], {}
    for rows in outputs[0].work.batches(part):
        batch = next(batches)
        for output, values in zip(outputs, predicted, strict=True):
            values.append(_predict_batch(output.members, batch, rows, output.work, settings))
        errors |= {rows.start + place: told for place, told in batch["errors"].items()}
        bar.update(len(rows))
    return [torch.cat(values) for values in predicted], errors


def _looked_at(batches: Iterable[dict], notes: ImageNotes) -> Iterator[dict]:
    """The batches, noted while they are on the host."""
    for batch in batches:
        notes.look_at(batch)
        yield batch


def _predict_batch(
    members: nn.ModuleList, batch: dict, rows: range, work: Work, settings: engine.Settings
) -> torch.Tensor:
    """(galaxies, A, S) float32 on the device; NaN where the image could not be read."""
    shape = (len(rows), *work.template.values.shape[1:])
    if "image" not in batch:
        return torch.full(shape, math.nan, device=settings.device)
    views = [
        view.contiguous(memory_format=torch.channels_last)
        for view in batch["image"].chunk(work.num_views, dim=1)
    ]
    of_members = []
    for member in members:  # each draws as it would alone
        torch.manual_seed((work.seed * 1_000_003 + rows.start) % 2**63)
        with settings.autocast():
            of_views = [predict_samples(member, view, work.num_passes) for view in views]
        is_mixed = work.mixes_views or len(views) == 1
        of_members.append(torch.cat(of_views, 2) if is_mixed else torch.stack(of_views).mean(0))
    for values in of_members:
        if values.shape[1] != shape[1]:
            raise UserError(
                f"the model predicts {values.shape[1]} columns, but there are {shape[1]} label_cols"
            )
    values = torch.cat(of_members, 2)
    if len(values) == len(rows):
        return values
    read = [place for place in range(len(rows)) if place not in batch["errors"]]
    padded = torch.full(shape, math.nan, device=settings.device)
    padded[torch.tensor(read, device=settings.device)] = values
    return padded


def _write_part(
    work: Work, part: int, copied: Callable[[], torch.Tensor], errors: dict[int, str]
) -> None:
    values = copied().numpy()
    tensors = {"predictions": values}
    if work.schema is not None:
        rows = work.rows(part)  # ids come later
        table = statistics.summary_table(rows, values, work.schema, work.temperatures)
        tensors["summary"] = table.drop(columns="id_str").to_numpy(dtype=np.float32)
    write_part(work, part, tensors, errors)
