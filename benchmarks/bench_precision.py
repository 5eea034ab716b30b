"""Training and inference in float32 and in bfloat16, on a batch kept in memory, on a CPU.

    python benchmarks/bench_precision.py
    python benchmarks/bench_precision.py --encoder tf_efficientnet_b0 --image-size 224

``autocast alone`` is torch's, without what ``zoobot.models.depthwise`` does.
"""

import argparse
import dataclasses
from collections.abc import Callable

import torch
from bench_common import (
    SMOKE,
    TREE,
    KeptBatch,
    Training,
    forward,
    make_model,
    make_parser,
    print_table,
    settle,
)
from bench_timing import alternate, images_per_s

from zoobot import engine

ENCODERS = (
    "efficientnet_lite0 mobilenetv3_small_100 tf_efficientnet_b0 convnext_atto convnext_nano "
    "resnet18 regnety_002"
).split()
STEPS = 3  # of training, and batches of inference, that are timed together
VARIANTS = {"fp32": "fp32", "bf16": "bf16", "autocast alone": "bf16"}  # name -> precision


class AutocastAlone(engine.Settings):
    """The loop's settings, with torch's autocast as it is."""

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype)


def kept_batch(batch_size: int, image_size: int) -> dict:
    """Random images and votes."""
    images = torch.rand(batch_size, 3, image_size, image_size)
    votes = torch.randint(0, 20, (batch_size, len(TREE.label_cols)))
    return {"image": images, "labels": votes.float(), "id_str": ["g"] * batch_size}


def measure(args: argparse.Namespace, encoder: str) -> dict:
    """Images a second of an encoder in every variant, training and inference in turn."""
    batch = kept_batch(args.batch_size, args.image_size)
    kept, cases, num = KeptBatch(batch, STEPS), {}, STEPS * args.batch_size
    for name, precision in VARIANTS.items():
        training = Training(make_model(encoder, args.image_size), "cpu", precision)
        if name == "autocast alone":
            training.settings = AutocastAlone(**dataclasses.asdict(training.settings))
        else:
            cases[f"inference, {name}"] = images_per_s(_inference(training, batch), num, "cpu")
        cases[f"training, {name}"] = images_per_s(lambda t=training: t.epoch(kept), num, "cpu")
    figures = alternate(cases, args.rounds)
    return {"encoder": f"{encoder}, {args.image_size} px"} | {
        key: round(figures[key], 1) for key in sorted(figures, reverse=True)
    }


def _inference(training: Training, batch: dict) -> Callable[[], None]:
    def predict() -> None:
        training.model.eval()
        for _ in range(STEPS):
            forward(training.model, batch["image"], training.settings)

    return predict


def main(argv: list[str] | None = None) -> list[dict]:
    args = make_parser(__doc__).parse_args(argv)
    args.device = "cpu"
    encoders = [args.encoder] if args.encoder else ENCODERS
    settle(args, {"batch_size": 16, "image_size": 128}, {}, SMOKE)
    rows = [measure(args, encoder) for encoder in ([args.encoder] if args.smoke else encoders)]
    print_table(rows)
    return rows


if __name__ == "__main__":
    main()
