"""Started by test_ddp.py as several ranks: trains and evaluates, saves what the main rank saw."""

import sys
from pathlib import Path

import torch

from zoobot import engine, optim
from zoobot.data import CatalogDataset, catalog, loaders
from zoobot.data.views.config import minimal_view_config
from zoobot.data.views.cpu import GalaxyView
from zoobot.models.tree import ZoobotTree
from zoobot.schemas import load_schema
from zoobot.system import distributed


def main(catalog_path: Path, out: Path) -> None:
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    schema = load_schema(catalog_path.parent / "tree.json")
    frame = catalog.read_catalog(catalog_path)
    config = minimal_view_config()
    config.output_size = 32
    dataset = CatalogDataset(frame, schema.label_cols, GalaxyView(config))
    with distributed.process_group(cpu):
        torch.manual_seed(0)
        raw = ZoobotTree(schema=schema, architecture_name="test_convnext", dropout_rate=0.0)
        groups = optim.parameter_groups(raw.encoder, raw.head, 1e-3, 0.0)
        optimizer = torch.optim.SGD(groups)
        gradients = []
        optimizer.register_step_pre_hook(
            lambda *_: gradients.append([p.grad.clone() for p in raw.parameters()])
        )
        settings = engine.Settings(cpu, grad_clip=0.3)
        model = distributed.wrap(raw, cpu)
        batches = loaders.train_loader(dataset, 16, accumulation=2)
        train = engine.train_one_epoch(
            model,
            batches,
            optimizer,
            optim.make_scheduler(optimizer, None, 1, batches.num_steps),
            settings.grad_scaler(),
            settings,
            engine.Progress(),
        )
        evaluated = engine.evaluate(model, loaders.eval_loader(dataset, 16), settings)
        if distributed.is_main():
            state = raw.state_dict()
            torch.save({"grads": gradients, "w": state, "train": train, "val": evaluated}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
