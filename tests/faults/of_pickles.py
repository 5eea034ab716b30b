"""Pickles that name only what is read: any calls of it, with any arguments, in any order."""

import io
import pickle
import random
import struct
import zipfile

import mutations
from mutations import Files

from zoobot.limits.pickles import GLOBALS
from zoobot.runs.checkpoint import LIGHTNING_CLASSES

CLASSES = sorted(GLOBALS)
INERT = [f"{start}a.B" for start in LIGHTNING_CLASSES]
CHARS = ("", "a", "model", "cpu", "meta", "x" * 10**4, "0", "latin1")


class _Pickle:
    """Writes the steps of a pickle, of values within values, so that its stack stays in order."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.steps, self.kept = rng, [], 0

    def put(self, *steps: bytes) -> None:
        self.steps += steps

    def number(self, value: int) -> None:
        self.put(pickle.dumps(value, 2)[2:-1])

    def text(self, value: str) -> None:
        content = value.encode()
        self.put(b"X", struct.pack("<I", len(content)), content)

    def called(self, name: str) -> None:
        module, _, attribute = name.rpartition(".")
        self.put(f"c{module}\n{attribute}\n".encode())

    def value(self, depth: int) -> None:
        """Any value, within ``depth`` levels."""
        leaves = (self._number, self._text, self._plain, self._kept, self._tensor)
        nodes = (self._list, self._dict, self._tuple, self._call, self._repeat)
        self.rng.choice(leaves + nodes * 2 if depth > 0 else leaves)(depth - 1)
        if self.rng.random() < 0.3:
            self.put(b"r", struct.pack("<I", self.kept))
            self.kept += 1

    def _number(self, depth: int) -> None:
        self.number(self.rng.choice((*mutations.LONG_INTEGERS, -1, 10**30)))

    def _text(self, depth: int) -> None:
        self.text(self.rng.choice(CHARS))

    def _plain(self, depth: int) -> None:
        self.put(self.rng.choice((b"N", b"\x88", b"\x89", b"}", b"]", b")", b"G" + bytes(8))))

    def _kept(self, depth: int) -> None:
        if self.kept:
            self.put(b"j", struct.pack("<I", self.rng.randrange(self.kept)))
        else:
            self.put(b"N")

    def _list(self, depth: int) -> None:
        self.put(b"](")
        for _ in range(self.rng.randrange(4)):
            self.value(depth)
        self.put(b"e")

    def _dict(self, depth: int) -> None:
        self.put(b"}(")
        for _ in range(self.rng.randrange(4)):
            self.text(self.rng.choice(CHARS))
            self.value(depth)
        self.put(b"u")

    def _tuple(self, depth: int) -> None:
        self.put(b"(")
        for _ in range(self.rng.randrange(4)):
            self.value(depth)
        self.put(b"t")

    def _call(self, depth: int) -> None:
        """A call of a class that is read, with any arguments; perhaps attributes are set."""
        self.called(self.rng.choice(CLASSES + INERT))
        self._tuple(depth)
        self.put(self.rng.choice((b"R", b"R", b"\x81")))
        if self.rng.random() < 0.2:
            self._dict(depth)
            self.put(b"b")

    def _repeat(self, depth: int) -> None:
        """Lists of one list, in lists of one list: many values of few steps."""
        times = self.rng.choice((2, 30))
        self.put(b"](" * times)
        self.value(depth)
        for _ in range(times):
            kept, self.kept = struct.pack("<I", self.kept), self.kept + 1
            self.put(b"r", kept, (b"j" + kept) * 9, b"e")

    def _tensor(self, depth: int) -> None:
        """A tensor over a part of the archive, of any place, shape and steps."""
        rng = self.rng
        self.called(rng.choice(("torch._utils._rebuild_tensor_v2",) * 9 + ("torch.Size",)))
        self.put(b"((")
        self.text(rng.choice(("storage",) * 9 + ("module",)))
        self.called(rng.choice([name for name in CLASSES if name.endswith("Storage")]))
        self.text(rng.choice(("0", "1", "../0", "")))
        self.text(rng.choice(("cpu", "cpu", "cuda:0", "meta", "mps")))
        self.number(rng.choice((4, 16, 0, -1, 10**10)))
        self.put(b"tQ")
        self.number(rng.choice((0, 0, 1, 10**9, -1)))
        for choices in (((4,), (2, 2), (10**9,), (0,), (-1,)), ((1,), (2, 1), (0,), (-1,))):
            self.put(b"(")
            for side in rng.choice(choices):
                self.number(side)
            self.put(b"t")
        self.put(b"\x89")
        self.called("collections.OrderedDict")
        self.put(b")RtR")


def make_pickle(rng: random.Random) -> Files:
    made = _Pickle(rng)
    made.put(b"\x80\x02}(")
    keys = rng.choice((("model", "description"), ("state_dict", "hyper_parameters"), CHARS))
    made.text("format_version")
    made.number(1)
    for key in keys:
        made.text(key)
        (made._dict if rng.random() < 0.7 else made.value)(rng.choice((1, 3, 5)))
    made.put(b"u.")
    content = b"".join(made.steps)
    if rng.random() < 0.3:
        content = mutations.damaged_bytes(rng, content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", rng.choice((*["little"] * 9, "big", "{}")))
        archive.writestr("archive/data/0", bytes(rng.choice((16, 1000))))
        archive.writestr("archive/version", rng.choice((*["3\n"] * 9, "9" * 30, "")))
    return {"a.ckpt": buffer.getvalue()}
