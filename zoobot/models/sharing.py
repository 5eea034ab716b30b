"""``Shareable``: models that are written as a folder to share, and put on the Hugging Face hub."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import zoobot
from zoobot.models.features import reason_of
from zoobot.models.hub import CONFIG_NAME, ENTRY, WEIGHTS_NAME, check_free
from zoobot.models.model_card import CARD_NAME, model_card
from zoobot.runs import checkpoint
from zoobot.runs.lines import METRICS, read_lines
from zoobot.system.errors import UserError
from zoobot.system.files import write_text


class Shareable:
    """A model that can be saved as a folder, which others load by its path or its hub name."""

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        training_data: str | None = None,
        metrics: Mapping[str, float] | str | Path | None = None,
        license: str | None = None,
    ) -> None:
        """Write ``model.safetensors``, ``config.json`` and a model card, ``README.md``.

        The weights' file is a checkpoint as a run's ``best.safetensors`` is, and tells all that is
        needed; ``config.json`` repeats it for people and for the hub. Where a checkpoint is taken,
        so is the folder. A model that was written there before is replaced, its card too.

        Args:
            name: ``OWNER/NAME`` that the model will have on the hub, for the card; by default
                ``OWNER`` and the folder's name.
            training_data: what it was trained on, in your words, Markdown.
            metrics: how good it is: numbers by name, such as a trainer's ``callback_metrics``; or a
                run's folder, of which the test galaxies' metrics are told.
            license: as the hub names it, such as ``cc-by-4.0``.

        Raises:
            ValueError: if the folder holds something else, the model can't be built again from a
                file, or the run has no metrics of test galaxies.
            OSError: if the folder can't be written to.
        """
        folder = Path(folder)
        check_free(folder, (CONFIG_NAME, CARD_NAME, WEIGHTS_NAME), _is_shared, "shared model")
        description, is_of_package = _describe(self)
        card = model_card(
            description,
            name=name or f"OWNER/{folder.resolve().name}",
            columns=self.prediction_columns(),
            channels=self.channels,
            is_of_package=is_of_package,
            training_data=training_data,
            metrics=_metrics(metrics),
            license=license,
        )
        config = {ENTRY: {"version": zoobot.__version__, **description}}
        # First: a folder with weights and without this is not ours, if we are killed meanwhile.
        write_text(folder / CONFIG_NAME, json.dumps(config, indent=2) + "\n")
        checkpoint.save_weights(folder / WEIGHTS_NAME, self.state_dict(), description)
        write_text(folder / CARD_NAME, card)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = False,
        revision: str | None = None,
        message: str = "Save a model of zoobot",
        training_data: str | None = None,
        metrics: Mapping[str, float] | str | Path | None = None,
        license: str | None = None,
    ) -> str:
        """Put the model on the Hugging Face hub, as ``save_pretrained`` writes it.

        You must be logged in (``hf auth login``, or the environment's ``HF_TOKEN``). A card that
        is there is replaced.

        Args:
            name: ``OWNER/NAME``; the repository is made if there is none.
            private: whether a repository that is made is seen by its owner only.
            revision: branch; by default the main one.
            message: of the commit.
            training_data, metrics, license: see ``save_pretrained``.

        Returns:
            The commit's address.

        Raises:
            ValueError: as ``save_pretrained``, or if the hub can't be reached or refuses.
        """
        from huggingface_hub import HfApi

        told = {"training_data": training_data, "metrics": metrics, "license": license}
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, name=name, **told)
            try:
                api = HfApi()
                api.create_repo(name, private=private, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=name, folder_path=folder, revision=revision, commit_message=message
                )
            except Exception as error:  # huggingface_hub raises many kinds
                raise UserError(
                    f"the model can't be put on the hub as {name!r}: {reason_of(error)}; log in "
                    "with 'hf auth login', or write a folder with save_pretrained and upload it"
                ) from error
        return str(commit)


def _is_shared(config: dict) -> bool:
    return ENTRY in config


def _describe(model: Shareable) -> tuple[dict, bool]:
    """What a file tells of a model, and whether its class is one of this package's.

    ValueError unless it is enough to build the model again.
    """
    # Here, because that module imports the models, and they this one.
    from zoobot.models.rebuild import MODELS, check_rebuilds

    description = {**model.describe(), **model.images_seen.to_dict()}
    if description["encoder"] is None:
        raise UserError(
            f"the encoder of this {type(model).__name__} can't be described in a file, so others "
            "could not load the model: only encoders that timm can build can be shared"
        )
    check_rebuilds(model, description)
    return description, type(model) in MODELS.values()


def _metrics(given: Mapping[str, float] | str | Path | None) -> dict[str, float]:
    if given is None or isinstance(given, Mapping):
        return {name: float(value) for name, value in (given or {}).items()}
    lines = [line for line in read_lines(Path(given) / METRICS) if line.get("split") == "test"]
    if not lines:
        raise UserError(
            f"{Path(given) / METRICS} tells no metrics of test galaxies: give metrics as a dict"
        )
    return {key: value for key, value in lines[-1].items() if key not in ("epoch", "split")}
