"""Write a model as one file that runs without this package: of torch.export, or ONNX.

    python -m zoobot.export --checkpoint runs/rings --format onnx --save-loc rings.onnx
    python -m zoobot.export --checkpoint hf_hub:OWNER/NAME --format torch --save-loc rings.pt2

Images go in, predictions come out. The file tells how images are made, and what is predicted. It is
compared with the model before it appears.
"""

import argparse
import copy
import dataclasses
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import zoobot
from zoobot import options
from zoobot.models.features import reason_of
from zoobot.models.preparation import AS_SCALED, preparation
from zoobot.predictions.models import (
    as_predictor,
    column_names,
    hash_weights,
    load_predictor,
    view_of,
)
from zoobot.script import run_script
from zoobot.system.errors import UserError
from zoobot.system.files import write_whole

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}
NEEDED = ("onnx", "onnxscript", "onnxruntime")
ENTRY = "zoobot"  # of an ONNX file's metadata: the description as JSON
EXTRA_FILE = "zoobot.json"  # the same within a .pt2
NUM_COMPARED = 64
TOLERANCE = 1e-4  # of a column's largest prediction

Run = Callable[[torch.Tensor], torch.Tensor]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line: ``argv``, or that of the process."""
    parser = options.Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help=options.CHECKPOINT_HELP)
    add("--format", required=True, choices=[*SUFFIXES], help="torch: of torch.export; onnx: ONNX")
    add("--save-loc", required=True, help="OUT.pt2, or OUT.onnx")
    add(
        "--representations",
        action="store_true",
        help="the encoder alone, which gives features; --checkpoint may then be an encoder's name",
    )
    add("--image-size", type=options.positive_int, help="by default that of training")
    return parser.parse(argv)


def main(opt: argparse.Namespace) -> None:
    """Export the model of a checkpoint."""
    model = load_predictor(opt.checkpoint, opt.representations)
    path = export(model, opt.save_loc, opt.format, opt.image_size)
    print(f"{opt.format} {path}, compared with the model on {NUM_COMPARED} images")


class Exported(nn.Module):
    """A model from images to predictions (B, A), as it is exported.

    Args:
        model: a ``Predictor``.
        told: see ``describe``; of bands with a mean and a spread, the module standardises them.
    """

    def __init__(self, model: nn.Module, told: dict):
        super().__init__()
        self.model = model
        self.standardises = told["images"]["std"] is not None
        for name in ("mean", "std") if self.standardises else ():
            values = torch.tensor(told["images"][name], dtype=torch.float32)
            self.register_buffer(name, values.reshape(-1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, S, S) to predictions (B, A), float32."""
        if self.standardises:
            images = (images - self.mean) / self.std
        predictions = self.model.predictions(self.model(images).float())
        return predictions[:, None] if predictions.ndim == 1 else predictions


def export(
    model: nn.Module, save_loc: str | Path, format: str, image_size: int | None = None
) -> Path:
    """Write a model as one file, which is compared with the model on 64 images before it appears.

    The file takes ``images``, float32 (B, C, S, S) with any B, and gives ``predictions`` (B, A).
    It tells what ``describe`` returns, as JSON: an ONNX file in its metadata under ``zoobot``, a
    .pt2 in its extra file ``zoobot.json``.

    Args:
        model: a ``Predictor``, such as ``load_predictor`` gives. It is not changed.
        save_loc: with the suffix ``.pt2`` or ``.onnx``.
        format: ``torch`` or ``onnx``.
        image_size: side of the view in pixels; by default that of training.

    Raises:
        ValueError: for another suffix, a model that torch can't export, a package that is missing,
            or a file that predicts something else; no file is left then.
        OSError: if the file can't be written.
    """
    save_loc, model = _check_save_loc(Path(save_loc), format), as_predictor(model)
    told = describe(model, image_size)
    whole = Exported(copy.deepcopy(model).cpu().float(), told).eval().requires_grad_(False)
    images = comparison_images(told["images"])
    write, open_written = {"torch": (_write_torch, _open_torch), "onnx": (_write_onnx, _open_onnx)}[
        format
    ]

    def write_and_compare(aside: Path) -> None:
        write(_traced(whole, images), json.dumps(told), aside)
        _check_same(open_written(aside), whole, images, told["columns"])

    write_whole(save_loc, write_and_compare)
    return save_loc


