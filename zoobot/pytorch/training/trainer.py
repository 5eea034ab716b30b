"""``get_trainer`` with the arguments of Zoobot 2.x and Lightning; see ``zoobot.trainer``."""

from pathlib import Path

import torch
from torch import nn

from zoobot import engine
from zoobot.evaluate import leave_report
from zoobot.pytorch.predictions.any_module import takes_images
from zoobot.pytorch.training.lightning_options import check_options, refuse_callback
from zoobot.system import distributed
from zoobot.system.errors import UserError, check_count
from zoobot.trainer import Trainer

PRECISIONS = {
    "32-true": "fp32",
    "32": "fp32",
    "bf16-mixed": "bf16",
    "16-mixed": "fp16",
    "16": "fp16",
    "None": "auto",
    **{name: name for name in ("auto", *engine.PRECISIONS)},
}
ACCELERATORS = {"auto": "auto", "cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "mps": "mps"}


class Metric(float):
    """A metric's value, which has ``item()`` as a tensor has."""

    def item(self) -> float:
        return float(self)


class NoCallbacks(tuple):
    """A trainer's callbacks: none, and none can be added."""

    def append(self, callback: object) -> None:
        """Raises ValueError, which says what does the callback's work."""
        refuse_callback(callback)


class LightningTrainer(Trainer):
    """A ``Trainer`` on which scripts for Lightning find what they look for.

    Attributes:
        callbacks: none.
    """

    callbacks = NoCallbacks()

    @property
    def checkpoint_callback(self) -> "LightningTrainer":
        """Where scripts look for ``best_model_path``."""
        return self

    @property
    def callback_metrics(self) -> dict[str, Metric]:
        """Name -> value: of the best epoch after ``fit``, then of ``validate`` or ``test``."""
        return {name: Metric(value) for name, value in self._metrics.items()}

    @callback_metrics.setter
    def callback_metrics(self, metrics: dict[str, float]) -> None:
        self._metrics = metrics

    def predict(self, model: nn.Module | None = None, *args, **kwargs) -> list[torch.Tensor]:
        """See ``Trainer.predict``; other modules may take batches, see ``any_module``."""
        return super().predict(takes_images(model), *args, **kwargs)


def get_trainer(
    save_dir: str | Path,
    file_template: str = "{epoch}",
    save_top_k: int = 1,
    max_epochs: int = 100,
    patience: int = 10,
    devices: str | int | None = "auto",
    accelerator: str | None = "auto",
    logger: object = None,
    *,
    precision: str | int | None = "auto",
    tf32: str = "auto",
    deterministic: bool | str | None = False,
    compile: str = "auto",
    gradient_clip_val: float | None = None,
    accumulate_grad_batches: int = 1,
    unfreeze_after: int = 0,
    use_distributed_sampler: bool = True,
    enable_progress_bar: bool | None = True,
    callbacks: object = None,
    seed: int | None = None,
    allow_changes: bool = False,
    report: bool = True,
    **trainer_kwargs,
) -> LightningTrainer:
    """A trainer that stops when the validation loss no longer falls, and keeps the best weights.

    Args:
        save_dir: folder for checkpoints, metrics and TensorBoard's files. An earlier run's files in
            it are moved to ``earlier-1`` and so on; but a ``best_model_path`` that ``fit`` has
            returned, in ``checkpoints/best/``, stays and is used by no other run.
        file_template: names checkpoints: ``{epoch}`` gives ``checkpoints/epoch=20.ckpt``; metrics
            may be in it too, see ``zoobot.runs.epoch_names.epoch_name``.
        save_top_k: how many of them to keep; -1: all.
        max_epochs, patience: at most so many epochs, or so many without a lower validation loss.
        devices: ``auto``, or the number of processes that torchrun started.
        accelerator: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        logger: without effect; metrics are in ``metrics.jsonl`` and ``tensorboard/``.
        callbacks: Lightning's; those that would change the result are refused.
        precision: ``auto`` (bf16 where the hardware has it), ``bf16``, ``fp16``, ``fp32``, or
            Lightning's names of them.
        tf32: float32 on NVIDIA's GPUs with factors rounded to 10 bits of 23: ``on``, ``off``, or
            ``auto``: in convolutions only. For the whole process.
        deterministic: the same bits each time on a GPU too; slower. For the whole process.
        compile: ``torch.compile`` the model in ``fit``: ``auto`` (on a GPU, if that saves more than
            it takes), ``on``, ``max`` (try more kernels) or ``off``.
        gradient_clip_val: largest gradient norm; None: none.
        accumulate_grad_batches: batches of the data module that make a step.
        unfreeze_after: freeze the encoder for so many epochs; patience counts from there.
        use_distributed_sampler: with several processes, loaders of your own give all of them the
            same batches, of which each keeps its share; or have a ``DistributedSampler``. False:
            each process's loader has galaxies of its own.
        seed: of dropout, with the step; by default the model's.
        allow_changes: ``fit(ckpt_path=...)`` goes on although arguments or galaxies have changed.
        report: ``fit`` leaves ``curves.png``, and if its data module has test galaxies their
            predictions and ``report/``, as the scripts do.
        trainer_kwargs: other arguments of Lightning's ``Trainer``; their defaults are accepted.

    Raises:
        ValueError: for an argument that is not known, has no such value, or would change the
            result in Lightning, but does not here (``lightning_options.check_options``).
    """
    check_options(trainer_kwargs, logger, callbacks)
    check_count("max_epochs", max_epochs)
    wanted = len(devices) if isinstance(devices, (list, tuple)) else devices
    wanted = int(wanted) if str(wanted).lstrip("-").isdigit() else wanted
    if wanted not in ("auto", None, -1, distributed.world_size(), distributed.local_world_size()):
        raise UserError(
            f"devices={devices!r}, but there are {distributed.world_size()} processes: start the "
            f"script with torchrun --nproc-per-node {wanted}"
        )
    return LightningTrainer(
        save_dir,
        file_template=file_template,
        save_top_k=save_top_k,
        max_epochs=max_epochs,
        patience=patience,
        **hardware(accelerator, precision),
        tf32=tf32,
        deterministic=bool(deterministic),
        compile=compile,
        grad_clip=gradient_clip_val,
        accumulation=accumulate_grad_batches,
        unfreeze_after=unfreeze_after,
        own_share=None if use_distributed_sampler else True,
        show_progress=enable_progress_bar is not False,
        seed=seed,
        allow_changes=allow_changes,
        after_fit=leave_report if report else None,
    )


def hardware(
    accelerator: str | None = "auto", precision: str | int | None = "auto"
) -> dict[str, str]:
    """``device`` and ``precision`` in this package's names, from those or Lightning's.

    Raises:
        ValueError: for another name.
    """
    if str(precision) not in PRECISIONS:
        raise UserError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    accelerator = "auto" if accelerator is None else accelerator
    if accelerator not in ACCELERATORS:
        raise UserError(f"accelerator {accelerator!r} is none of {', '.join(ACCELERATORS)}")
    return {"device": ACCELERATORS[accelerator], "precision": PRECISIONS[str(precision)]}
