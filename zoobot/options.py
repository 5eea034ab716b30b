"""Options of the scripts: argparse with groups, and ``--config``.

Neither torch nor timm is imported here, so that ``--help`` is answered at once.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import NoReturn

from zoobot.limits.text import is_utf8, read_yaml
from zoobot.system.errors import UserError, did_you_mean

PRECISIONS = ("bf16", "fp16", "fp32")
DEVICES = ("auto", "cpu", "cuda", "mps")
ON_SAVE_ERROR = ("stop", "continue")
COMPILE = ("auto", "on", "max", "off")
TF32 = ("auto", "on", "off")
LARGEST_SEED = 2**32 - 1
ROUND_VOTES_HELP = "round weighted vote counts, such as 8.73, to whole numbers"


class Parser(argparse.ArgumentParser):
    """Help shows defaults; errors are one line, ``error: ...``, with exit code 2."""

    def __init__(self, doc: str):
        super().__init__(
            description=doc,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--config", metavar="RUN.yaml", help="set any option from a YAML file")
        self.add_argument(
            "--debug", action="store_true", help="show tracebacks, and check gradients for NaN"
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message:.1000}")

    def parse(self, argv: list[str] | None = None) -> argparse.Namespace:
        """Parse the command line over the ``--config`` file over the defaults.

        Raises:
            ValueError: for an unknown or wrong option, on the command line or in the file.
        """
        argv = sys.argv[1:] if argv is None else argv
        for word in argv:
            _check_text(word, "an option")
        first, _ = self._config_only().parse_known_args(argv)
        if first.config:
            argv = [*self._read_config(first.config), *argv]
        options, unknown = self.parse_known_args(argv)
        if unknown:
            near = did_you_mean(unknown[0], self._option_string_actions)
            raise UserError(f"unknown option {unknown[0]!r}{near}")
        return options

    def _config_only(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.error = self.error
        parser.add_argument("--config")
        return parser

    def _read_config(self, path: str) -> list[str]:
        """A YAML file's keys and values as command line words."""
        try:
            settings = read_yaml(path)
        except (OSError, ValueError) as error:
            reason = str(error).replace("\n", " ")
            raise UserError(f"config {path} can't be read: {reason}") from error
        if not isinstance(settings or {}, dict):
            raise UserError(f"config {path} must hold options as 'name: value' lines")
        words = []
        for key, value in (settings or {}).items():
            option = "--" + str(key).replace("_", "-")
            _check_text(str(value), f"config {path}: {key!r}")
            action = self._option_string_actions.get(option)
            if action is None or action.dest in ("config", "help"):
                near = did_you_mean(option, self._option_string_actions)
                raise UserError(f"config {path}: unknown option {key!r}{near}")
            words += _words(option, value, takes_value=action.nargs != 0)
        return words


def _check_text(text: str, what: str) -> None:
    """ValueError for text that is not UTF-8, or that no file name can have."""
    if "\0" in text or not is_utf8(text):
        raise UserError(f"{what} holds {text!r:.200}, which is not UTF-8 text, or has a null in it")


def _words(option: str, value, takes_value: bool) -> list[str]:
    if not takes_value:
        if not isinstance(value, bool):
            raise UserError(f"config: {option[2:]} must be true or false, not {value!r}")
        return [option] if value else []
    if value is None:
        return []
    if isinstance(value, list):
        return [option, *map(str, value)]
    if isinstance(value, dict):
        try:
            return [f"{option}={json.dumps(value)}"]
        except TypeError as error:
            raise UserError(f"config: {option[2:]} can't be {value!r:.80}: {error}") from error
    return [f"{option}={value}"]


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def answer_help(make_parser: Callable[[], Parser]) -> None:
    """Print the help and exit, if the command line asks for it.

    A script calls this before its imports that take seconds.
    """
    if {"-h", "--help"} & {*sys.argv[1:]}:
        make_parser().print_help()
        sys.exit(0)


def positive_int(text: str) -> int:
    """An int of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def non_negative_int(text: str) -> int:
    """An int of 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value


def auto_or_non_negative_int(text: str) -> int | str:
    """``auto``, or an int of 0 or more."""
    return text if text == "auto" else non_negative_int(text)


def seed(text: str) -> int:
    """An int that every generator takes."""
    value = non_negative_int(text)
    if value > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text:.30} is more than {LARGEST_SEED}")
    return value


def non_negative(text: str) -> float:
    """A finite float of 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of 0 or more")
    return value


def fraction(text: str) -> float:
    """A float from 0 up to but not including 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def add_image_check_options(group: argparse._ActionsContainer) -> None:
    """What is looked at before images are used, and what becomes of those that can't be read."""
    add = group.add_argument
    add(
        "--check-images",
        choices=["headers", "all", "none"],
        default="headers",
        help="what to look at before images are used; headers: of all images up to 200,000, else "
        "of 20,000, and the pixels of 1,000; all: the pixels of all",
    )
    add(
        "--on-bad-image",
        choices=["error", "drop"],
        default="error",
        help="images can't be read, as listed in bad_images.csv: stop, or leave these galaxies out",
    )


def on_or_off(text: str) -> str:
    """YAML reads ``on`` and ``off`` as true and false: they are what they were again."""
    return {"True": "on", "False": "off"}.get(text, text)


