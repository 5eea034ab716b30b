"""Settings of a view: the config class, ready-made configs, and the check of a config."""

import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import NoReturn

import numpy as np

from zoobot.system.errors import UserError

INTERPOLATIONS = ("bilinear", "nearest")
MAX_SIDE_PX = 4096
MAX_ERASE_ITERATIONS = 1000
FIXED_CROP_KEYS = ("lower_left_x", "lower_left_y", "upper_right_x", "upper_right_y")
CROP_RATIO = (3 / 4, 4 / 3)  # usual 'ratio' of random_resized_crop: width / height
ERASING = {"p": 1.0, "scale": (0.002, 0.007), "ratio": (0.5, 2.0)}
COMPOSE = "compose with torchvision instead: T.Compose([get_galaxy_transform(config), {}])"
UNSUPPORTED = {
    "flux_to_jpg_like_dynamic_range": "FITS images are scaled when read, see fits_scaling",
    "random_perspective": COMPOSE.format("T.RandomPerspective()"),
    "color_jitter_prob": COMPOSE.format("T.ColorJitter(0.1)"),
    "posterize": COMPOSE.format("T.RandomPosterize(bits=4)"),
    "elastic_prob": COMPOSE.format("T.ElasticTransform()"),
    "normalize": COMPOSE.format("T.ToDtype(torch.float32, scale=True), T.Normalize(mean, std)"),
}


class Group(dict):
    """Settings that belong together, read and changed by key or by attribute."""

    def __getattr__(self, name: str) -> object:
        if name not in self:
            raise AttributeError(f"no setting {name!r} here; there are {', '.join(self)}")
        return self[name]

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value


@dataclass
class GalaxyViewConfig:
    """Settings of a view. Change them by assignment. The names are those of galaxy-datasets,
    but for ``min_side_px``.

    A setting that is a dict has its keys as attributes too: ``config.random_affine.scale``.

    Attributes:
        output_size: side of the view in pixels; or a pair of equal sides, which becomes the one.
        greyscale: the view has 1 channel (ITU-R 601 luma).
        interpolation_method: 'bilinear' (antialiased when it shrinks) or 'nearest'.
        random_affine: False, or a dict as for torchvision's RandomAffine: ``degrees`` and, if
            wanted, ``translate`` (fractions of the square's side), ``scale`` (above 1 zooms in) and
            ``shear``.
        fixed_crop: False, or a dict with ``lower_left_x``, ``lower_left_y``, ``upper_right_x`` and
            ``upper_right_y`` in pixels. The image is first cut to this box. y counts down from the
            top row.
        center_crop: take the central ``output_size`` pixels without a resize.
        random_resized_crop: False, or a dict as for torchvision's RandomResizedCrop: ``scale``
            (fractions of the area) and, if wanted, ``ratio``.
        flip_prob: probability of a left-right flip, and also of an up-down flip.
        rotation_prob: probability of a rotation by -90 to 90 degrees. Not with ``random_affine``.
        erase_iterations: number of rectangles that are set to 0.
        random_erasing: how each rectangle is drawn: ``p`` (probability), ``scale`` (fractions of
            the area) and ``ratio`` (height / width).
        min_side_px: a JPEG is not decoded at less than this shorter side, even where the zoom needs
            less; None: always at its full size. ``decoded_alike`` sets it, so that all views of a
            run are of images that were decoded alike.
        pil_to_tensor: no effect: the view is always a tensor.

    galaxy-datasets has the other fields too. They are not supported here and must be False or 0.
    The error message says what to use instead.
    """

    output_size: int = 224
    greyscale: bool = False
    interpolation_method: str = "bilinear"
    random_affine: dict | bool | None = False
    fixed_crop: dict | bool | None = False
    center_crop: bool = False
    random_resized_crop: dict | bool | None = False
    flip_prob: float = 0.0
    rotation_prob: float = 0.0
    erase_iterations: int = 0
    random_erasing: dict = field(default_factory=lambda: dict(ERASING))
    min_side_px: int | None = 0
    pil_to_tensor: bool = True
    flux_to_jpg_like_dynamic_range: bool = False
    random_perspective: bool = False
    color_jitter_prob: float = 0.0
    posterize: bool = False
    elastic_prob: float = 0.0
    normalize: bool = False

    def __setattr__(self, name: str, value: object) -> None:
        known = [f.name for f in fields(self)]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise UserError(f"no view setting {name!r}{hint}")
        if name == "output_size":
            value = _one_side(value)
        super().__setattr__(name, Group(value) if isinstance(value, Mapping) else value)

    def changes(self) -> dict:
        """The settings that differ from those of ``GalaxyViewConfig()``, by name."""
        plain, usual = asdict(self), asdict(GalaxyViewConfig())
        changed = {name: value for name, value in plain.items() if value != usual[name]}
        return {k: dict(v) if isinstance(v, Group) else v for k, v in changed.items()}


