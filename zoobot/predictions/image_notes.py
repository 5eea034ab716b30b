"""Count the images that can't be read, that show nothing, or that have pixels without data."""

import dataclasses
import sys
from collections import Counter

import torch

from zoobot.data.blank_images import NAMED, blank_kind, blank_warning, no_data_notes
from zoobot.system import distributed

STEP_PX = 16  # between the pixels that are looked at first


@dataclasses.dataclass
class ImageNotes:
    """What a user should know of the images.

    Attributes:
        blank: how many are black, white, ..., as the model is shown them.
        blank_ids: of the first of them.
        no_data: values that were taken for no data, and in how many images.
        num_images: that were looked at.
        num_bad: that can't be read.
    """

    blank: Counter[str] = dataclasses.field(default_factory=Counter)
    blank_ids: list[str] = dataclasses.field(default_factory=list)
    no_data: Counter[float] = dataclasses.field(default_factory=Counter)
    num_images: int = 0
    num_bad: int = 0

    def look_at(self, batch: dict) -> None:
        """Note what there is in a batch; see ``CatalogDataset.batch``."""
        self.num_bad += len(batch["errors"])
        if "image" not in batch:
            return
        self.no_data.update(batch["no_data"])
        images = batch["image"]  # (B, C, H, W)
        self.num_images += len(images)
        some = images[:, :, ::STEP_PX, ::STEP_PX]
        suspects = (some.amin((2, 3)) == some.amax((2, 3))).all(1)
        read = [i for place, i in enumerate(batch["id_str"]) if place not in batch["errors"]]
        white = 1 if images.is_floating_point() else 255
        for place in torch.nonzero(suspects).flatten().tolist():
            channels = images[place].flatten(1)
            kind = blank_kind(channels.amin(1).tolist(), channels.amax(1).tolist(), white)
            if kind is not None:
                self.blank[kind] += 1
                self.blank_ids.append(read[place])
        del self.blank_ids[NAMED:]

    def tell(self) -> None:
        """Tell the notes of all processes, in the main one; every process must call it."""
        own = [self.num_images, [*self.blank.items()], self.blank_ids, [*self.no_data.items()]]
        own.append(self.num_bad)
        shares = [_notes_of(*share) for share in distributed.gather(own)]
        if not distributed.is_main():
            return
        num_images = sum(share.num_images for share in shares)
        if num_bad := sum(share.num_bad for share in shares):
            told = f"{num_bad} of {num_images + num_bad} images can't be read"
            print(f"warning: {told}: their predictions are NaN", file=sys.stderr)
        blank = sum((share.blank for share in shares), Counter())
        if blank:
            ids = [id_str for share in shares for id_str in share.blank_ids]
            print(blank_warning(blank, ids, num_images), file=sys.stderr)
        for note in no_data_notes(sum((x.no_data for x in shares), Counter()), num_images):
            print(note)


def _notes_of(
    num_images: int, blank: list, blank_ids: list[str], no_data: list, num_bad: int
) -> ImageNotes:
    """The notes of a process, as it has sent them."""
    return ImageNotes(Counter(dict(blank)), blank_ids, Counter(dict(no_data)), num_images, num_bad)
