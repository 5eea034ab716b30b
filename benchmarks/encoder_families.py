"""Which of timm's encoders can be finetuned, saved and loaded, at which image sizes.

    python benchmarks/encoder_families.py
    python benchmarks/encoder_families.py --sizes 64 --only swin_transformer,hiera

An encoder of each of timm's module families is built as ``finetune.py --from-scratch`` builds it,
trained for a step, written to a file, and loaded as ``predict.py`` loads it: predictions must be
the same. Prints the table of docs/finetuning.md.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import timm
import torch

from zoobot.models import FinetuneableZoobotClassifier
from zoobot.models.architectures import image_size_kwargs
from zoobot.models.features import reason_of
from zoobot.models.rebuild import check_rebuilds
from zoobot.predictions.models import load_predictor
from zoobot.runs import checkpoint
from zoobot.system.errors import UserError

SIZES_PX = (64, 96, 224)
# The smallest of each family, but for byoanet's: that one takes no size of these.
ENCODERS = dict(
    line.split(maxsplit=1)
    for line in """
byoanet halonet26t
byobnet test_byobnet
cait cait_xxs24_224
coat coat_tiny
convit convit_tiny
convmixer convmixer_768_32
convnext test_convnext
cpubone cpubone_nano
crossvit crossvit_tiny_240
csatv2 csatv2
cspnet cs3darknet_focus_s
cspnext cspnext_tiny
davit davit_tiny
deit deit_tiny_patch16_224
densenet densenet121
dla dla46x_c
dpn dpn48b
edgenext edgenext_xx_small
efficientformer efficientformer_l1
efficientformer_v2 efficientformerv2_s0
efficientnet test_efficientnet
efficientvim efficientvim_m1
efficientvit_mit efficientvit_b0
efficientvit_msra efficientvit_m0
eva vit_tiny_patch16_dinov3_qkvb
fasternet fasternet_t0
fastvit fastvit_t8
focalnet focalnet_tiny_srf
gcvit gcvit_xxtiny
ghostnet ghostnet_050
hardcorenas hardcorenas_b
hgnet hgnetv2_b0
hiera hiera_tiny_224
hieradet_sam2 sam2_hiera_tiny
hrnet hrnet_w18_small
iformer iformer_t
inception_next inception_next_atto
inception_v3 inception_v3
lcnetv2 lcnetv2_small
levit levit_128s
lowformer lowformer_b0
mambaout test_mambaout
maxxvit test_coatnet
metaformer poolformerv2_s12
mlp_mixer gmlp_ti16_224
mobilenetv3 lcnet_035
mobilevit mobilevit_xxs
mvitv2 mvitv2_tiny
nest nest_tiny
nextvit nextvit_small
nfnet test_nfnet
pit pit_ti_224
pvt_v2 pvt_v2_b0
rdnet rdnet_tiny
regnet regnetx_002
repghost repghostnet_050
repvit repvit_m1
res2net res2next50
resnest resnest14d
resnet test_resnet
resnetv2 resnetv2_18
rexnet rexnet_100
selecsls selecsls42
senet legacy_seresnet18
sequencer sequencer2d_s
shvit shvit_s1
sknet skresnet18
starnet starnet_s050
swiftformer swiftformer_xs
swin_transformer swin_tiny_patch4_window7_224
swin_transformer_v2 swinv2_tiny_window16_256
swin_transformer_v2_cr swinv2_cr_tiny_224
tiny_vit tiny_vit_5m_224
tnt tnt_s_legacy_patch16_224
tresnet tresnet_m
twins twins_svt_small
visformer visformer_tiny
vision_transformer test_vit
vision_transformer_hybrid vit_tiny_r_s16_p8_224
vision_transformer_relpos test_vit_relpos
vitamin vitamin_small_224
volo volo_d1_224
vovnet ese_vovnet19b_slim_dw
xception legacy_xception
xception_aligned xception41p
xcit xcit_nano_12_p8_224
""".split("\n")
    if line
)


def fit_and_reload(name: str, image_size: int, folder: Path) -> None:
    """Build an encoder, train a step, write the model and load it; raises whatever goes wrong."""
    torch.manual_seed(0)
    kwargs = image_size_kwargs(name, image_size) | {"pretrained": False}
    model = FinetuneableZoobotClassifier(num_classes=2, name=name, timm_kwargs=kwargs)
    images, labels = torch.rand(2, 3, image_size, image_size), torch.tensor([0, 1])
    optimizer = model.configure_optimizers()
    model.train()
    model.losses(model(images), labels).sum().backward()
    optimizer.step()
    description = model.describe() | {"image_size": image_size}
    check_rebuilds(model, description)
    checkpoint.save_weights(folder / "a.safetensors", model.state_dict(), description)
    again = load_predictor(str(folder / "a.safetensors"))
    with torch.inference_mode():
        torch.testing.assert_close(again(images), model.eval()(images))


def main(sizes: list[int], families: list[str]) -> None:
    print(f"timm {timm.__version__}, torch {torch.__version__}\n")
    print("| family | encoder | " + " | ".join(f"{size} px" for size in sizes) + " |")
    print("|---|---|" + "---|" * len(sizes))
    for family in families:
        cells = [_outcome(ENCODERS[family], size) for size in sizes]
        print(f"| {family} | {ENCODERS[family]} | " + " | ".join(cells) + " |", flush=True)
    if unknown := {*timm.list_modules()} - {*ENCODERS}:
        print(
            f"\nWithout an encoder under 32 million weights, or new: {', '.join(sorted(unknown))}"
        )


def _outcome(name: str, image_size: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            fit_and_reload(name, image_size, Path(folder))
            return "yes"
        except UserError as error:
            return f"refused: {error}"
        except Exception as error:  # the table tells of any fault
            return f"FAULT {reason_of(error)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES_PX, metavar="PX")
    parser.add_argument("--only", help="families, separated by commas")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    main(options.sizes, options.only.split(",") if options.only else list(ENCODERS))