def default_view_config() -> GalaxyViewConfig:
    """The training view: random affine, flips and five small erased rectangles; 224 px."""
    affine = {"degrees": 90, "translate": (0.1, 0.1), "scale": (1.2, 1.4), "shear": (0, 20, 0, 20)}
    return GalaxyViewConfig(random_affine=affine, flip_prob=0.5, erase_iterations=5)


def minimal_view_config() -> GalaxyViewConfig:
    """The validation and prediction view: a zoom of 1.2 on the centre, not random; 224 px."""
    affine = {"degrees": 0, "translate": None, "scale": (1.2, 1.2), "shear": None}
    return GalaxyViewConfig(random_affine=affine)


def zoomed_view_configs(low: float, high: float) -> tuple[GalaxyViewConfig, GalaxyViewConfig]:
    """The training view with zooms from ``low`` to ``high``, and the fixed view with their mean."""
    train, fixed = default_view_config(), minimal_view_config()
    train.random_affine["scale"] = (low, high)
    fixed.random_affine["scale"] = ((low + high) / 2,) * 2
    return train, fixed


def fast_view_config() -> GalaxyViewConfig:
    """The central 224 pixels, not resized."""
    return GalaxyViewConfig(center_crop=True)


def check_view_config(config: GalaxyViewConfig) -> None:
    """Raise ValueError if a setting can't be used.

    The message has the name of the setting, its value, and what to do.
    """
    values = vars(config)
    for name, cure in UNSUPPORTED.items():
        if values[name]:
            _refuse(name, values[name], f"not supported: {cure}")
    if not _is_whole(config.output_size) or not 1 <= config.output_size <= MAX_SIDE_PX:
        cure = (
            f"views are square: give the side in pixels, a whole number >= 1 and <= {MAX_SIDE_PX}"
        )
        _refuse("output_size", config.output_size, cure)
    if config.interpolation_method not in INTERPOLATIONS:
        _refuse("interpolation_method", config.interpolation_method, f"one of {INTERPOLATIONS}")
    iterations = config.erase_iterations
    if not _is_whole(iterations) or not 0 <= iterations <= MAX_ERASE_ITERATIONS:
        cure = f"give a whole number >= 0 and <= {MAX_ERASE_ITERATIONS}"
        _refuse("erase_iterations", iterations, cure)
    least = config.min_side_px
    if least is not None and (not _is_whole(least) or least < 0):
        _refuse("min_side_px", least, "give a whole number >= 0, or None")
    for name in ("greyscale", "center_crop", "pil_to_tensor"):
        if not isinstance(values[name], (bool, np.bool_)):
            _refuse(name, values[name], "give True or False")
    _check_number("flip_prob", config.flip_prob, 0, 1)
    _check_number("rotation_prob", config.rotation_prob, 0, 1)
    _check_exclusive(config)
    erasing = _check_dict("random_erasing", config.random_erasing, ERASING)
    _check_number("random_erasing['p']", erasing.get("p", 1.0), 0, 1)
    _check_areas("random_erasing", erasing)
    if config.random_affine:
        affine_ranges(config.random_affine)
    if config.random_resized_crop:
        crop = config.random_resized_crop
        crop = _check_dict("random_resized_crop", crop, ("scale", "ratio"), needs=("scale",))
        _check_areas("random_resized_crop", crop)
    if config.fixed_crop:
        crop = _check_dict("fixed_crop", config.fixed_crop, FIXED_CROP_KEYS, needs=FIXED_CROP_KEYS)
        left, top, right, bottom = (crop[key] for key in FIXED_CROP_KEYS)
        if not all(map(_is_whole, (left, top, right, bottom))):
            _refuse("fixed_crop", crop, "give whole pixels")
        if not (0 <= left < right and 0 <= top < bottom):
            _refuse("fixed_crop", crop, "give 0 <= lower_left < upper_right, in x and in y")