def describe(model: nn.Module, image_size: int | None = None) -> dict:
    """What an exported file tells of a model, as plain types.

    Returns:
        ``images``: how they are made (see ``preparation``), ``columns``: what the A predictions
        are, and ``task``, ``label_col``, ``class_names`` and ``schema`` of the model.
    """
    view = view_of(model, image_size).config
    sized = {"image_size": view.output_size, "view": view.changes()}
    images = preparation(dataclasses.replace(model.images_seen, **sized), model.channels)
    if images["std"] is not None:
        images["numbers"] = f"{AS_SCALED} The file subtracts the mean and divides by the spread."
    return {
        "version": zoobot.__version__,
        "class": type(model).__name__,
        **model.describe_predictions(),
        "columns": column_names(model, None),
        "images": images,
        "weights": hash_weights(model),
    }


def comparison_images(told: dict) -> torch.Tensor:
    """64 images (64, C, S, S), noise from faint to bright, always the same."""
    drawn = torch.Generator().manual_seed(0)
    shape = (NUM_COMPARED, told["channels"], told["size_px"], told["size_px"])
    if told["bands"] is None:
        return (
            torch.rand(shape, generator=drawn)
            * torch.linspace(0, 1, NUM_COMPARED)[:, None, None, None]
        )
    images = torch.randn(shape, generator=drawn)
    if told["std"] is None:
        return images
    mean, std = (torch.tensor(told[name])[:, None, None] for name in ("mean", "std"))
    return images * std + mean


def _check_save_loc(save_loc: Path, format: str) -> Path:
    if format not in SUFFIXES:
        raise UserError(f"format {format!r}: use {' or '.join(SUFFIXES)}")
    if save_loc.suffix != SUFFIXES[format]:
        raise UserError(f"--save-loc {save_loc}: a file of {format} ends in {SUFFIXES[format]}")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if format == "onnx" and missing:
        raise UserError(f"ONNX needs {', '.join(missing)}: pip install 'zoobot-torch[onnx]'")
    return save_loc


@torch.no_grad()
def _traced(whole: Exported, images: torch.Tensor) -> torch.export.ExportedProgram:
    """The model's computations, for any number of images."""
    shapes = {"images": {0: torch.export.Dim("batch")}}
    try:
        return torch.export.export(whole, (images[:2],), dynamic_shapes=shapes)
    except UserError:
        raise
    except Exception as error:  # torch.export raises many kinds
        raise UserError(
            f"torch can't export this {type(whole.model).__name__}: {reason_of(error)}"
        ) from error


def _write_torch(program: torch.export.ExportedProgram, told: str, path: Path) -> None:
    with open(path, "wb") as file:
        torch.export.save(program, file, extra_files={EXTRA_FILE: told})


def _open_torch(path: Path) -> Run:
    with open(path, "rb") as file:
        return torch.export.load(file).module()


def _write_onnx(program: torch.export.ExportedProgram, told: str, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own code
            names = {"input_names": ["images"], "output_names": ["predictions"]}
            exported = torch.onnx.export(program, dynamo=True, verbose=False, **names)
        exported.model.metadata_props[ENTRY] = told
        contents = exported.model_proto.SerializeToString()
    except Exception as error:  # torch, onnxscript and protobuf raise many kinds
        raise UserError(f"torch can't write this model as ONNX: {reason_of(error)}") from error
    path.write_bytes(contents)


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@torch.no_grad()
def _check_same(run: Run, whole: Exported, images: torch.Tensor, columns: list[str]) -> None:
    """ValueError unless what was written predicts what the model does, of one image or many."""
    expected = whole(images)
    if not expected.isfinite().all():
        raise UserError("the model predicts numbers that are not finite: it is not exported")
    found = torch.cat([run(images[:1]), run(images[1:])])
    largest, difference = (x.abs().amax(0) for x in (expected, found - expected))
    is_same = difference <= TOLERANCE * largest
    if not is_same.all():
        worst = int((~is_same).int().argmax())
        raise UserError(
            f"the exported model predicts something else: {columns[worst]!r} differs by "
            f"{difference[worst]:.3g}, with predictions up to {largest[worst]:.3g}; no file is "
            "written"
        )


if __name__ == "__main__":
    sys.exit(run_script(main, parse))
