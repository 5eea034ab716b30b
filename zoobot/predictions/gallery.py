"""Pictures of the first validation galaxies with what is predicted of them, epoch by epoch."""

import numpy as np
import torch
from PIL import Image, ImageDraw

from zoobot.contracts import TrainableModel
from zoobot.data.bands.rgb import galaxy_rgb
from zoobot.data.bands.spec import ImageSpec
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.runs.folder import Run
from zoobot.schemas import Schema
from zoobot.system import distributed

MOST_GALAXIES = 8
SIDE_PX, LINE_PX, COLUMNS = 160, 14, 4
MOST_LINES, MOST_LETTERS = 3, 26


class Gallery:
    """Adds a picture to TensorBoard's, each epoch: called with validation batches and outputs.

    Args:
        model: whose outputs they are.
        run: to whose log the picture is added, by the main process.
    """

    def __init__(self, model: TrainableModel, run: Run):
        self._model = model
        self._run = run
        self._drawn = 0

    def __call__(self, batch: dict, outputs: torch.Tensor) -> None:
        """Draw the first galaxies of an epoch; other batches are passed over."""
        epoch = self._run.last_epoch + 1
        if not distributed.is_main() or epoch == self._drawn:
            return
        self._drawn = epoch
        images, labels = self._model.batch_to_supervised_tuple(batch)
        first = [x[:MOST_GALAXIES].detach().cpu() for x in (images, outputs, labels)]
        captions = captions_of(self._model, *first[1:])
        bands = self._model.images_seen.bands
        spec = None if bands is None else ImageSpec.from_dict(bands)
        tiles = [_tile(_picture(x, spec), text) for x, text in zip(first[0], captions, strict=True)]
        self._run.log.add_picture("validation galaxies", _joined(tiles), epoch)


def captions_of(
    model: TrainableModel, outputs: torch.Tensor, labels: torch.Tensor
) -> list[list[str]]:
    """Lines about each galaxy: what is predicted, and what the labels say.

    Args:
        outputs, labels: of B galaxies.
    """
    if isinstance(model, FinetuneableZoobotClassifier):
        sure, chosen = model.predictions(outputs).max(1)
        names = model.class_names
        return [
            [f"{names[i]} {p:.2f}", f"is {names[int(label)]}"]
            for p, i, label in zip(sure.tolist(), chosen.tolist(), labels.flatten(), strict=True)
        ]
    schema = vars(model).get("schema")
    if isinstance(schema, Schema):
        return [_caption_of_votes(*pair, schema) for pair in zip(outputs, labels, strict=True)]
    pairs = zip(outputs, labels, strict=True)
    return [[_numbers(predicted), f"is {_numbers(label)}"] for predicted, label in pairs]


def _numbers(values: torch.Tensor) -> str:
    return " ".join(f"{value:.4g}" for value in values.flatten()[:MOST_LINES].tolist())


def _caption_of_votes(a: torch.Tensor, votes: torch.Tensor, schema: Schema) -> list[str]:
    """Of the questions with most votes: the leading predicted answer, and the votes for it."""
    by_question = [slice(q.start_index, q.end_index + 1) for q in schema.questions]
    totals = [int(votes[columns].sum()) for columns in by_question]
    lines = []
    for number in sorted(range(len(totals)), key=lambda n: -totals[n])[:MOST_LINES]:
        if totals[number]:
            share = a[by_question[number]] / a[by_question[number]].sum()
            leading = int(share.argmax())
            answer = schema.questions[number].answers[leading].pretty_text
            given = int(votes[by_question[number]][leading])
            lines.append(f"{answer} {share[leading]:.2f} ({given}/{totals[number]})")
    return lines


def _picture(image: torch.Tensor, spec: ImageSpec | None) -> Image.Image:
    """A view (C, S, S), of 8-bit images or of bands."""
    if spec is not None:
        return galaxy_rgb(image.float(), spec)
    pixels = image if image.dtype == torch.uint8 else (255 * image.float().clamp(0, 1)).byte()
    pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _tile(picture: Image.Image, lines: list[str]) -> np.ndarray:
    """A picture with lines of text below it, as pixels (H, W, 3)."""
    tile = Image.new("RGB", (SIDE_PX, SIDE_PX + MOST_LINES * LINE_PX), "white")
    tile.paste(picture.resize((SIDE_PX, SIDE_PX)))
    draw = ImageDraw.Draw(tile)
    for number, line in enumerate(lines):
        text = line.encode("latin-1", "replace").decode("latin-1")  # all that the font has
        place = (2, SIDE_PX + number * LINE_PX + 1)
        draw.text(place, text[:MOST_LETTERS], fill="black")
    return np.asarray(tile)


def _joined(tiles: list[np.ndarray]) -> np.ndarray:
    """Tiles in rows of ``COLUMNS``, as one picture (H, W, 3)."""
    empty = np.full_like(tiles[0], 255)
    tiles = tiles + [empty] * (-len(tiles) % COLUMNS)
    rows = [np.concatenate(tiles[i : i + COLUMNS], 1) for i in range(0, len(tiles), COLUMNS)]
    return np.concatenate(rows)
