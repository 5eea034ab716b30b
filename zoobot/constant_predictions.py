"""What a prediction reaches that is the same for all galaxies, to set a model's metrics beside.

A model that has learned nothing is no better than the best constant. Nor is its accuracy better
than that of the most frequent class.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import pandas as pd
import torch

from zoobot.contracts import TrainableModel
from zoobot.data.labels import label_array
from zoobot.metrics import Means
from zoobot.system import distributed

CHUNK = 8192  # galaxies measured at a time


@runtime_checkable
class HasConstants(Protocol):
    """A model that knows which constant outputs are best."""

    def constants(self, table: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
        """The outputs, the same for all galaxies, with the lowest loss; and the best of the others.

        Args:
            table: labels of the training galaxies, to which both are fitted.

        Returns:
            Outputs of one galaxy with the lowest loss, and those by which all else that is measured
            is best, such as the most frequent class.
        """


def measure_constants(
    model: TrainableModel, tables: Mapping[str, pd.DataFrame]
) -> dict[str, dict[str, float]]:
    """The metrics of the best constants, for each split; empty for a model without them.

    The constants are fitted to the training galaxies. Every process must call it; each measures its
    share of the galaxies.

    Args:
        tables: split -> labels, as ``checked_labels`` gives them.
    """
    if not isinstance(model, HasConstants) or "train" not in tables:
        return {}
    constants = [outputs.float() for outputs in model.constants(tables["train"])]
    return {split: _measure(model, table, *constants) for split, table in tables.items()}


@torch.no_grad()
def _measure(
    model: TrainableModel, table: pd.DataFrame, of_loss: torch.Tensor, of_others: torch.Tensor
) -> dict[str, float]:
    """Metrics over the galaxies of a table, as the model measures its own."""
    device = next(model.parameters()).device
    means, columns = Means(model.measure.names, device), model.label_columns()
    all_labels = torch.from_numpy(label_array(table, columns))
    own = all_labels[distributed.rank() :: distributed.world_size()]
    for labels in own.split(CHUNK) if len(own) else ():
        batch = {"image": torch.empty(0), "labels": labels.to(device), "label_cols": columns}
        _, labels = model.batch_to_supervised_tuple(batch)
        shown = [x.to(device).expand(len(labels), *x.shape) for x in (of_loss, of_others)]
        losses = model.losses(shown[0], labels)
        means.update(*model.measure(losses, shown[1], labels))
    return means.result()
