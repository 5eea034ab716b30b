"""Which bands a model was trained on, and whether those that it is given are the same."""

import dataclasses
import warnings

from torch import nn

from zoobot.data.bands.spec import ImageSpec, check_same_bands
from zoobot.data.dataset import ImagesSeen
from zoobot.data.loaders import GalaxyLoader
from zoobot.models.finetune_base import FinetuneableZoobotAbstract
from zoobot.models.rebuild import Describable
from zoobot.system.errors import UserError

ITS_SPEC = "give the model's own, zoobot.models.spec_of(model)"


def spec_of(model: nn.Module) -> ImageSpec | None:
    """The bands on which a model was trained, how they are scaled, and their statistics.

    Returns:
        None for a model of 8-bit images, or one that does not tell.
    """
    bands = model.images_seen.bands
    return None if bands is None else ImageSpec.from_dict(bands)


def check_to_train(model: nn.Module, spec: ImageSpec | None) -> None:
    """ValueError if a model, or its encoder, that goes on training knows other bands than these.

    One that was trained on 8-bit images may go on with bands. Warns if they are scaled otherwise.
    """
    known = model.images_seen.bands
    if known is None and isinstance(model, FinetuneableZoobotAbstract):
        known = model.encoder_bands
    if known is None:
        return
    trained = ImageSpec.from_dict(known)
    try:
        check_same_bands(spec, trained)
    except UserError as error:
        cure = "give these, or start its first layer afresh: --fresh-stem (fresh_stem=True)"
        raise UserError(f"{error}: {cure}") from error
    if spec.scaling != trained.scaling:
        warnings.warn(
            f"bands are scaled by {spec.scaling}, but the model was trained on bands scaled by "
            f"{trained.scaling}",
            stacklevel=2,
        )


def check_seen(model: nn.Module, loader: object) -> None:
    """ValueError unless a loader of ours gives the bands on which a model was trained, alike.

    A model that does not tell what it was trained on is given what there is.
    """
    if not isinstance(loader, GalaxyLoader) or model.images_seen == ImagesSeen():
        return
    spec, trained = loader.dataset.spec, spec_of(model)
    check_same_bands(spec, trained)
    for name in ("scaling", "softening", "mean", "std") if spec else ():
        given, expected = vars(spec)[name], vars(trained)[name]
        if given != expected:
            raise UserError(
                f"bands have {name} {given}, but the model was trained with {expected}: {ITS_SPEC}"
            )


def spec_to_predict(model: nn.Module, asked: ImageSpec | None) -> ImageSpec | None:
    """The bands that a model is to be shown.

    Args:
        model: a ``predictions.models.Predictor``.
        asked: with the model's bands, in its order; where they are in the files, and their noise
            and pixel scales, may be other. None: as when it was trained.

    Raises:
        ValueError: for other bands, another scaling (but ``asinh``, which is the default), or, of a
            model that does not tell its bands, another number of them.
    """
    trained = spec_of(model)
    if asked is None:
        return trained
    if trained is None and not _saw_8bit(model):
        if model.channels != len(asked.bands):
            told = f"{len(asked.bands)} bands, {' '.join(asked.bands)}, are asked for"
            raise UserError(f"{told}, but the model takes {model.channels} channels")
        if not asked.has_statistics:
            warnings.warn(
                "the model does not tell the mean and spread of its bands: they are shown to it "
                "without standardising",
                stacklevel=2,
            )
        return asked
    check_same_bands(asked, trained)
    if asked.scaling not in (trained.scaling, "asinh"):
        raise UserError(
            f"scaling {asked.scaling} is asked for, but the model was trained with "
            f"{trained.scaling}: leave it out"
        )
    elsewhere = {name: vars(asked)[name] for name in ("places", "noise", "pixel_scale")}
    return dataclasses.replace(trained, **elsewhere)


def _saw_8bit(model: nn.Module) -> bool:
    """Whether a model that does not tell its bands was trained on 8-bit images."""
    if model.images_seen.fits_scaling is not None:
        return True
    return model.channels in (1, 3) and isinstance(model, Describable)


def with_places(model: nn.Module, asked: ImageSpec) -> ImageSpec:
    """The model's bands at other places; ``asked`` as it is, if the model does not tell its own."""
    trained = spec_of(model)
    if trained is None:  # ``spec_to_predict`` decides
        return asked
    check_same_bands(asked, trained)
    return dataclasses.replace(trained, places=asked.places)
