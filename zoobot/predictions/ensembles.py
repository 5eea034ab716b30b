"""Several models of the same images: those that predict the same are an ensemble, in one file."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from zoobot.data.bands.spec import ImageSpec
from zoobot.data.views.cpu import GalaxyView, decoded_alike
from zoobot.models.bands import spec_to_predict
from zoobot.predictions.models import AnyModule, column_names, load_predictor, view_of
from zoobot.system.errors import UserError

Model = nn.Module | str | Path
APART = "predict with each alone"
SIZES = {"output_size", "min_side_px"}  # settings of a view that an image size sets


def members_of(model: Model | Sequence[Model]) -> list[nn.Module]:
    """The models, or the only one in a list; those that are paths are loaded."""
    models = model if isinstance(model, list | tuple) else [model]
    if not models:
        raise UserError("no model is given: give one, or several in a list")
    return [load_predictor(each) if isinstance(each, str | Path) else each for each in models]


@dataclasses.dataclass
class Group:
    """Models that predict the same columns, which are mixed in one file.

    Attributes:
        members: the models, each a ``Predictor``.
        columns: names of the predicted columns.
        numbers: which of the models given they are, from 0.
        apart: why they are not mixed with the first models given; empty of the first group.
    """

    members: list[nn.Module]
    columns: list[str]
    numbers: list[int]
    apart: str = ""

    @property
    def described(self) -> dict:
        """What the models predict; see ``Predictor.describe_predictions``."""
        return self.members[0].describe_predictions()

    def __str__(self) -> str:
        models = "models" if len(self.numbers) > 1 else "model"
        numbers = ", ".join(str(number + 1) for number in self.numbers)
        return f"{models} {numbers} ({self.described['task']})"


def group_models(
    members: Sequence[nn.Module], label_cols: Sequence[str] | None = None
) -> list[Group]:
    """Models that predict the same together, in the order of the first model of each group.

    Features mean something else in each model, so each encoder is a group of its own.

    Args:
        members: each a ``Predictor``.
        label_cols: names of the predicted columns; by default the models'.

    Raises:
        ValueError: names that don't fit a model; see ``models.column_names``.
    """
    groups: list[Group] = []
    for number, model in enumerate(members):
        one = Group([model], column_names(model, label_cols), [number])
        reasons = [_why_apart(group, one) for group in groups]
        if "" in reasons:
            alike = groups[reasons.index("")]
            alike.members.append(model)
            alike.numbers.append(number)
        else:
            one.apart = reasons[0] if reasons else ""
            groups.append(one)
    return groups


def _why_apart(group: Group, other: Group) -> str:
    """Why models can't be mixed; empty if they can."""
    first, second = group.described, other.described
    same = {
        "tasks": first["task"] == second["task"],
        "trees": first["schema"] == second["schema"],
        "classes": first["class_names"] == second["class_names"],
        "labels": first["label_col"] == second["label_col"],
        "predicted columns": group.columns == other.columns,
    }
    for what, is_same in same.items():
        if not is_same:
            return _unlike(what, group.numbers[0], other.numbers[0])
    if first["task"] == "representations":
        return "features of several models can't be mixed, they mean something else in each"
    return ""


def check_files(groups: Sequence[Group], num_files: int) -> None:
    """ValueError, which tells the groups, unless there is a file for each group of models."""
    if num_files == len(groups):
        return
    needed = ", ".join(f"one for {group}" for group in groups)
    reason = groups[1].apart if num_files == 1 else f"{num_files} files are given"
    raise UserError(f"{reason}: give --save-loc (save_loc) a list of files, {needed}")


def _unlike(what: str, number: int, other: int) -> str:
    return (
        f"models that predict together need the same {what}: those of models {number + 1} and "
        f"{other + 1} differ"
    )


def same_view(models: Sequence[nn.Module], image_size: int | None = None) -> GalaxyView:
    """The view with which all models were validated; see ``models.view_of``.

    With an ``image_size`` JPEGs are decoded at the largest size that one of the models needs.

    Raises:
        ValueError: they were validated with other views: another size, zoom, or decoding.
    """
    views = [view_of(model, image_size) for model in models]
    if image_size is not None:
        views = decoded_alike(*views)
    first = dataclasses.asdict(views[0].config)
    for number, view in enumerate(views[1:], 1):
        other = dataclasses.asdict(view.config)
        differ = [name for name in first if first[name] != other[name]]
        if differ:
            each = [f"{name} {first[name]!s:.60} and {other[name]!s:.60}" for name in differ]
            told = f"{_unlike('view of the images', 0, number)} ({', '.join(each)})"
            cure = "--image-size SIZE (in Python transform) gives them one, or "
            cure = cure + APART if {*differ} <= SIZES else APART
            raise UserError(f"{told}; {cure}")
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
    for number, member in enumerate(members[1:], 1):
        same = {
            "channels": member.channels == members[0].channels,
            "fits_scaling": scalings[number] == scalings[0],
            "bands, with their scaling, mean and spread (train with one --image-spec)": (
                specs[number] == specs[0]
            ),
        }
        for what, is_same in same.items():
            if not is_same:
                raise UserError(f"{_unlike(what, 0, number)}; {APART}")
    return scalings[0], specs[0]
