"""Settings of a view, their named presets, and what is wrong with a setting."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real

import numpy as np

from zoobot.system.errors import UserError

INTERPOLATIONS = ("bilinear", "nearest")
MAX_SIDE_PX = 4096
MAX_ERASE_ITERATIONS = 1000
FIXED_CROP_KEYS = ("lower_left_x", "lower_left_y", "upper_right_x", "upper_right_y")
CROP_RATIO = (3 / 4, 4 / 3)
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


@dataclass
class GalaxyViewConfig:
    """Settings of a view; edit by assignment. Field names are those of galaxy-datasets.

    Attributes:
        output_size: side of the view in pixels.
        greyscale: give 1 channel (ITU-R 601 luma).
        interpolation_method: 'bilinear' (antialiased when it shrinks) or 'nearest'.
        random_affine: False, or a dict as torchvision's RandomAffine takes: `degrees`, and if
            wanted `translate` (fractions of the square's side), `scale` (above 1 zooms in) and
            `shear`.
        fixed_crop: False, or a dict `lower_left_x, lower_left_y, upper_right_x, upper_right_y` in
            pixels, y down from the top row: the part of the image that counts as the image.
        center_crop: take the central `output_size` pixels without resizing.
        random_resized_crop: False, or a dict as torchvision's RandomResizedCrop takes: `scale`
            (fractions of the area) and, if wanted, `ratio`.
        flip_prob: probability of a left-right flip, and likewise of an up-down one.
        rotation_prob: probability of a rotation by -90 to 90 degrees, where there's no affine.
        erase_iterations: number of rectangles set to 0, each by `random_erasing`: `p`, `scale`
            (fractions of the area) and `ratio` (height / width).
        pil_to_tensor: no effect, the view is a tensor whatever the image was.

    The other fields exist in galaxy-datasets and must stay off here; the error says what to use.
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
    pil_to_tensor: bool = True
    flux_to_jpg_like_dynamic_range: bool = False
    random_perspective: bool = False
    color_jitter_prob: float = 0.0
    posterize: bool = False
    elastic_prob: float = 0.0
    normalize: bool = False

    def __setattr__(self, name, value):
        known = [f.name for f in fields(self)]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise UserError(f"no view setting {name!r}{hint}")
        super().__setattr__(name, value)

    def changes(self) -> dict:
        """The settings that differ from those of ``GalaxyViewConfig()``, as plain types."""
        plain, usual = asdict(self), asdict(GalaxyViewConfig())
        return {name: value for name, value in plain.items() if value != usual[name]}


def default_view_config():
    """The training view: random affine, flips, five small erased rectangles; 224 px."""
    affine = {"degrees": 90, "translate": (0.1, 0.1), "scale": (1.2, 1.4), "shear": (0, 20, 0, 20)}
    return GalaxyViewConfig(random_affine=affine, flip_prob=0.5, erase_iterations=5)


def minimal_view_config():
    """The validation and prediction view: centre zoom 1.2, nothing random; 224 px."""
    affine = {"degrees": 0, "translate": None, "scale": (1.2, 1.2), "shear": None}
    return GalaxyViewConfig(random_affine=affine)


def zoomed_view_configs(low, high):
    """The training view zoomed ``low`` to ``high``, and the fixed view, at the middle of that."""
    train, fixed = default_view_config(), minimal_view_config()
    train.random_affine["scale"] = (low, high)
    fixed.random_affine["scale"] = ((low + high) / 2,) * 2
    return train, fixed


def fast_view_config():
    """The central 224 pixels, not resized."""
    return GalaxyViewConfig(center_crop=True)


def check_view_config(config):
    """Raise ValueError, with the field, the value and the cure, if a setting can't be used."""
    for name, cure in UNSUPPORTED.items():
        if getattr(config, name):
            _refuse(name, getattr(config, name), f"not supported: {cure}")
    if not _is_whole(config.output_size) or not 1 <= config.output_size <= MAX_SIDE_PX:
        cure = f"give the side in pixels, a whole number >= 1 and <= {MAX_SIDE_PX}"
        _refuse("output_size", config.output_size, cure)
    if config.interpolation_method not in INTERPOLATIONS:
        _refuse("interpolation_method", config.interpolation_method, f"one of {INTERPOLATIONS}")
    iterations = config.erase_iterations
    if not _is_whole(iterations) or not 0 <= iterations <= MAX_ERASE_ITERATIONS:
        cure = f"give a whole number >= 0 and <= {MAX_ERASE_ITERATIONS}"
        _refuse("erase_iterations", iterations, cure)
    for name in ("greyscale", "center_crop", "pil_to_tensor"):
        if not isinstance(getattr(config, name), (bool, np.bool_)):
            _refuse(name, getattr(config, name), "give True or False")
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


def affine_ranges(affine):
    """Ranges that a `random_affine` setting, in any of torchvision's short forms, stands for.

    Returns:
        degrees (low, high), translate (2,) as fractions, scale (low, high), shear (2, 2) degrees:
        a row for x and a row for y, each (low, high).
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


def _check_exclusive(config):
    geometry = ("random_affine", "center_crop", "random_resized_crop")
    used = [name for name in geometry if getattr(config, name)]
    if len(used) > 1:
        _refuse(used[1], getattr(config, used[1]), f"can't be combined with {used[0]}: set one off")
    if config.random_affine and config.rotation_prob:
        cure = "random_affine rotates already: set its 'degrees', or set random_affine=False"
        _refuse("rotation_prob", config.rotation_prob, cure)


def _refuse(name, value, cure):
    raise UserError(f"view setting {name}={value!r}: {cure}")


def _is_whole(value):
    return isinstance(value, Integral) and not isinstance(value, bool)


def _numbers(values):
    """A tuple of floats, or None if it isn't a sequence of finite numbers."""
    try:
        values = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return values if all(map(math.isfinite, values)) else None


def _check_number(name, value, low, high):
    if not isinstance(value, Real) or not low <= value <= high:
        _refuse(name, value, f"give a number from {low} to {high}")


def _check_range(name, value, low, high):
    pair = _numbers(value)
    if pair is None or len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
        limits = "" if math.isinf(low) else f", each from {low:g} to {high:g}"
        _refuse(name, value, f"give (low, high), low first{limits}")
    return pair


def _check_areas(name, setting):
    _check_range(f"{name}['scale']", setting.get("scale", ERASING["scale"]), 0, 1)
    _check_range(f"{name}['ratio']", setting.get("ratio", CROP_RATIO), 1e-3, 1e3)


def _check_dict(name, value, keys, needs=()):
    if not isinstance(value, Mapping):
        _refuse(name, value, f"give False or a dict with {', '.join(keys)}")
    for key in value:
        if key not in keys:
            _refuse(name, dict(value), f"unknown key {key!r}; known: {', '.join(keys)}")
    for key in needs:
        if key not in value:
            _refuse(name, dict(value), f"key {key!r} is missing")
    return value
