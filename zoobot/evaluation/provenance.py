"""Where predictions come from, and which galaxies their model has seen in training."""

import dataclasses
import datetime
import json
from pathlib import Path

import numpy as np
import pandas as pd

from zoobot.data.catalog import SPLITS
from zoobot.runs.data_digest import DIGEST_FILE, splits_of
from zoobot.runs.folder import read_metrics


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Of the predictions that a report is about.

    Attributes:
        catalog: its name.
        checkpoint: of the model; None if the predictions don't tell.
        run: the folder of the run that made it; None if it is not found.
    """

    catalog: str
    checkpoint: str | None = None
    run: Path | None = None

    @classmethod
    def of(
        cls, catalog: str, checkpoint: str | Path | None, beside: Path | None = None
    ) -> "Provenance":
        """Find the run of a checkpoint.

        Args:
            catalog: its path; '' for a table in memory, which then is that of the run.
            checkpoint: its path, from here or from the folder of the predictions.
            beside: that folder.
        """
        run = None
        if checkpoint is not None:
            for folder in (Path(), *([beside] if beside else [])):
                run = run or _run_of(folder / checkpoint)
        catalog = catalog or (_config(run).get("catalog") if run else "") or "a table in memory"
        return cls(str(catalog), None if checkpoint is None else str(checkpoint), run)

    @property
    def epoch(self) -> int | None:
        """The epoch of the weights; None if it is not known."""
        if self.checkpoint is None:
            return None
        name = Path(self.checkpoint).name
        if name.startswith("epoch="):
            number = name.removeprefix("epoch=").partition("-")[0].partition(".")[0]
            return int(number) if number.isdecimal() else None
        if self.run is None or name != "best.safetensors":
            return None
        losses = {}
        for line in read_metrics(self.run):
            if line["split"] == "validation":
                values = [
                    v for k, v in line.items() if k.startswith(("validation/", "finetuning/"))
                ]
                losses[line["epoch"]] = values[0] if values else np.inf
        return min(losses, key=losses.get) if losses else None

    def lines(self) -> list[tuple[str, str]]:
        """Names and values for the top of the page."""
        epoch = self.epoch
        return [
            ("catalog", self.catalog),
            ("checkpoint", self.checkpoint or "not told by the predictions"),
            *([("epoch", str(epoch))] if epoch is not None else []),
            ("date", datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")),
        ]

    def seen_in_training(self, table: pd.DataFrame, ids: np.ndarray) -> tuple[str, bool]:
        """A sentence on how many galaxies the model was trained on, and whether it is a warning.

        Args:
            table: the catalog's rows of the galaxies.
            ids: (N,) their ids in the predictions.
        """
        splits, how = None, ""
        if self.run is not None:
            splits = splits_of(table["id_str"], self.run / DIGEST_FILE)
            other = splits_of(pd.Series(ids), self.run / DIGEST_FILE)
            if splits is not None and other is not None:
                splits, how = np.where(splits == "", other, splits), "as the run's folder tells"
        if splits is None and "split" in table:
            splits = table["split"].astype(str).to_numpy()
            how = "as the catalog's column 'split' tells"
        if splits is None:
            return (
                "It is not known which of these galaxies the model was trained on: such galaxies "
                "are predicted better than others. Name the run's weights with --checkpoint.",
                False,
            )
        counts = {split: int((splits == split).sum()) for split in SPLITS}
        told = [
            f"{counts[split]} {what}"
            for split, what in (("train", "were trained on"), ("val", "chose the epoch"))
            if counts[split]
        ]
        if told:
            cure = "Other galaxies are predicted worse. Judge the model by --split test."
            return f"Of these {len(splits)} galaxies {' and '.join(told)} ({how}). {cure}", True
        return f"None of these galaxies was trained on or chose the epoch ({how}).", False


def _run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint, its weights, or the folder itself belongs to."""
    for folder in (checkpoint, *list(checkpoint.absolute().parents)[:3]):
        if (folder / DIGEST_FILE).is_file():
            return folder
    return None


def _config(run: Path) -> dict:
    """The options of a run; empty if they can't be read."""
    try:
        config = json.loads((run / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
