"""Small shards of noise."""

import io

import numpy as np
import pandas as pd
from PIL import Image

from zoobot import create_shards
from zoobot.data.shards.writer import write_shards
from zoobot.script import run_script

QUIET = {"num_workers": 0, "show_progress": False}


def encoded(size=(8, 8), image_format="PNG", seed=0):
    """A picture with structure of any size, encoded."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    file = io.BytesIO()
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=float)
    noisy = np.clip(smooth + rng.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(file, image_format)
    return file.getvalue()


def in_memory(num_galaxies, **columns):
    table = pd.DataFrame({"id_str": [f"g{i}" for i in range(num_galaxies)]})
    table["image"] = [encoded(seed=i) for i in range(num_galaxies)]
    table["a"], table["b"] = np.arange(num_galaxies), 7
    return table.assign(**columns)


def write(table, folder, label_cols=("a", "b"), **changes):
    small = {"img_size": 8, "galaxies_a_shard": 4, **QUIET}
    return write_shards(table, label_cols, folder, **(small | changes))


def script(capsys, *words):
    """Of ``create_shards``: exit code, what was printed, and the last line on stderr."""
    code = 0
    try:
        run_script(create_shards.main, lambda: create_shards.parse([str(w) for w in words]))
    except SystemExit as stop:
        code = stop.code
    told = capsys.readouterr()
    return code, told.out, told.err.strip().split("\n")[-1]
