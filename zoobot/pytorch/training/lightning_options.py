"""Lightning's options, loggers and callbacks: which are refused, and which have no effect."""

import warnings
from collections.abc import Iterable

from zoobot.system.errors import UserError, did_you_mean

# Option -> the values, as Python writes them, that ask for nothing and are accepted in silence. Of
# these options other values would change the result: the second text says what to write instead.
FEWER = "give the data module fewer galaxies, such as catalog.sample(1000, random_state=1)"
REFUSED = {
    "auto_lr_find": ("None False", "give the model learning_rate="),
    "auto_scale_batch_size": ("None False", "give the data module batch_size="),
    "barebones": ("None False", "it is fast as it is"),
    "check_val_every_n_epoch": ("None 1", "every epoch is validated: multiply patience="),
    "enable_checkpointing": ("None True", "the best weights come from one: save_top_k= keeps more"),
    "fast_dev_run": ("None False 0", f"give max_epochs=1, and {FEWER}"),
    "gradient_clip_algorithm": ("None 'norm'", "the gradient's norm is clipped"),
    "gpus": ("None", "give devices= and accelerator="),
    "inference_mode": ("None True", "call the model itself where gradients are wanted"),
    "limit_predict_batches": ("None 1.0", FEWER),
    "limit_test_batches": ("None 1.0", FEWER),
    "limit_train_batches": ("None 1.0", FEWER),
    "limit_val_batches": ("None 1.0", FEWER),
    "max_steps": ("None -1", "give max_epochs="),
    "max_time": ("None", "end the job by SIGTERM, which saves, and go on with ckpt_path='last'"),
    "min_epochs": ("None 0 1", "give patience="),
    "min_steps": ("None 0", "give patience="),
    "overfit_batches": ("None 0 0.0", FEWER),
    "plugins": ("None []", "give precision=, or start the script with torchrun"),
    "reload_dataloaders_every_n_epochs": ("None 0", "give a loader with set_epoch(epoch)"),
    "resume_from_checkpoint": ("None", "give fit ckpt_path="),
    "stochastic_weight_avg": ("None False", "average the weights of checkpoints yourself"),
    "sync_batchnorm": ("None False", "BatchNorm normalises over a process's own galaxies"),
    "val_check_interval": ("None 1.0", "the model is validated after each epoch"),
}
# Of these, other values than those in silence are warned of: they change no result.
WITHOUT_EFFECT = {
    "amp_backend": "None",
    "benchmark": "None",
    "default_root_dir": "None",
    "detect_anomaly": "None False",
    "enable_autolog_hparams": "None True",
    "enable_model_summary": "None True",
    "log_every_n_steps": "None 50",
    "model_registry": "None",
    "num_nodes": "None 1",
    "num_sanity_val_steps": "None 0 2",
    "profiler": "None",
    "progress_bar_refresh_rate": "None",
    "strategy": "None 'auto'",
    "weights_summary": "None",
}
# Callbacks, by the ends of their classes' names, and what does their work here.
CALLBACKS = {
    "EarlyStopping": "get_trainer's patience=",
    "ModelCheckpoint": "get_trainer's save_top_k= and file_template=; trainer.best_model_path",
    "GradientAccumulationScheduler": "get_trainer's accumulate_grad_batches=",
    "BackboneFinetuning": "get_trainer's unfreeze_after=",
    "PredictionWriter": "zoobot.pytorch.predictions.predict_on_catalog.predict",
}
CALLBACKS_WITHOUT_EFFECT = ("ProgressBar", "ModelSummary", "LearningRateMonitor", "StatsMonitor")
OWN_CALLBACK = "metrics.jsonl, or a loop of your own (docs/editing_the_loop.md)"
KNOWN = ("precision", "gradient_clip_val", "accumulate_grad_batches", "max_epochs", "patience")


def check_options(
    options: dict, logger: object = None, callbacks: object = None, of: str = "get_trainer"
) -> None:
    """Warn of what has no effect, in one warning; refuse what would change the result.

    Args:
        options: further arguments of Lightning's ``Trainer``.
        logger: of Lightning, or a list of them: metrics are in files of the run's own.
        callbacks: of Lightning.
        of: whose arguments they are, for messages.

    Raises:
        ValueError: for an option that is not known, and an option or a callback that would change
            the result; it says what to write instead.
    """
    ignored = []
    for name, value in options.items():
        if name in REFUSED:
            usual, instead = REFUSED[name]
            if repr(value) not in usual.split():
                raise UserError(f"{name}={value!r:.40} of Lightning's is not supported: {instead}")
        elif name not in WITHOUT_EFFECT:
            known = (*KNOWN, *REFUSED, *WITHOUT_EFFECT)
            raise UserError(f"{of} has no argument {name!r}{did_you_mean(name, known)}")
        elif repr(value) not in WITHOUT_EFFECT[name].split():
            ignored.append(name)
    ignored.sort()
    for callback in _listed(callbacks):
        kind = type(callback).__name__
        if not kind.endswith(CALLBACKS_WITHOUT_EFFECT):
            refuse_callback(callback)
        ignored.append(kind)
    loggers = [each for each in _listed(logger) if not isinstance(each, bool)]
    ignored += [f"logger {type(each).__name__}" for each in loggers]
    if ignored:
        files = " (metrics are in metrics.jsonl and tensorboard/)" if loggers else ""
        warnings.warn(f"{of}: without effect: {', '.join(ignored)}{files}", stacklevel=3)


def refuse_callback(callback: object) -> None:
    """UserError that says what does a callback's work here."""
    kind = type(callback).__name__
    instead = next((text for end, text in CALLBACKS.items() if kind.endswith(end)), OWN_CALLBACK)
    raise UserError(f"the callback {kind} is not supported: use {instead}")


def _listed(given: object) -> list:
    if given is None:
        return []
    return list(given) if isinstance(given, Iterable) else [given]
