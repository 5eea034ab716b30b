"""How far a linear model comes on the encoder's features as they are."""

import itertools

import numpy as np
import torch

from zoobot import engine
from zoobot.contracts import Loader
from zoobot.data.device_batches import on_device, to_host
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.system import distributed


def check_with_linear_model(
    model: FinetuneableZoobotClassifier, train: Loader, val: Loader, settings: engine.Settings
) -> str:
    """The accuracies of ``linear_sanity_check``, in a line; every rank must call it."""
    loaders = {"train": train, "val": val}
    features = {split: _encoded(model, loader, settings) for split, loader in loaders.items()}
    accuracy = model.linear_sanity_check(features)
    return "linear model on the encoder's features as they are: accuracy " + ", ".join(
        f"{split} {value:.3f}" for split, value in accuracy.items()
    )


@torch.inference_mode()
def _encoded(
    model: FinetuneableZoobotClassifier, loader: Loader, settings: engine.Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) float32 and labels (N,) of the galaxies of all ranks."""
    model.eval()
    copying = []
    for batch in on_device(loader, settings.device):
        images, labels = model.batch_to_supervised_tuple(batch)
        with settings.autocast():
            features = model.encoder(images).float()
        copying.append((to_host(features), to_host(labels)))
    encoded = [(features(), labels()) for features, labels in copying]
    everywhere = itertools.chain(*distributed.gather(encoded))  # a rank may have none
    features, labels = (torch.cat(parts).numpy() for parts in zip(*everywhere, strict=True))
    return features, labels
