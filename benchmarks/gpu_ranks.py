"""Ranks that share one device train together; started by ``gpu.py`` under torchrun."""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from bench_common import Training, make_model, training_view
from torch import nn

from zoobot import optim
from zoobot.data.dataset import CatalogDataset
from zoobot.data.loaders import train_loader
from zoobot.data.shards.reader import open_shards
from zoobot.data.sources import Galaxies, RowsOf
from zoobot.data.views.device import device_view_of
from zoobot.system import distributed

LARGE_EPS = 1e-2  # of Adam: a small one magnifies rounding errors of gradients near 0


def steady_adamw(model: nn.Module) -> torch.optim.AdamW:
    """AdamW whose steps differ by little where gradients do."""
    groups = optim.parameter_groups(model.encoder, model.head, 1e-3, 0.01)
    return torch.optim.AdamW(groups, eps=LARGE_EPS, fused=True)


def flat(model: nn.Module) -> torch.Tensor:
    """All weights in one tensor on the CPU."""
    return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])


def train_once(
    galaxies: Galaxies, encoder: str, image_size: int, device: torch.device
) -> torch.Tensor:
    """All weights after an epoch of four steps, in which each rank has its share of the galaxies.

    Dropout is off, because each rank draws its own.
    """
    view = device_view_of(training_view(image_size), galaxies)
    model = make_model(encoder, image_size, dropout_rate=0.0).to(device)
    training = Training(model, device, "fp32", steady_adamw(model))
    dataset = CatalogDataset(galaxies, transform=view)
    training.epoch(train_loader(dataset, len(galaxies) // 4))
    return flat(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("shards", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--num-galaxies", type=int, required=True)
    parser.add_argument("--device", type=torch.device, required=True)
    args = parser.parse_args()
    dist.init_process_group("gloo")  # nccl does not take two ranks on one GPU
    galaxies = RowsOf(open_shards(args.shards, "train"), range(args.num_galaxies))
    weights = train_once(galaxies, args.encoder, args.image_size, args.device)
    if distributed.is_main():
        torch.save(weights, args.out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
