"""Collect predictions while galaxies with labels are evaluated: one pass gives both."""

import numpy as np
import torch
from torch import nn

from zoobot.predictions.files import Predictions
from zoobot.predictions.models import column_names
from zoobot.predictions.outputs import empty_predictions
from zoobot.system import distributed


class Collector:
    """Collects what a model predicts of each batch; ``engine.evaluate`` calls it.

    Predictions stay on the device until ``gather``, so that no step waits for the host.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._ids: list[str] = []
        self._values: list[torch.Tensor] = []

    def __call__(self, batch: dict, outputs: torch.Tensor) -> None:
        """Keep the predictions of a batch, from the model's float32 outputs."""
        self._ids += batch["id_str"]
        self._values.append(self._model.predictions(outputs).reshape(len(outputs), -1))

    def gather(self) -> Predictions:
        """The predictions of all ranks, in the catalog's order, in every process.

        Rank r evaluates galaxies r, r + W, r + 2W, ... of W ranks.
        """
        columns = column_names(self._model, None)
        gathered = empty_predictions(self._model, columns)
        own = torch.cat(self._values).float().cpu() if self._values else None
        parts = distributed.gather((self._ids, own))
        num_galaxies = sum(len(ids) for ids, _ in parts)
        gathered.ids = np.empty(num_galaxies, dtype=object)
        gathered.values = np.empty((num_galaxies, len(columns), 1), np.float32)
        for rank, (ids, values) in enumerate(parts):
            if ids:
                gathered.ids[rank :: len(parts)] = ids
                gathered.values[rank :: len(parts), :, 0] = values
        return gathered
