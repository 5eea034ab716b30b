"""``get_trainer`` with the arguments of Zoobot 2.x and Lightning; see ``zoobot.trainer``."""

import warnings
from pathlib import Path

from zoobot import engine
from zoobot.evaluate import leave_report
from zoobot.system import distributed
from zoobot.system.errors import UserError, did_you_mean
from zoobot.trainer import Trainer

PRECISIONS = {
    "32-true": "fp32",
    "32": "fp32",
    "bf16-mixed": "bf16",
    "16-mixed": "fp16",
    "16": "fp16",
    **{name: name for name in ("auto", *engine.PRECISIONS)},
}
ACCELERATORS = {"auto": "auto", "cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "mps": "mps"}
WITHOUT_EFFECT = set(
    "log_every_n_steps enable_model_summary num_sanity_val_steps strategy num_nodes".split()
)


def get_trainer(
    save_dir: str | Path,
    file_template: str = "{epoch}",
    save_top_k: int = 1,
    max_epochs: int = 100,
    patience: int = 10,
    devices: str | int = "auto",
    accelerator: str = "auto",
    logger: object = None,
    *,
    precision: str | int = "auto",
    tf32: str = "auto",
    deterministic: bool = False,
    compile: str = "auto",
    gradient_clip_val: float | None = None,
    accumulate_grad_batches: int = 1,
    unfreeze_after: int = 0,
    use_distributed_sampler: bool = True,
    enable_progress_bar: bool = True,
    seed: int | None = None,
    allow_changes: bool = False,
    report: bool = True,
    **trainer_kwargs,
) -> Trainer:
    """A trainer that stops when the validation loss no longer falls, and keeps the best weights.

    Args:
        save_dir: folder for checkpoints, metrics and TensorBoard's files. An earlier run's files in
            it are moved to ``earlier-1`` and so on; but a ``best_model_path`` that ``fit`` has
            returned, in ``checkpoints/best/``, stays and is used by no other run.
        file_template: names checkpoints: ``{epoch}`` gives ``checkpoints/epoch=20.ckpt``.
        save_top_k: how many of them to keep; -1: all.
        max_epochs, patience: at most so many epochs, or so many without a lower validation loss.
        devices: ``auto``, or the number of processes that torchrun started.
        accelerator: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        logger: without effect; metrics are in ``metrics.jsonl`` and ``tensorboard/``.
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

    Raises:
        ValueError: for an argument that is not known, or has no such value.
    """
    for key in trainer_kwargs:
        if key not in WITHOUT_EFFECT:
            known = ("precision", "gradient_clip_val", "accumulate_grad_batches", "max_epochs")
            raise UserError(f"get_trainer has no argument {key!r}{did_you_mean(key, known)}")
    if logger not in (None, True, False) or trainer_kwargs:
        ignored = sorted(trainer_kwargs) + ([] if logger in (None, True, False) else ["logger"])
        warnings.warn(f"get_trainer: without effect: {', '.join(ignored)}", stacklevel=2)
    wanted = len(devices) if isinstance(devices, (list, tuple)) else devices
    wanted = int(wanted) if str(wanted).lstrip("-").isdigit() else wanted
    if wanted not in ("auto", -1, distributed.world_size(), distributed.local_world_size()):
        raise UserError(
            f"devices={devices!r}, but there are {distributed.world_size()} processes: start the "
            f"script with torchrun --nproc-per-node {wanted}"
        )
    return Trainer(
        save_dir,
        file_template=file_template,
        save_top_k=save_top_k,
        max_epochs=max_epochs,
        patience=patience,
        **hardware(accelerator, precision),
        tf32=tf32,
        deterministic=deterministic,
        compile=compile,
        grad_clip=gradient_clip_val,
        accumulation=accumulate_grad_batches,
        unfreeze_after=unfreeze_after,
        own_share=None if use_distributed_sampler else True,
        show_progress=enable_progress_bar,
        seed=seed,
        allow_changes=allow_changes,
        after_fit=leave_report if report else None,
    )


def hardware(accelerator: str = "auto", precision: str | int = "auto") -> dict[str, str]:
    """``device`` and ``precision`` in this package's names, from those or Lightning's.

    Raises:
        ValueError: for another name.
    """
    if str(precision) not in PRECISIONS:
        raise UserError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    if accelerator not in ACCELERATORS:
        raise UserError(f"accelerator {accelerator!r} is none of {', '.join(ACCELERATORS)}")
    return {"device": ACCELERATORS[accelerator], "precision": PRECISIONS[str(precision)]}
