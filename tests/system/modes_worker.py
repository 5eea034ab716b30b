"""Started by test_ddp_modes.py, alone and as two ranks: fits in every mode, saves what came out.

python modes_worker.py CATALOG OUT
"""

import os
import sys
from pathlib import Path

import timm
import torch
from torch._dynamo.backends.debugging import aot_eager

from zoobot import engine
from zoobot.data import CatalogDataModule, get_galaxy_transform, minimal_view_config
from zoobot.data.catalog import read_catalog
from zoobot.models import speed
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.pytorch.training.trainer import get_trainer
from zoobot.system import distributed

MODES = {
    "head_only": {"model": {"training_mode": "head_only"}},
    "unfreeze_after": {"trainer": {"unfreeze_after": 1}},
    "layer_decay=0": {"model": {"layer_decay": 0.0}},
    "fp16": {"trainer": {"precision": "fp16"}},
    "bf16": {"trainer": {"precision": "bf16"}},
    "BatchNorm": {"encoder": "test_resnet"},
    "frozen BatchNorm": {"encoder": "test_resnet", "model": {"training_mode": "head_only"}},
    # Two processes, compiled, are compared with one that is not.
    "compiled": {"trainer": {"compile": "on" if os.environ.get("WORLD_SIZE") == "2" else "off"}},
}
COMPILATIONS = []


class WithSGD(FinetuneableZoobotClassifier):
    """Adam's steps are as large for a gradient of rounding errors as for any other."""

    def configure_optimizers(self):
        groups = super().configure_optimizers().param_groups
        return torch.optim.SGD(
            [{k: g[k] for k in ("params", "lr", "name", "weight_decay")} for g in groups]
        )


def compiler(graph, inputs):
    """Traces and differentiates as torch's own compiler, but runs torch's own kernels."""
    COMPILATIONS.append(torch.is_grad_enabled())
    return aot_eager(graph, inputs)


def fit_and_keep(ends: list[dict]) -> None:
    """Have ``engine.fit`` keep the weights of its last step; the trainer then loads the best."""
    fit = engine.fit

    def kept(model, *arguments, **others):
        progress = fit(model, *arguments, **others)
        ends.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return progress

    engine.fit = kept


def fitted(frame, folder: Path, mode: dict, ends: list[dict]) -> dict:
    """Weights after two epochs, whether those of all ranks are the same, and the metrics."""
    view = minimal_view_config()
    view.output_size = 32
    view = get_galaxy_transform(view)
    data = CatalogDataModule(["label"], view, view, catalog=frame, batch_size=8, num_workers=0)
    torch.manual_seed(0)
    encoder = timm.create_model(mode.get("encoder", "test_convnext"), num_classes=0)
    model = WithSGD(
        num_classes=2, encoder=encoder, head_dropout_prob=0.0, learning_rate=0.05,
        **mode.get("model", {}),
    )  # fmt: skip
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arguments = {"max_epochs": 2, "precision": "fp32", "accelerator": "cpu"}
    trainer = get_trainer(folder, **arguments | mode.get("trainer", {}))
    trainer.fit(model, data)
    after = ends.pop()
    ranks = distributed.gather(after)
    return {
        "before": before,
        "after": after,
        "ranks agree": all(torch.equal(other[k], after[k]) for other in ranks for k in after),
        "loss": float(trainer.callback_metrics["finetuning/val_loss"]),
    }


def averaged() -> dict:
    """What ``average_buffers`` makes of statistics that differ, are the same, or are frozen."""
    model = torch.nn.ModuleDict({name: torch.nn.BatchNorm1d(3) for name in ("trains", "frozen")})
    model["frozen"].eval()
    model["trains"].register_buffer("constant", torch.tensor([0.1, 1 / 3, float("-inf")]))
    model["trains"].register_buffer("of_its_own", torch.tensor([1.0 + distributed.rank()]))
    for layer in model.values():
        layer.running_mean += torch.arange(3.0) * (1 + distributed.rank())
    before = distributed.gather({k: v.clone() for k, v in model.state_dict().items()})
    distributed.average_buffers(model)
    return {"before": before, "after": distributed.gather(dict(model.state_dict()))}


def main(catalog: Path, out: Path) -> None:
    torch.set_num_threads(1)
    frame = read_catalog(catalog)
    frame["label"] = (frame["smooth_yes"] > 10).astype(int)
    fit_and_keep(ends := [])
    speed.BACKEND = compiler
    # A scale that no step overflows: how often 65536 is halved depends on what a rank holds.
    engine.Settings.grad_scaler = lambda settings: torch.amp.GradScaler(
        "cpu", init_scale=64.0, enabled=settings.dtype == torch.float16
    )
    with distributed.process_group(torch.device("cpu")):
        found = {
            name: fitted(frame, out.parent / out.stem / name, mode, ends)
            for name, mode in MODES.items()
        }
        found["averaged"] = averaged()
        found["compilations"] = distributed.gather(COMPILATIONS)
        if distributed.is_main():
            torch.save(found, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