def affine_ranges(
    affine: Mapping,
) -> tuple[tuple[float, float], np.ndarray, tuple[float, float], np.ndarray]:
    """Check a ``random_affine`` setting, and write torchvision's short forms as ranges.

    Returns:
        degrees (low, high); translate (2,), the largest shift in x and y as fractions; scale (low,
        high); shear (2, 2) in degrees, a row (low, high) for x and one for y.
    """
    keys = ("degrees", "translate", "scale", "shear")
    affine = _check_dict("random_affine", affine, keys, needs=("degrees",))
    degrees, translate, scale, shear = (affine.get(key) for key in keys)
    if isinstance(degrees, Real):
        degrees = (-abs(degrees), abs(degrees))
    degrees = _check_range("random_affine['degrees']", degrees, -math.inf, math.inf)
    translate = (0.0, 0.0) if translate is None else _numbers(translate)
    if translate is None or len(translate) != 2 or not all(0 <= t <= 1 for t in translate):
        _refuse("random_affine['translate']", affine["translate"], "give (x, y), each 0 to 1")
    scale = (1.0, 1.0) if scale is None else scale
    scale = _check_range("random_affine['scale']", scale, 1e-3, math.inf)
    if isinstance(shear, Real):
        shear = (-abs(shear), abs(shear))
    shear = (0.0, 0.0) if shear is None else _numbers(shear)
    if shear is None or len(shear) not in (2, 4):
        _refuse("random_affine['shear']", affine["shear"], "give (x_low, x_high, y_low, y_high)")
    shear = np.array([*shear, 0.0, 0.0][:4]).reshape(2, 2)
    for row in shear:
        _check_range("random_affine['shear']", row.tolist(), -89, 89)
    return degrees, np.array(translate), scale, shear


def _check_exclusive(config: GalaxyViewConfig) -> None:
    """Raise ValueError for two settings that can't be used together."""
    values = vars(config)
    used = [x for x in ("random_affine", "center_crop", "random_resized_crop") if values[x]]
    if len(used) > 1:
        _refuse(used[1], values[used[1]], f"can't be combined with {used[0]}: set one off")
    if config.random_affine and config.rotation_prob:
        cure = "random_affine rotates already: set its 'degrees', or set random_affine=False"
        _refuse("rotation_prob", config.rotation_prob, cure)


def _refuse(name: str, value: object, cure: str) -> NoReturn:
    """Raise the error for a setting; ``cure`` says what to do."""
    raise UserError(f"view setting {name}={value!r}: {cure}")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _one_side(size: object) -> object:
    """The side that a pair of equal sides stands for; anything else as it is, to be checked."""
    if isinstance(size, (list, tuple)) and len(size) == 2 and size[0] == size[1]:
        return size[0]
    return size


def _numbers(values: object) -> tuple[float, ...] | None:
    """A tuple of floats; None if ``values`` is not a sequence of finite numbers."""
    try:
        values = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return values if all(map(math.isfinite, values)) else None


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, Real) or not low <= value <= high:
        _refuse(name, value, f"give a number from {low} to {high}")


def _check_range(name: str, value: object, low: float, high: float) -> tuple[float, float]:
    """``value`` as (low, high); raise ValueError unless it is in order and within the limits."""
    pair = _numbers(value)
    if pair is None or len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
        limits = "" if math.isinf(low) else f", each from {low:g} to {high:g}"
        _refuse(name, value, f"give (low, high), low first{limits}")
    return pair


def _check_areas(name: str, setting: Mapping) -> None:
    """Check the ``scale`` and ``ratio`` of rectangles."""
    _check_range(f"{name}['scale']", setting.get("scale", ERASING["scale"]), 0, 1)
    _check_range(f"{name}['ratio']", setting.get("ratio", CROP_RATIO), 1e-3, 1e3)


def _check_dict(
    name: str, value: object, keys: Collection[str], needs: Collection[str] = ()
) -> Mapping:
    """``value`` itself; raise ValueError unless it is a dict of ``keys`` that has all ``needs``."""
    if not isinstance(value, Mapping):
        _refuse(name, value, f"give False or a dict with {', '.join(keys)}")
    for key in value:
        if key not in keys:
            _refuse(name, dict(value), f"unknown key {key!r}; known: {', '.join(keys)}")
    for key in needs:
        if key not in value:
            _refuse(name, dict(value), f"key {key!r} is missing")
    return value
