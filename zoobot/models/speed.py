"""How a model is run: compiled where that pays, and on a GPU with norms in low precision.

Compiled is the whole model, from images to outputs, once to train and once to evaluate and predict.
A compiled model takes batches of one size. Smaller ones are filled up with copies of their first
image, whose outputs are cut off again: losses, gradients, measures and records know nothing of
them.
"""

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from zoobot.data.loaders import GalaxyLoader
from zoobot.options import COMPILE
from zoobot.runs.numerics import try_convolutions
from zoobot.system import caches, distributed
from zoobot.system.errors import UserError

BACKEND = "inductor"
MODES = {"on": None, "max": "max-autotune-no-cudagraphs"}  # of torch.compile
COMPILING_S = 45.0  # to train and to evaluate, on 16 cores
# What compiling saves of a forward pass, measured for a ConvNeXt-Nano (15.6 million parameters) at
# 224 px on an H200: 85 to 41 microseconds an image. Other models are taken to save in proportion to
# their parameters, images to their area. On a slower GPU it is more.
SAVED_S = 44e-6 / 15.6e6 / 224**2
PASSES_TO_TRAIN = 2  # forward passes that save as much as one with its backward pass: 65 to 89 us


class FixedSize:
    """The compiled call of a model, for batches of one size while it trains, and one in evaluation.

    Args:
        model: images (B, C, H, W) to outputs of B galaxies, each made of its own image alone but
            for statistics of the batch, such as BatchNorm's. While it has those, batches are taken
            as they are: of two sizes if they are dealt by a ``TrainSampler``.
        mode: of ``torch.compile``.
        device: on another kind the model is run as it is.
        train_size, eval_size: the largest B; if a batch is larger, that becomes the size.
    """

    def __init__(
        self,
        model: nn.Module,
        mode: str | None,
        device: torch.device,
        train_size: int = 0,
        eval_size: int = 0,
    ):
        caches.keep_compiled_privately()
        warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")  # see --tf32
        self._model = model
        self._compiled = torch.compile(model._call_impl, backend=BACKEND, mode=mode, dynamic=False)
        self._device = device
        self._sizes = {True: train_size, False: eval_size}

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The model's outputs of images on the device."""
        if images.device.type != self._device.type:
            return self._model._call_impl(images)
        number, training = len(images), self._model.training
        size = self._sizes[training] = max(number, self._sizes[training])
        if number == size or uses_batch_statistics(self._model):
            return self._compiled(images)
        filled = torch.cat([images, images[:1].expand(size - number, -1, -1, -1)])
        return self._compiled(filled.contiguous(memory_format=torch.channels_last))[:number]


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether a galaxy's outputs depend on the others of its batch, as by BatchNorm in training."""
    return any(layer.training and "running_var" in layer._buffers for layer in model.modules())


def set_up(
    model: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    wanted: str,
    epochs: int,
    train: GalaxyLoader | None,
    val: GalaxyLoader | None,
) -> str:
    """Have a model train as fast as it can; it is compiled at its first batch, if that is wanted.

    Args:
        dtype: of autocast.
        wanted: one of ``options.COMPILE``; see ``choose``.
        epochs: at most so many.
        train, val: the loaders, if they are ours: whose batches have a known size.

    Returns:
        What was decided about compiling and why, in words after a semicolon; or nothing.

    Raises:
        ValueError: see ``choose``.
    """
    use_fast_norms(model, device, dtype)
    num_passes, sizes = None, ()
    if train is not None and val is not None:
        try_convolutions(device)
        sizes = (train.sampler.largest_batch, val.sampler.largest_batch)
        num_passes = epochs * (PASSES_TO_TRAIN * len(train.dataset) + len(val.dataset))
        num_passes /= distributed.world_size()
    if isinstance(model._compiled_call_impl, FixedSize):
        model._compiled_call_impl = None  # of an earlier run
    if any(layer._compiled_call_impl is not None for layer in model.modules()):
        caches.keep_compiled_privately()
        return "; compiled as it was given"
    chosen, told = choose(wanted, model, device, num_passes)
    if chosen != "off":
        # As nn.Module.compile() does. A copy of the model, or one that is saved, is without it.
        model._compiled_call_impl = FixedSize(model, MODES[chosen], device, *sizes)
    return told and f"; {told}"


@contextlib.contextmanager
def compiled_to_predict(
    module: nn.Module, chosen: str, device: torch.device, batch_size: int
) -> Iterator[None]:
    """Run a module, in evaluation, in batches of one size within a ``with`` block; then as before.

    Args:
        chosen: what ``choose`` has chosen; ``off``: as it is, without what a training compiled.
        batch_size: the largest number of images.
    """
    before = module._compiled_call_impl
    if chosen != "off":
        module._compiled_call_impl = FixedSize(module, MODES[chosen], device, 0, batch_size)
    elif isinstance(before, FixedSize):
        module._compiled_call_impl = None
    try:
        yield
    finally:
        module._compiled_call_impl = before


def choose(
    wanted: str, model: nn.Module, device: torch.device, num_passes: float | None
) -> tuple[str, str]:
    """Whether to compile: ``on``, ``max`` or ``off``; and why, in words.

    ``auto`` is ``on`` on a GPU if it saves more than it takes, else ``off``.

    Args:
        num_passes: forward passes of one image to come in this process; None: not known.

    Raises:
        ValueError: if ``wanted`` is no choice, or can't be had in a deterministic run.
    """
    if wanted not in COMPILE:
        raise UserError(f"compile {wanted!r} is none of {', '.join(COMPILE)}")
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    if wanted in MODES and is_deterministic:
        raise UserError(
            f"a deterministic run can't be compiled (compile {wanted!r}): torch chooses among "
            "kernels by how fast they are in that moment"
        )
    if wanted != "auto":
        return wanted, f"compiled ({wanted})" if wanted in MODES else ""
    if device.type != "cuda" or is_deterministic:
        return "off", ""
    if missing := _missing():
        return "off", f"not compiled: there is no {missing}"
    if num_passes is None:
        return "off", "not compiled: how many galaxies there are is not known (compile 'on' does)"
    saved_s = num_passes * saved_a_pass_s(model)
    told = f"to compile takes about {COMPILING_S:.0f} s and would save about {saved_s:.0f} s"
    return ("on", f"compiled: {told}") if saved_s > COMPILING_S else ("off", f"eager: {told}")


def saved_a_pass_s(model: nn.Module) -> float:
    """Seconds that compiling saves in a forward pass of one image; an estimate: see ``SAVED_S``."""
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return SAVED_S * num_parameters * (model.images_seen.image_size or 224) ** 2


def _missing() -> str:
    """What torch.compile needs on a GPU and this machine lacks."""
    from torch.utils._triton import has_triton  # here: it takes a while

    if not has_triton():
        return "Triton"
    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    return "" if any(map(shutil.which, compilers)) else "C compiler"


def use_fast_norms(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Have timm's norms in a model give what autocast asks for, as ``timm.layers.set_fast_norm``.

    On a GPU under autocast, torch's own give float32, which is twice the memory to write and read.
    Sums are float32 in both. Elsewhere the model is left as it is.
    """
    if device.type == "cuda" and dtype != torch.float32:
        for layer in model.modules():
            if "_fast_norm" in vars(layer):
                layer._fast_norm = True
