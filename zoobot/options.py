"""Options of the scripts, in groups.

Neither torch nor timm is imported here, so that ``--help`` is answered at once.
"""

import argparse
import sys
from collections.abc import Callable

from zoobot.command_line import Parser
from zoobot.system.errors import UserError

PRECISIONS = ("bf16", "fp16", "fp32")
DEVICES = ("auto", "cpu", "cuda", "mps")
ON_SAVE_ERROR = ("stop", "continue")
FITS_SCALINGS = ("asinh", "linear", "none")  # of 8-bit images
BAND_SCALINGS = ("asinh", "percentiles", "lupton", "linear", "none")
COMPILE = ("auto", "on", "max", "off")
TF32 = ("auto", "on", "off")
LARGEST_SEED = 2**32 - 1
CHECKPOINT_HELP = (
    "a run's folder, a PATH.safetensors or PATH.ckpt (Zoobot 2.x's too), a folder of "
    "save_pretrained, or hf_hub:OWNER/NAME"
)
HEADS = ("sigmoid", "softplus")
HEAD_HELP = "of a tree: concentrations of 1 to 101 (sigmoid), or of 0.01 and more (softplus)"
ROUND_VOTES_HELP = "round weighted vote counts, such as 8.73, to whole numbers"


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


def add_brightness_options(group: argparse._ActionsContainer) -> None:
    """Bands of images in floats, or how they become 8-bit images; see ``settle_brightness``."""
    add = group.add_argument
    add(
        "--channels",
        type=int,
        choices=[1, 3],
        help="3: the model sees colour images (the default); 1: it sees grey ones. Images of the "
        "other kind are converted",
    )
    add_fits_scaling_option(group, "asinh")
    add_band_options(group)
    add(
        "--scaling",
        choices=BAND_SCALINGS,
        help="with --bands: how bright the numbers in the files become, by default asinh",
    )


def add_fits_scaling_option(group: argparse._ActionsContainer, default: str) -> None:
    """How bright FITS images become; ``default``, in words, is not filled in here."""
    group.add_argument(
        "--fits-scaling",
        choices=FITS_SCALINGS,
        help=f"how bright FITS images become when they are made 8-bit images, by default {default}",
    )


def add_band_options(group: argparse._ActionsContainer) -> None:
    """Which bands images have, and where they are."""
    add = group.add_argument
    add(
        "--bands",
        nargs="+",
        metavar="BAND",
        help="bands of the images, in floats, in the model's order: NAME, or where the files do "
        "not tell it NAME=HDU (its name or number), NAME=[PLANE], NAME=HDU[PLANE], "
        "NAME=ARRAY[PLANE]",
    )
    add(
        "--image-spec",
        metavar="FILE.json",
        help="bands and what else there is to say of images in floats; --bands and --scaling go "
        "before it",
    )


def check_brightness(options: argparse.Namespace) -> bool:
    """Whether the options ask for bands, as against 8-bit images.

    Raises:
        ValueError: for an option of the one kind of images together with one of the other.
    """
    given = vars(options)
    if not given["bands"] and not given["image_spec"]:
        if given.get("scaling") is not None:
            raise UserError("--scaling is for bands: give --bands too, or use --fits-scaling")
        return False
    for name in ("channels", "fits_scaling"):
        if given.get(name) is not None:
            told = name.replace("_", "-")
            raise UserError(
                f"--{told} is for 8-bit images, but --bands or --image-spec asks for bands in "
                f"floats (--scaling says how bright they are): leave --{told} out"
            )
    return True


def settle_brightness(options: argparse.Namespace) -> None:
    """Fill in ``channels`` and ``fits_scaling`` of 8-bit images; both stay None for bands.

    Raises:
        ValueError: see ``check_brightness``.
    """
    if not check_brightness(options):
        options.channels = options.channels or 3
        options.fits_scaling = options.fits_scaling or "asinh"


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
    add_brightness_options(group)
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
        help="enlarge the middle of each image by a random factor between these when training, "
        "and by the one halfway when validating and predicting; by default 1.2 to 1.4, and 1.2",
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


def add_rgb_option(group: argparse._ActionsContainer) -> None:
    """Which bands the report's pictures are of."""
    group.add_argument(
        "--rgb-bands",
        nargs="+",
        metavar="BAND",
        help="of the pictures in the report: red, green and blue, such as z r g, or one for grey; "
        "by default the last, the middle and the first band",
    )


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
    add_rgb_option(group)
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
