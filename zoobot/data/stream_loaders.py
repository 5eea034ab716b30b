"""Loaders over streams: workers make batches of what the process itself has read."""

import copy
from collections.abc import Callable, Iterator

import pandas as pd
import torch

from zoobot.data.dataset import CatalogDataset
from zoobot.data.loaders import CatalogLoader, GalaxyLoader
from zoobot.data.sources import TableGalaxies
from zoobot.data.streams import EvalStreamSampler, GalaxyStream, Piece, TrainStreamSampler
from zoobot.system import distributed
from zoobot.system.errors import OneProcessError, UserError


class StreamedDataset(CatalogDataset):
    """The galaxies of a stream, of which only the next piece is known.

    Args:
        others: see ``CatalogDataset``.
    """

    def __init__(self, stream: GalaxyStream, transform: Callable, **others):
        no_rows = pd.DataFrame(columns=["id_str", "image", *stream.label_cols], dtype=float)
        self._none = TableGalaxies(no_rows, stream.label_cols)
        super().__init__(self._none, None, transform, **others)
        self.galaxies = stream

    def __getitem__(self, index: int) -> dict:
        """A stream has no numbers: raises ValueError."""
        raise UserError("a stream has no galaxy of that number: it is read from its beginning")

    def batch(self, epoch: int, piece: Piece) -> dict:
        """A batch as of ``CatalogDataset``, with the number of its step, and what was read."""
        told = {"step": piece.step, "read": piece.read}
        if not piece.ids:
            return {"id_str": [], "errors": {}, "no_data": []} | told
        made = copy.copy(self)
        made.galaxies = piece
        return super(StreamedDataset, made).batch(epoch, piece.places) | told

    def made_for(self, device: torch.device) -> CatalogDataset:
        """See ``CatalogDataset``; the sizes of the images are not known."""
        unread = copy.copy(self)
        unread.galaxies = self._none
        made = super(StreamedDataset, unread).made_for(device)
        if made is unread:
            return self
        made.galaxies = self.galaxies
        return made

    def ids_of(self, piece: Piece) -> list[str]:
        """The ids of a piece's galaxies."""
        return piece.ids


class StreamLoader(GalaxyLoader):
    """A ``GalaxyLoader`` over a stream, which checks labels batch by batch.

    Processes compare what they have read at steps 1, 2, 4, 8, ... and at the end.
    """

    def __iter__(self) -> Iterator[dict]:
        step, read = 0, ""
        for batch in super().__iter__():
            step, read = batch.pop("step"), batch.pop("read")
            if batch["ends_step"] and not step & (step - 1):
                self._compare(step, read)
            if self.dataset.galaxies.check and "labels" in batch:
                self._check_labels(batch)
            if batch["id_str"]:
                yield batch
        self._compare(step, read)

    def _compare(self, step: int, read: str) -> None:
        """ValueError unless all processes have read the same galaxies up to this step."""
        everywhere = distributed.gather([step, read])
        other = [rank for rank, told in enumerate(everywhere) if told != everywhere[0]]
        if other:
            raise UserError(
                f"process {other[0]} has read other galaxies of the {self.dataset.galaxies.split} "
                f"stream than process 0 by step {min(told[0] for told in everywhere)}: give every "
                "process the same stream (not split_dataset_by_node), of which each keeps its share"
            )

    def _check_labels(self, batch: dict) -> None:
        table = pd.DataFrame(batch["labels"].numpy(), columns=batch["label_cols"])
        table.insert(0, "id_str", batch["id_str"])
        try:
            self.dataset.galaxies.check(table)
        except UserError as error:  # other processes have other galaxies
            raise OneProcessError(str(error)) from error


class StreamedCatalogLoader(CatalogLoader):
    """A ``CatalogLoader`` over a stream; one that is read to its end has no length."""

    def __len__(self) -> int:
        if len(self.loader) == 0:
            raise TypeError("the number of batches of a stream is not known before its end")
        return len(self.loader)


def train_stream_loader(
    dataset: StreamedDataset, batch_size: int, num_steps: int, accumulation: int, **loading
) -> StreamLoader:
    """``num_steps`` steps an epoch; ``batch_size`` is that of a step over all ranks."""
    sampler = TrainStreamSampler(dataset.galaxies, batch_size, num_steps, accumulation)
    return StreamLoader(dataset, sampler, **loading)


def eval_stream_loader(dataset: StreamedDataset, batch_size: int, **loading) -> StreamLoader:
    """One pass in order; ``batch_size`` is the number over all ranks."""
    each = max(1, batch_size // distributed.world_size())
    return StreamLoader(dataset, EvalStreamSampler(dataset.galaxies, each), **loading)
