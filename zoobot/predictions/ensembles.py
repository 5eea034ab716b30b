"""Several models that predict the same of the same images: an ensemble, mixed in one prediction."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from zoobot.data.bands.spec import ImageSpec
from zoobot.models.bands import spec_to_predict
from zoobot.predictions.models import AnyModule, as_predictor, column_names, load_predictor, view_of
from zoobot.system.errors import UserError

Model = nn.Module | str | Path
APART = "predict with each alone"


def members_of(model: Model | Sequence[Model]) -> list[nn.Module]:
    """The models of an ensemble, or the only one in a list; those that are paths are loaded."""
    models = model if isinstance(model, list | tuple) else [model]
    if not models:
        raise UserError("no model is given: give one, or several in a list")
    return [load_predictor(each) if isinstance(each, str | Path) else each for each in models]


def check_same_columns(models: Sequence[nn.Module], label_cols: Sequence[str] | None) -> list[str]:
    """The predicted columns' names, which are those of every model; see ``models.column_names``.

    Raises:
        ValueError: models have other tasks, trees, classes or labels; or predict features, which
            mean something else in each model.
    """
    columns, *others = [column_names(model, label_cols) for model in models]
    described = [as_predictor(model).describe_predictions() for model in models]
    for number, told in enumerate(described[1:], 2):
        for name, what in (("task", "tasks"), ("schema", "trees"), ("class_names", "classes")):
            _check_alike(told[name] == described[0][name], what, number)
        _check_alike(others[number - 2] == columns, "predicted columns", number)
        if told["task"] == "representations":
            raise UserError(
                "features of several models can't be mixed, they mean something else in each: "
                f"{APART}"
            )
    return columns


def _check_alike(is_same: bool, what: str, number: int) -> None:
    """ValueError, in one line, unless the model of this number is like the first."""
    if not is_same:
        raise UserError(
            f"models that predict together need the same {what}: those of models 1 and {number} "
            f"differ; {APART}"
        )


def same_view(models: Sequence[nn.Module], image_size: int | None = None) -> Callable:
    """The view with which all models were validated; see ``models.view_of``.

    Raises:
        ValueError: they were validated with other views: another size, zoom, or decoding.
    """
    views = [view_of(model, image_size) for model in models]
    for number, view in enumerate(views[1:], 2):
        _check_alike(view.config == views[0].config, "view of the images", number)
    return views[0]


def same_images(
    members: Sequence[nn.Module], fits_scaling: str | None, spec: ImageSpec | None
) -> tuple[str, ImageSpec | None]:
    """Brightness of FITS images, and the bands, that all models are to be shown.

    Args:
        members: each a ``Predictor``.
        fits_scaling, spec: as asked for; None: as when the models were validated.

    Raises:
        ValueError: they were validated with others, or take other channels.
    """
    if spec is not None:
        for member in members:
            if isinstance(member, AnyModule):
                member.channels = len(spec.bands)
    scalings = [fits_scaling or m.images_seen.fits_scaling or "asinh" for m in members]
    specs = [spec_to_predict(member, spec) for member in members]
    for number, member in enumerate(members[1:], 2):
        _check_alike(member.channels == members[0].channels, "channels", number)
        _check_alike(scalings[number - 1] == scalings[0], "fits_scaling", number)
        told = "bands, with their scaling, mean and spread (train with one --image-spec)"
        _check_alike(specs[number - 1] == specs[0], told, number)
    return scalings[0], specs[0]
