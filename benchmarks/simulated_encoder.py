"""Train the small encoder that the package carries (``--encoder simulated``), and write it.

    python benchmarks/simulated_encoder.py zoobot/models/simulated

An EfficientNet-Lite0 (Tan & Le 2019) learns from fresh weights what simulated volunteers say of
12,000 simulated galaxies: shapes, bars, spiral arms, bulges, mergers. No image of a survey and no
trained weights of others are in it. It takes 20 minutes on one core. The folder gets config.json
and model.safetensors, with matrices in bfloat16 and all else in float32.
"""

import argparse
import shlex
from pathlib import Path

import torch
from our_scripts import run_command

from zoobot.data.demo.catalog import DEMO_TREE, demo_catalog
from zoobot.models.encoders import load_pretrained_zoobot, save_encoder

ENCODER = "tf_efficientnet_lite0"
SIMULATED, SEED = 12_000, 1  # galaxies
# float32 is faster than bfloat16 for the depthwise convolutions of this encoder on CPUs.
PROCESS = "--precision fp32 --num-workers 0"
TRAINING = f"--image-size 96 --shear 0 {PROCESS} --batch-size 64 --no-report"


def learn(folder: Path) -> Path:
    """Train on simulated galaxies; returns the model's file."""
    catalog = demo_catalog(SIMULATED, SEED)
    words = f"--encoder {ENCODER} --epochs 5 {TRAINING} --zoom 1.2 1.4"
    data = ("--catalog", catalog, "--schema", DEMO_TREE)
    run_command("train", *data, *shlex.split(words), "--save-dir", folder)
    return folder / "best.safetensors"


@torch.no_grad()
def write(model_file: Path, folder: Path) -> None:
    """Write a model's encoder, its matrices in bfloat16."""
    encoder = load_pretrained_zoobot(model_file)
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.bfloat16()
    save_encoder(encoder, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", type=Path, default=Path("runs/simulated_encoder"))
    options = parser.parse_args()
    write(learn(options.run), options.folder)
    print(f"{options.folder / 'model.safetensors'}: --encoder simulated")
