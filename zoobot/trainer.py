"""``Trainer``: fits, validates, tests and predicts over the loop, by Lightning's method names."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from zoobot import constant_predictions, engine, optim
from zoobot.contracts import DataModule, Loader, TrainableModel, check_trainable, loader_of
from zoobot.data.classes import one_class_notes
from zoobot.data.device_batches import on_device
from zoobot.data.foreign_loaders import ForeignLoader
from zoobot.data.loaders import own_loader
from zoobot.data.reading import prepare_reading
from zoobot.loop_loaders import FitGalaxies, Loading, open_to_fit
from zoobot.models import bands, speed
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.models.hub import model_file
from zoobot.models.rebuild import check_rebuilds
from zoobot.models.wrapped import unwrapped
from zoobot.predictions.gallery import Gallery
from zoobot.predictions.linear_check import check_with_linear_model
from zoobot.predictions.models import as_predictor
from zoobot.runs import checkpoint, numerics
from zoobot.runs.changes import check_same_run
from zoobot.runs.data_digest import Known, known_galaxies
from zoobot.runs.epoch_names import check_template
from zoobot.runs.folder import Run
from zoobot.runs.log import told_metrics
from zoobot.runs.mistakes import told_as_mistakes
from zoobot.runs.resume import Progress, find_state
from zoobot.runs.watch import Interrupted
from zoobot.system import distributed
from zoobot.system.devices import keep_generators, put_back
from zoobot.system.errors import UserError, check_count

LOG_NAMES = {"val": "validation"}  # of splits


def _puts_model_back(method: Callable) -> Callable:
    """A method that leaves its model, by default the one fitted, on the device where it was."""

    @functools.wraps(method)
    def wrapped(trainer: "Trainer", model: nn.Module | None = None, *args, **kwargs):
        model = trainer._fitted if model is None else model
        if model is None:
            raise UserError("this trainer has fitted no model yet: give one")
        if not isinstance(model, nn.Module):
            raise UserError(f"a {type(model).__name__} is no model: give it as datamodule=")
        with put_back(model):
            return method(trainer, model, *args, **kwargs)

    return wrapped


class Trainer:
    """Fits, validates, tests and predicts; see ``get_trainer``.

    Args:
        tf32, deterministic: see ``runs.numerics.set_numerics``; for the whole process.
        compile: of ``fit``: one of ``options.COMPILE``; see ``models.speed.choose``.
        after_fit: called at the end of ``fit`` with this trainer, the model and the data module,
            if there is one, on every process.

    Attributes:
        callback_metrics: name -> float: of the best epoch after ``fit``, then of ``validate`` or
            ``test``.
        constants: split (``train``, ``validation``, ``test``) -> name -> what the best constant
            prediction reaches, after ``fit``; empty if its labels are not known.
        best_epoch: the epoch with the lowest validation loss, after ``fit``.
        best_model_path: the checkpoint of the best epoch so far, after ``fit`` or Ctrl-C: a file in
            ``checkpoints/best/`` whose name no other run takes.
        current_epoch, global_step: epochs and optimiser's steps behind the last ``fit``.
    """

    def __init__(
        self,
        save_dir: str | Path,
        *,
        file_template: str = "{epoch}",
        save_top_k: int = 1,
        max_epochs: int = 100,
        patience: int = 10,
        device: str = "auto",
        precision: str = "auto",
        tf32: str = "auto",
        deterministic: bool = False,
        compile: str = "auto",
        grad_clip: float | None = None,
        accumulation: int = 1,
        unfreeze_after: int = 0,
        show_progress: bool = True,
        seed: int | None = None,
        save_every_minutes: float = engine.Settings.save_every_minutes,
        max_skipped_steps: int = engine.Settings.max_skipped_steps,
        on_save_error: str = "stop",
        own_share: bool | None = None,
        allow_changes: bool = False,
        after_fit: Callable[["Trainer", nn.Module, DataModule | None], None] | None = None,
    ):
        self.save_dir = Path(save_dir)
        self.file_template = file_template
        self.save_top_k = save_top_k
        self.max_epochs = max_epochs
        self.patience = patience
        self.precision = precision
        self.tf32 = tf32
        self.deterministic = deterministic
        self.compile = compile
        self.grad_clip = grad_clip
        check_count("accumulation", accumulation)
        self.accumulation = accumulation
        self.unfreeze_after = unfreeze_after
        self.show_progress = show_progress
        self.seed = seed
        self.save_every_minutes = save_every_minutes
        self.max_skipped_steps = max_skipped_steps
        self.on_save_error = on_save_error
        self.own_share = own_share
        self.allow_changes = allow_changes
        self.after_fit = after_fit
        numerics.set_numerics(deterministic, tf32)
        self.device = distributed.choose_device(device)
        self.callback_metrics: dict[str, float] = {}
        self.constants: dict[str, dict[str, float]] = {}
        self.best_epoch = 0
        self.best_model_path = ""
        self.current_epoch = self.global_step = 0
        self._run: Run | None = None
        self._fitted: nn.Module | None = None
        distributed.join(self.device)

    @_puts_model_back
    def fit(
        self,
        model: nn.Module,
        train_dataloaders: DataModule | Loader | None = None,
        val_dataloaders: Loader | None = None,
        datamodule: DataModule | None = None,
        ckpt_path: str | Path | None = None,
        *,
        config: dict | None = None,
        resume_from: dict | None = None,
    ) -> None:
        """Train; afterwards the model has the best epoch's weights, on the device where it was.

        Args:
            model: a ``TrainableModel``: one of ``zoobot.models``, or a subclass.
            train_dataloaders, val_dataloaders: two loaders; or in place of the first a datamodule.
            datamodule: with ``setup(stage)``, ``train_dataloader()`` and ``val_dataloader()``.
            ckpt_path: a checkpoint to go on from; ``last``: this folder's, if there is one;
                ``best``: that of the best epoch of this trainer's last ``fit``.
            config: what to write to ``config.json``; by default the trainer's and the model's
                arguments.
            resume_from: a state as ``runs.resume.find_state`` reads it, instead of ``ckpt_path``.

        Raises:
            ValueError: for labels that the model can't learn, images that can't be read, galaxies
                that are not the state's, a folder in use, or if the loss is not finite.
            KeyboardInterrupt: after Ctrl-C, once the state is saved; ``last`` goes on from it.
        """
        model = unwrapped(model)
        check_trainable(model, self.unfreeze_after)
        if ckpt_path == "best":
            ckpt_path = self.best_model_path
            if not ckpt_path:
                raise UserError("this trainer has no best epoch yet: name last, or a path")
        datamodule = train_dataloaders if isinstance(train_dataloaders, DataModule) else datamodule
        loaders = (train_dataloaders, val_dataloaders)
        galaxies = open_to_fit(model, *loaders, datamodule, self._loading(model), self.save_dir)
        settings = self._settings(model)
        steps = galaxies.train.num_steps
        optim.check_schedule(settings.scheduler_kwargs, settings.epochs, steps)
        own = (galaxies.own_train, galaxies.own_val)
        reading = prepare_reading(own, self.device, settings.epochs)
        model.learn_from_labels(galaxies.tables.get("train"))
        constants = constant_predictions.measure_constants(model, galaxies.tables)
        model.to(self.device)
        optimizer = model.configure_optimizers()
        if self.device.type == "cuda":
            optim.fuse(optimizer)
        if galaxies.own_val is not None:
            bands.check_to_train(model, galaxies.own_val.dataset.spec)
            model.images_seen = galaxies.own_val.dataset.describe_images()
        self.best_model_path = ""
        opening = (model, config, ckpt_path, resume_from, galaxies.known)
        # The loop seeds torch at each step: the caller's generators are left as they were.
        with keep_generators(self.device), self._start_run(*opening) as run:
            self._run = run
            run.log.constants = {LOG_NAMES.get(split, split): v for split, v in constants.items()}
            self.constants = {split: run.log.named_constants(split) for split in run.log.constants}
            how = (self.device, settings.dtype, self.compile, self.max_epochs)
            told = numerics.describe(*how[:2]) + speed.set_up(model, *how, *own)
            run.say(
                f"{galaxies.known.introduce()}{model.introduce()}; {told}\n"
                f"{reading}{optim.group_table(optimizer.param_groups)}"
            )
            self._warn_of(galaxies, model, settings)
            self._loop(model, optimizer, galaxies, settings)
            run.check_saved()
        if self.after_fit is not None:
            self.after_fit(self, model, datamodule)

    def _warn_of(self, galaxies: FitGalaxies, model: nn.Module, settings: engine.Settings) -> None:
        """Say what is odd about the galaxies, before the first epoch."""
        run = self._run
        if galaxies.own_train is not None and galaxies.own_train.sampler.note:
            run.warn(galaxies.own_train.sampler.note)
        if isinstance(model, FinetuneableZoobotClassifier):
            for note in one_class_notes(galaxies.tables, model.label_col, model.class_names):
                run.warn(note)
            if model.run_linear_sanity_check:
                run.say(check_with_linear_model(model, galaxies.train, galaxies.val, settings))

    def _loop(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        galaxies: FitGalaxies,
        settings: engine.Settings,
    ) -> None:
        """Run the loop, and leave the best weights in the model, if an epoch was the best."""
        run = self._run
        try:
            with told_as_mistakes():
                state = run.resume_from
                if state is not None:
                    told = Progress(**state["progress"]).told()
                    run.say(f"going on from {state.get('path', 'a state')}, {told}")
                loaders, show = (galaxies.train, galaxies.val), Gallery(model, run)
                progress = engine.fit(model, optimizer, *loaders, settings, run, state, show)
                run.say(progress.told_end(settings.epochs))
        except KeyboardInterrupt as error:  # a second Ctrl-C comes to each process at any place
            self.best_model_path = run.keep_best(together=isinstance(error, Interrupted))
            raise
        self._fitted, self.current_epoch = model, progress.epoch
        self.global_step = progress.step
        self.best_model_path = run.keep_best()
        if self.best_model_path:
            self._load(model, "best")
            self.best_epoch = progress.best_epoch
            self.callback_metrics = distributed.from_main(run.log.metrics_of(self.best_epoch))

    def _start_run(
        self,
        model: TrainableModel,
        config: dict | None,
        ckpt_path: str | Path | None,
        resume_from: dict | None,
        known: Known,
    ) -> Run:
        """Open the run's folder, to start anew or go on from a state."""
        description = {**model.describe(), **model.images_seen.to_dict()}
        check_rebuilds(model, description)
        names = [(split, name) for split in ("train", "validation") for name in model.measure.names]
        check_template(self.file_template, [model.metric_key(*pair) for pair in names])
        config = config or {**self._plain_settings(), "model": description}
        if ckpt_path is not None:
            resume = "auto" if ckpt_path == "last" else str(ckpt_path)
            may_change = {"epochs", "patience", "save_top_k"}
            resume_from = find_state(self.save_dir, resume, config, may_change, self.allow_changes)
        data = known.digest() if distributed.is_main() else None
        if resume_from is not None:
            check_same_run(resume_from, description, data, self.allow_changes)
        return Run(
            self.save_dir,
            config,
            description,
            model.metric_key,
            resume_from,
            data=data,
            file_template=self.file_template,
            show_progress=self.show_progress,
            on_save_error=self.on_save_error,
            num_epochs=self.max_epochs,
            device=self.device,
        )

    def validate(
        self,
        model: nn.Module | None = None,
        dataloaders: DataModule | Loader | None = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: DataModule | None = None,
        collect: Callable[[dict, torch.Tensor], None] = engine.ignore,
    ) -> list[dict[str, float]]:
        """Metrics of the validation galaxies, in a list of one dict; see ``test``."""
        source = datamodule or dataloaders
        return self._evaluate(model, source, ckpt_path, verbose, "validation", collect)

    def test(
        self,
        model: nn.Module | None = None,
        dataloaders: DataModule | Loader | None = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: DataModule | None = None,
        collect: Callable[[dict, torch.Tensor], None] = engine.ignore,
    ) -> list[dict[str, float]]:
        """Metrics of the test galaxies, in a list of one dict.

        Args:
            model: by default the one that was fitted.
            dataloaders: a loader, or a data module.
            ckpt_path: ``best`` loads the best weights of this trainer's ``fit`` first, or without
                one those in its folder; a path that file's; None takes the model as it is.
            collect: called with each batch and its outputs, see ``engine.evaluate``.
        """
        return self._evaluate(model, datamodule or dataloaders, ckpt_path, verbose, "test", collect)

    @_puts_model_back
    def predict(
        self,
        model: nn.Module | None = None,
        dataloaders: DataModule | Loader | None = None,
        datamodule: DataModule | None = None,
        ckpt_path: str | Path | None = None,
    ) -> list[torch.Tensor]:
        """Predictions, a tensor a batch, on the CPU.

        In one process they are in the catalog's order; each of several has every world_size-th
        galaxy.

        Args:
            model: one of this package, ``ZoobotEncoder`` too; by default the one that was fitted.
        """
        model = as_predictor(self._load(model, ckpt_path))
        settings = engine.Settings(self.device, engine.choose_dtype(self.precision, self.device))
        given = loader_of(datamodule or dataloaders, "predict")
        loader = own_loader(given, self.device)
        if loader is None:
            loader = ForeignLoader(given, "predict", seed=self.seed or 0, own_share=self.own_share)
        bands.check_seen(model, loader)
        model.to(self.device).eval()
        with torch.inference_mode(), settings.autocast():
            return [
                model.predictions(model(batch["image"]).float()).cpu()
                for batch in on_device(loader, self.device)
            ]

    @_puts_model_back
    def _evaluate(
        self, model, source, ckpt_path, verbose: bool, split: str, collect: Callable
    ) -> list[dict[str, float]]:
        model = self._load(model, ckpt_path)
        name = "val" if split == "validation" else split
        loader = self._loading(model).loop_loader(loader_of(source, name), model, name)
        bands.check_seen(model, loader)
        known_galaxies(None, {name: loader}).checked_labels(model.check_labels)
        model.to(self.device)
        metrics = engine.evaluate(model, loader, self._settings(model), collect=collect)
        named = {model.metric_key(split, k): v for k, v in metrics.items()}
        self.callback_metrics = named
        if self._run is not None and split == "test":
            self._run.log_later(split, metrics)
        elif verbose and distributed.is_main():
            print(f"{split}: {told_metrics(named, self.constants.get(split, {}))}")
        return [named]

    def _load(self, model: nn.Module, ckpt_path: str | Path | None) -> nn.Module:
        """The model, unwrapped, with the weights of a checkpoint if one is named."""
        model = unwrapped(model)
        if ckpt_path is None:
            return model
        if ckpt_path == "best":
            best = Path(self.best_model_path or self.save_dir / "best")
            ckpt_path = best.with_suffix(".safetensors")
        weights, _ = checkpoint.load_model(model_file(ckpt_path))
        checkpoint.load_exactly(model, weights, str(ckpt_path))
        return model

    def _settings(self, model: TrainableModel) -> engine.Settings:
        return engine.Settings(
            device=self.device,
            dtype=engine.choose_dtype(self.precision, self.device),
            epochs=self.max_epochs,
            patience=self.patience,
            scheduler_kwargs=model.scheduler_kwargs,
            frozen_epochs=self.unfreeze_after,
            grad_clip=self.grad_clip,
            seed=model.seed if self.seed is None else self.seed,
            save_top_k=self.save_top_k,
            save_every_minutes=self.save_every_minutes,
            max_skipped_steps=self.max_skipped_steps,
        )

    def _plain_settings(self) -> dict:
        names = "save_top_k patience precision tf32 grad_clip accumulation unfreeze_after"
        return {"epochs": self.max_epochs} | {name: vars(self)[name] for name in names.split()}

    def _loading(self, model: TrainableModel) -> Loading:
        seed = model.seed if self.seed is None else self.seed
        return Loading(self.device, seed, self.accumulation, self.own_share)
