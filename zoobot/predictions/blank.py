"""Count the images that are predicted but show nothing."""

import dataclasses
import sys
from collections import Counter

import torch

from zoobot.data.image_check import NAMED, blank_kind, blank_warning
from zoobot.system import distributed

STEP_PX = 16  # between the pixels that are looked at first


@dataclasses.dataclass
class Blank:
    """Images that can be read but are of one brightness, as the model is shown them.

    Attributes:
        kinds: how many are black, white, ...
        ids: of the first of them.
        num_images: that were looked at.
    """

    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    ids: list[str] = dataclasses.field(default_factory=list)
    num_images: int = 0

    def look_at(self, batch: dict) -> None:
        """Note the blank ones of a batch; see ``CatalogDataset.batch``."""
        if "image" not in batch:
            return
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
                self.kinds[kind] += 1
                self.ids.append(read[place])
        del self.ids[NAMED:]

    def warn(self) -> None:
        """Warn of the images of all processes, in the main one; every process must call it."""
        shares = distributed.gather(self)
        kinds = sum((share.kinds for share in shares), Counter())
        if kinds and distributed.is_main():
            ids = [id_str for share in shares for id_str in share.ids]
            num_images = sum(share.num_images for share in shares)
            print(blank_warning(kinds, ids, num_images), file=sys.stderr)
