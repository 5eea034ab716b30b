"""Galaxies of a stream, whose number nobody knows: read from the first to the last, in passes.

Training takes steps of one size from pass after pass, without a gap, so that each galaxy is used
once a pass. Which galaxies a step has is a function of its number: a resumed run reads again what
comes before, and goes on bitwise. All else reads one pass, to its end.

Every process reads the whole stream, and decodes every world_size-th image of it. Processes compare
what they have read, so that no galaxy is lost or counted twice in silence.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Sampler

from zoobot.data.catalog import check_exact_ids
from zoobot.data.huggingface import raw_images, source_of
from zoobot.data.labels import label_array
from zoobot.data.samplers import SMALLEST_MICRO_BATCH, Step
from zoobot.system import distributed
from zoobot.system.errors import OneProcessError, UserError, check_count


def check_reading(cache: str, decode: str) -> None:
    """ValueError for ways of reading images that streams have not."""
    if cache not in ("none", "auto") or decode == "gpu":
        raise UserError(
            f"cache={cache!r}, decode={decode!r}: images of a stream are not kept, and the CPU "
            "decodes them: leave both out"
        )


def check_steps(steps_per_epoch: int | None) -> int:
    """The steps of an epoch over a stream; ValueError unless they are given."""
    if steps_per_epoch is None:
        raise UserError(
            "the training galaxies are a stream, whose number is not known: give steps_per_epoch, "
            "for example 1000, after each of which the model is validated"
        )
    check_count("steps_per_epoch", steps_per_epoch)
    return steps_per_epoch


class GalaxyStream:
    """A ``datasets.IterableDataset`` of galaxies.

    Args:
        dataset: with ``id_str``, ``image`` or ``file_loc``, and the label columns.
        label_cols: names of the label columns.
        split: of the galaxies; those to train on are shuffled.
        num_galaxies: of an epoch; 0: it is not known.
        shuffle_buffer: galaxies among which the next is drawn.
        seed: of the order.

    Attributes:
        check: called with the labels of each batch, a table; None: they are not checked.

    Raises:
        ValueError: the stream is known to have no column of images.
    """

    shard_sizes = raw_px = spec = None

    def __init__(
        self,
        dataset: Any,
        label_cols: Sequence[str],
        split: str,
        num_galaxies: int = 0,
        shuffle_buffer: int = 1000,
        seed: int = 0,
    ):
        self.label_cols, self.split = list(label_cols), split
        self.check: Callable[[pd.DataFrame], None] | None = None
        self._num_galaxies = num_galaxies
        self._dataset, self._column = raw_images(dataset)
        if split == "train":
            self._dataset = self._dataset.shuffle(seed=seed, buffer_size=shuffle_buffer)

    def __len__(self) -> int:
        """Galaxies of an epoch; 0: it is not known."""
        return self._num_galaxies

    def __getstate__(self) -> dict:
        """For workers, which do not read the stream."""
        return vars(self) | {"_dataset": None, "check": None}

    def one_pass(self, number: int) -> Iterator[dict]:
        """All examples, in the order of this pass."""
        self._dataset.set_epoch(number)
        yield from self._dataset

    def endless(self, place: int) -> Iterator[tuple[int, dict]]:
        """Examples of pass after pass, each with its place, from this place on.

        Raises:
            ValueError: a pass has no galaxies, or another number than the one before.
        """
        number, start, length = 0, 0, None
        while True:
            count = 0
            for count, example in enumerate(self.one_pass(number), start=1):
                if start + count > place:
                    yield start + count - 1, example
            if count == 0 or length not in (None, count):
                told = "no galaxies" if count == 0 else f"{length} galaxies, and later {count}"
                raise OneProcessError(
                    f"the {self.split} stream gave {told}: it must give the same ones in each pass"
                )
            length = count
            passes = max(1, (place - start) // length)  # whole ones before the place are not read
            number, start = number + passes, start + passes * length

    def id_of(self, example: dict) -> str:
        """The id of an example."""
        if example.get("id_str") is None:
            raise OneProcessError(
                f"a galaxy of the {self.split} stream has no 'id_str': rename its column, "
                "stream.rename_column(NAME, 'id_str'), or number the galaxies, stream.map(lambda "
                "galaxy, i: {'id_str': str(i)}, with_indices=True)"
            )
        return str(example["id_str"])

    def image_of(self, example: dict) -> str | bytes | np.ndarray:
        """The image of an example, not decoded."""
        return source_of(example.get(self._column), self.id_of(example), fetches=True)

    def labels_of(self, examples: list[dict]) -> np.ndarray:
        """(B, L) labels, int32 or float32."""
        names = [name for name in self.label_cols if all(name in x for x in examples)]
        table = pd.DataFrame({name: [x[name] for x in examples] for name in names})
        return label_array(table, self.label_cols, f"{self.split} stream")


class Piece:
    """The galaxies of a stream that make a batch of one process.

    Args:
        examples: each with its place in the stream.
        step, read: the number of the step, from 1, and a hash of all ids up to its end.
    """

    shard_sizes = raw_px = spec = None

    def __init__(
        self, stream: GalaxyStream, examples: list[tuple[int, dict]], step: int, read: str
    ):
        self.step, self.read = step, read
        self.ids = [stream.id_of(example) for _, example in examples]
        check_exact_ids(pd.Series([x["id_str"] for _, x in examples]), f"{stream.split} stream")
        self.places = [place for place, _ in examples]
        self._images = [stream.image_of(example) for _, example in examples]
        self._labels = stream.labels_of([example for _, example in examples])

    def id_str(self, place: int) -> str:
        """The id of the galaxy at a place of the stream."""
        return self.ids[self.places.index(place)]

    def source(self, place: int) -> str | bytes | np.ndarray:
        """The image of the galaxy at a place of the stream: a path, encoded bytes or pixels."""
        return self._images[self.places.index(place)]

    def labels(self, places: Sequence[int]) -> torch.Tensor:
        """(B, L) labels, int32 or float32."""
        return torch.from_numpy(self._labels[[self.places.index(place) for place in places]])


def _pieces(
    stream: GalaxyStream, examples: Iterator[tuple[int, dict]], size: int, accumulation: int = 1
) -> Iterator[list[Piece]]:
    """Steps of so many galaxies over all processes, each as the pieces of this process.

    A piece may be empty at the end of the stream.
    """
    hashed = hashlib.blake2b(digest_size=16)
    for step in itertools.count(start=1):
        whole = list(itertools.islice(examples, size))
        if not whole:
            return
        for _, example in whole:
            hashed.update(stream.id_of(example).encode() + b"\0")
        share = whole[distributed.rank() :: distributed.world_size()]
        ends = np.linspace(0, len(share), accumulation + 1).astype(int).tolist()
        parts = [share[start:end] for start, end in itertools.pairwise(ends)]
        try:
            yield [Piece(stream, part, step, hashed.hexdigest()) for part in parts]
        except UserError as error:  # other processes have other galaxies
            raise OneProcessError(str(error)) from error


class TrainStreamSampler(Sampler):
    """The pieces of an epoch's steps, which go on where the epoch before has ended.

    Args:
        batch_size: galaxies in a step, over all ranks; each step has so many.
        num_steps: of an epoch.
        accumulation: micro-batches of a step.

    Raises:
        ValueError: a micro-batch would have fewer than two galaxies.
    """

    note = ""

    def __init__(self, stream: GalaxyStream, batch_size: int, num_steps: int, accumulation: int):
        num_parts = distributed.world_size() * accumulation
        if batch_size < SMALLEST_MICRO_BATCH * num_parts:
            raise UserError(
                f"batch_size={batch_size}: steps of a stream are dealt to {num_parts} micro-batches"
                f", each of {SMALLEST_MICRO_BATCH} or more: give {2 * num_parts} or more"
            )
        self._stream, self._batch_size = stream, batch_size
        self.num_steps, self.accumulation = num_steps, accumulation
        self.largest_batch = -(-batch_size // num_parts)
        self._running: Iterator[list[Piece]] = iter(())
        self._next_step: int | None = None
        self.set_epoch(0)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch of the next iteration, and the step that it starts from."""
        self._epoch, self._first_step = epoch, first_step

    def __len__(self) -> int:
        return self.num_steps * self.accumulation

    def steps(self) -> list[Step]:
        """The steps of the next iteration."""
        return [Step(self._batch_size, self.accumulation)] * (self.num_steps - self._first_step)

    def __iter__(self) -> Iterator[tuple[int, Piece]]:
        first = self._epoch * self.num_steps + self._first_step
        if self._next_step != first:
            examples = self._stream.endless(first * self._batch_size)
            self._running = _pieces(self._stream, examples, self._batch_size, self.accumulation)
        for step in range(first, (self._epoch + 1) * self.num_steps):
            self._next_step = None  # if it is interrupted here, the next iteration starts anew
            pieces = next(self._running)
            self._next_step = step + 1
            yield from ((0, piece) for piece in pieces)


class EvalStreamSampler(Sampler):
    """The pieces of one pass, in order; how many is not known before its end.

    Args:
        batch_size: galaxies of a batch, in each process.
    """

    accumulation = 1
    note = ""

    def __init__(self, stream: GalaxyStream, batch_size: int):
        self._stream = stream
        self.largest_batch = batch_size
        self._num_read: int | None = None

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Do nothing: every epoch is the same."""

    def __len__(self) -> int:
        """0: it is not known."""
        return 0

    def steps(self) -> Iterator[Step]:
        """One for each batch, until all that were read are given."""
        for number in itertools.count():
            if number == self._num_read:
                return
            yield Step(0, 1)

    def __iter__(self) -> Iterator[tuple[int, Piece]]:
        """Raises ValueError for a stream without galaxies."""
        self._num_read, number = None, 0
        size = self.largest_batch * distributed.world_size()
        pieces = _pieces(self._stream, enumerate(self._stream.one_pass(0)), size)
        for (piece,) in pieces:
            yield 0, piece
            number += 1
        if number == 0:
            raise OneProcessError(f"the {self._stream.split} stream gave no galaxies")
        self._num_read = number
