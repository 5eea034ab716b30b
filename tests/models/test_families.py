"""An encoder of each of timm's module families; all but the smallest by ``-m slow``."""

import pytest
from encoder_families import ENCODERS, fit_and_reload

from zoobot.system.errors import UserError

REFUSED = {  # at 64 px
    "byoanet": r"halonet26t' can't take images of 64 px .*it was made for 256 px",
    "efficientformer": r"efficientformer_l1' can't take images of 64 px .*made for 224 px",
    "inception_v3": r"inception_v3' can't take images of 64 px .*Kernel size",
}
# Each failed in a way of its own.
QUICK = {"coat", "csatv2", "rdnet", "swin_transformer_v2_cr", "tresnet"}


def cases():
    for family, name in ENCODERS.items():
        is_quick = family in QUICK or name.startswith("test_")
        marks = [] if is_quick else [pytest.mark.slow]
        yield pytest.param(family, id=family, marks=marks)


@pytest.mark.parametrize("family", list(cases()))
def test_what_is_trained_at_64_px_is_loaded_or_refused_before_training(family, tmp_path):
    if family not in REFUSED:
        fit_and_reload(ENCODERS[family], 64, tmp_path)
        return
    with pytest.raises(UserError, match=REFUSED[family]):
        fit_and_reload(ENCODERS[family], 64, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["halonet26t", "bat_resnext26ts"])
def test_encoders_of_blocks_work_at_the_size_they_were_made_for(name, tmp_path):
    fit_and_reload(name, 256, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maxvit_nano_rw_256", "coatnet_nano_rw_224", "hiera_tiny_224"])
def test_encoders_of_windows_work_at_another_size(name, tmp_path):
    fit_and_reload(name, 64, tmp_path)