def add_data_options(parser: Parser, *, catalog: str | None) -> argparse._ArgumentGroup:
    """Catalogs, and how their images become views; returns the group."""
    group = parser.add_argument_group("data")
    add = group.add_argument
    demo = "; demo: simulated on the spot" if catalog == "demo" else ""
    add("--catalog", default=catalog, help=f"galaxies{demo}")
    add("--shards", metavar="DIR", help="instead of a catalog: shards of create_shards")
    add("--val-catalog", help="validation galaxies, if not split off")
    add("--test-catalog", help="test galaxies, if not split off")
    add("--round-votes", action="store_true", help=ROUND_VOTES_HELP)
    add("--image-size", type=positive_int, default=224, help="side of a view, pixels")
    add("--channels", type=int, choices=[1, 3], default=3, help="of the images")
    add("--fits-scaling", default="asinh", help="brightness of FITS images")
    add_image_check_options(group)
    add(
        "--shear",
        type=non_negative,
        default=20.0,
        help="largest shear of training views, degrees; it blurs how round a galaxy is",
    )
    add(
        "--zoom",
        type=non_negative,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="of training views, by default 1.2 to 1.4; validation and prediction use the "
        "midpoint, by default 1.2",
    )
    add(
        "--augment",
        choices=["auto", "cpu", "device"],
        default="auto",
        help="who makes the views; auto: the device, if it is a GPU",
    )
    add(
        "--cache",
        choices=["auto", "none", "device", "memory"],
        default="auto",
        help="where decoded images are kept for the next epochs, in at most half of what is free: "
        "the GPU's memory or the computer's; auto: there, in this order, if they fit",
    )
    add(
        "--decode",
        choices=["auto", "cpu", "gpu"],
        default="auto",
        help="who decodes JPEGs for views that a GPU makes; auto: whoever is faster, as measured",
    )
    return group


def add_output_options(parser: Parser, *, save_dir: str) -> None:
    """Where the run's files go."""
    group = parser.add_argument_group("output")
    group.add_argument("--save-dir", default=save_dir, help="folder of the run")
    group.add_argument(
        "--save-top-k", type=int, default=1, help="best checkpoints to keep; -1: all"
    )
    group.add_argument(
        "--resume", default="auto", help="auto: go on if --save-dir holds a run; never; or PATH"
    )
    group.add_argument(
        "--allow-changes",
        action="store_true",
        help="resume although other options have changed too",
    )
    group.add_argument(
        "--save-every",
        type=non_negative,
        default=30.0,
        metavar="MINUTES",
        help="also save within an epoch",
    )
    group.add_argument(
        "--on-save-error",
        choices=ON_SAVE_ERROR,
        default="stop",
        help="a full disk: stop, or train on and try again next time",
    )
    group.add_argument(
        "--no-report", action="store_true", help="no predictions and report of the test galaxies"
    )


def add_hardware_options(parser: Parser) -> None:
    """--device, --precision, --tf32, --deterministic, --compile, --num-workers."""
    group = parser.add_argument_group("hardware")
    group.add_argument("--device", choices=DEVICES, default="auto", help="where")
    group.add_argument(
        "--precision",
        choices=["auto", *PRECISIONS],
        default="auto",
        help="autocast; auto is bf16 where the hardware has it",
    )
    group.add_argument(
        "--tf32",
        type=on_or_off,
        choices=TF32,
        default="auto",
        help="float32 on NVIDIA's GPUs with factors rounded to 10 bits of 23, which is faster; "
        "auto: in convolutions only, as torch has it",
    )
    group.add_argument(
        "--deterministic",
        action="store_true",
        help="the same bits each time on a GPU too, also after --resume; slower. CPUs always do",
    )
    group.add_argument(
        "--compile",
        type=on_or_off,
        nargs="?",
        const="on",
        choices=COMPILE,
        default="auto",
        help="torch.compile the model; auto: on a GPU, if the run is long enough to save more than "
        "the minute that it takes; max: try more kernels, which takes minutes",
    )
    group.add_argument(
        "--num-workers",
        type=auto_or_non_negative_int,
        default="auto",
        help="image-reading workers of each process; auto: on a GPU its cores but two, 14 at most; "
        "on a CPU 2",
    )


def add_optimisation_options(
    parser: Parser, *, batch_size: int, epochs: int, patience: int, grad_clip: float
) -> argparse._ArgumentGroup:
    """Epochs, batch, clipping and seed; returns the group."""
    group = parser.add_argument_group("optimisation")
    add = group.add_argument
    add(
        "--batch-size", type=positive_int, default=batch_size, help="galaxies a step, all processes"
    )
    add("--grad-accumulation", type=positive_int, default=1, help="micro-batches a step")
    add("--epochs", type=positive_int, default=epochs, help="at most this many passes")
    add(
        "--patience",
        type=positive_int,
        default=patience,
        help="stop after this many without improvement",
    )
    add("--grad-clip", type=non_negative, default=grad_clip, help="largest gradient norm; 0: none")
    add(
        "--max-skipped-steps",
        type=positive_int,
        default=10,
        metavar="N",
        help="stop after N steps in a row whose loss or gradient is not finite",
    )
    add("--seed", type=seed, default=42, help="of weights, split, order, views and dropout")
    return group
