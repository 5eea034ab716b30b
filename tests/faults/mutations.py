"""Seeded damage to bytes, to values as JSON and YAML hold them, and to the headers of formats."""

import ast
import copy
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

Files = dict[str, bytes]  # name -> content
Steps = Iterator[Callable[[], object]]
INTEGERS = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
LONG_INTEGERS = (*INTEGERS, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
SPAN_BYTES = 64


def as_text(value) -> str:
    """A value as a cell or a word."""
    return value if isinstance(value, str) else repr(value)


def deep(depth: int):
    """Lists within lists."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = (
    *(None, True, False, 0, 1, -1, 2, 3.5, 1e308, -1e308, 5e-324, 10**30, -(10**30)),
    *(float("nan"), float("inf"), float("-inf"), *LONG_INTEGERS, -(2**63), 10**4000),
    *("", " ", "\n", "\0", "a\0b", "é", "\u202egnp", "🌌" * 50, "\ud800", "x" * 20_000, "1e999"),
    *("nan", "None", "true", "-", "--", "__class__", "../../escape", "/etc/passwd", "%s%n{}"),
    *("<script>alert(1)</script>", "hf_hub:a/b", "local-dir:.", "resnet18", "=cmd()", "9" * 5000),
    *([], {}, [[]], {"": {}}, [None], ["a", "a"], [1, "a", None], {"a": [{"b": {}}]}, deep(90)),
    *([0] * 1000, [1e9, 1e9], [-1, -1], {"bytes": None, "path": "/etc/passwd"}, [0.5, 0.5, 0.5]),
)


def damaged_value(rng: random.Random, value, times: int = 0):
    """A copy of a value of dicts, lists and scalars, with some of its parts changed."""
    value = copy.deepcopy(value)
    for _ in range(times or rng.choice((1, 1, 1, 2, 4))):
        places = [place for place in _places(value) if place[0] is not None]
        if not places or rng.random() < 0.02:
            value = copy.deepcopy(rng.choice(HOSTILE))
            continue
        parent, key = rng.choice(places)
        _change(rng, parent, key, [p[key] for p, key in places])
    return value


def _places(value, parent=None, key=None) -> list[tuple]:
    """(container, key) of a value and of all within it."""
    found, waiting = [], [(parent, key, value)]
    while waiting:
        parent, key, value = waiting.pop()
        found.append((parent, key))
        if isinstance(value, (dict, list)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(value, k, v) for k, v in items]
    return found


def _change(rng: random.Random, parent, key, others: list) -> None:
    action = rng.choice("hostile hostile hostile other nudge wrap drop rename repeat".split())
    value = parent[key]
    if action == "hostile":
        parent[key] = copy.deepcopy(rng.choice(HOSTILE))
    elif action == "other":
        parent[key] = copy.deepcopy(rng.choice(others))
    elif action == "nudge" and isinstance(value, (int, float)):
        parent[key] = value + rng.choice((-1, 1, 8, 1000, 0.5))
    elif action == "nudge" and isinstance(value, str):
        parent[key] = damaged_bytes(rng, value.encode(errors="replace")).decode(errors="replace")
    elif action == "drop":
        del parent[key]
    elif action == "rename" and isinstance(parent, dict):
        parent[str(rng.choice(HOSTILE))[:50]] = parent.pop(key)
    elif action == "repeat" and isinstance(parent, list):
        parent += [copy.deepcopy(value)] * rng.choice((1, 3, 500))
    else:
        parent[key] = rng.choice(([value], {"": value}, str(value)[:5000]))


def damaged_bytes(rng: random.Random, data: bytes, times: int = 0) -> bytes:
    """Bytes with bits flipped, numbers overwritten, spans cut, repeated, moved or replaced."""
    data = bytearray(data)
    for _ in range(times or rng.choice((1, 1, 2, 3, 8))):
        _damage(rng, data)
    return bytes(data)


def _damage(rng: random.Random, data: bytearray) -> None:
    if not data:
        data += rng.randbytes(rng.randrange(SPAN_BYTES))
        return
    # Half of the damage goes to the beginning, where the headers are.
    place = rng.randrange(rng.choice((len(data), min(len(data), 2 * SPAN_BYTES))))
    span = slice(place, place + rng.randrange(1, SPAN_BYTES))
    action = rng.choice("flip flip set number number truncate cut repeat random splice".split())
    if action == "flip":
        data[place] ^= 1 << rng.randrange(8)
    elif action == "set":
        data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif action == "number":
        width = rng.choice((2, 4, 8))
        number = rng.choice(LONG_INTEGERS) % 2 ** (8 * width)
        data[place : place + width] = number.to_bytes(width, rng.choice(("little", "big")))
    elif action == "truncate" and rng.random() < 0.5:
        del data[place:]
    elif action == "cut":
        del data[span]
    elif action == "repeat":
        data[place:place] = data[span] * rng.choice((1, 2, 100))
    elif action == "random":
        data[span] = rng.randbytes(span.stop - span.start)
    else:
        source = rng.randrange(len(data))
        data[span] = data[source : source + rng.randrange(4 * SPAN_BYTES)]


def damaged_json(rng: random.Random, value) -> bytes:
    """JSON text: changed values, duplicate keys, deep nesting, or damaged characters."""
    way = rng.randrange(10)
    if way == 0:
        depth = rng.choice((50, 900, 1100, 100_000))
        return b"[" * depth + b"]" * rng.choice((depth, 0))
    if way == 1:
        return damaged_bytes(rng, json.dumps(value).encode())
    text = json.dumps(damaged_value(rng, value))
    if way == 2:
        text = text.replace("{", '{"a": 1, "a": 2, ', 1)
    if way == 3:
        text = text.replace("1", "9" * 6000, 1)  # more digits than Python turns into a number
    if way == 4:
        return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")), "replace")
    return text.encode(errors="surrogatepass")


def damaged_safetensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with a changed header, or with damaged bytes."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    way = rng.randrange(4)
    if way == 0:
        return damaged_bytes(rng, data)
    if way == 1 and "zoobot" in header.get("__metadata__", {}):
        inner = json.loads(header["__metadata__"]["zoobot"])
        header["__metadata__"]["zoobot"] = damaged_json(rng, inner).decode(errors="replace")
        text = json.dumps(header).encode()
    else:
        text = damaged_json(rng, header)
    told = len(text) if rng.random() < 0.9 else rng.choice(LONG_INTEGERS) % 2**64
    return told.to_bytes(8, "little") + text + data[8 + length :]


def damaged_zip(rng: random.Random, data: bytes) -> bytes:
    """A zip archive with a damaged, missing, repeated or added member, or with damaged bytes."""
    way = rng.randrange(4)
    if way == 0:
        return damaged_bytes(rng, data)
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    names = source.namelist()
    pickles = [name for name in names if name.endswith(".pkl")]
    chosen = rng.choice(pickles if pickles and rng.random() < 0.7 else names)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            content = source.read(name)
            if name == chosen and way == 1:
                continue
            if name == chosen:
                content = damaged_bytes(rng, content)
            archive.writestr(name, content)
        if way == 3:
            archive.writestr(rng.choice(("../escape", "/escape", "a/constants.pkl")), b"x")
    return target.getvalue()


def damaged_png(rng: random.Random, data: bytes) -> bytes:
    """A PNG with a changed chunk whose checksum is right, so that the decoder takes it."""
    chunks, place = [], 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append([data[place + 4 : place + 8], data[place + 8 : place + 8 + length]])
        place += 12 + length
    chunk = rng.choice((chunks[0], rng.choice(chunks)))
    if chunk[0] == b"IHDR" and rng.random() < 0.5:
        sides = [rng.choice((0, 1, 9_999, 10_000, 65_536, 2**31 - 1, 2**32 - 1)) for _ in "wh"]
        chunk[1] = struct.pack(">II", *sides) + chunk[1][8:]
    elif chunk[0] == b"IDAT" and rng.random() < 0.5:
        chunk[1] = zlib.compress(damaged_bytes(rng, zlib.decompress(chunk[1])))
    else:
        chunk[1] = damaged_bytes(rng, chunk[1])
    if rng.random() < 0.2:
        text = b"a\0\0" + zlib.compress(bytes(rng.choice((10, 2**20, 2**27))))
        chunks.insert(1, [rng.choice((b"zTXt", b"iCCP", b"eXIf")), text])
    parts = [data[:8]]
    for kind, body in chunks:
        check = zlib.crc32(kind + body)
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check))
    return b"".join(parts)


def damaged_tar(rng: random.Random, data: bytes) -> bytes:
    """A tar with a changed member header whose checksum is right, or with damaged bytes."""
    if rng.random() < 0.4:
        return damaged_bytes(rng, data)
    data = bytearray(data)
    headers = [i for i in range(0, len(data), 512) if data[i + 257 : i + 262] == b"ustar"]
    start = rng.choice(headers)
    field, width = rng.choice(((0, 100), (124, 12), (156, 1), (157, 100), (345, 155), (100, 8)))
    values = (b"0", b"7" * 11, b"\x80" + b"\xff" * 11, b"-1", b"../../x.image.jpg", b"/x.json")
    values += (b"1", b"2", b"3", b"L", b"K", b"x", b"g", b"S", rng.randbytes(width))
    data[start + field : start + field + width] = rng.choice(values)[:width].ljust(width, b"\0")
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return bytes(data)


def damaged_fits(rng: random.Random, data: bytes) -> bytes:
    """A FITS file with a changed card, or with damaged bytes."""
    if rng.random() < 0.4:
        return damaged_bytes(rng, data)
    data = bytearray(data)
    cards = [i for i in range(0, len(data), 80) if data[i + 8 : i + 10] == b"= "]
    start = rng.choice(cards)
    value = rng.choice(
        (
            *INTEGERS,
            -1,
            -32,
            -64,
            8,
            10**18,
            10**30,
            "T",
            "F",
            "'x'",
            "'100000000J'",
            "nan",
            "1e999",
        )
        + (
            "'P(99999999)'",
            "'1PB(0)'",
            "''",
            "/",
            "'RICE_1'",
            "'GZIP_1'",
            "'PLIO_1'",
            "'HCOMPRESS_1'",
        )
    )
    data[start + 10 : start + 80] = str(value).rjust(20).ljust(70).encode()[:70]
    return bytes(data)


def damaged_npy(rng: random.Random, data: bytes) -> bytes:
    """An .npy array with a changed shape, type or header, or with damaged bytes."""
    if rng.random() < 0.3:
        return damaged_bytes(rng, data)
    length = int.from_bytes(data[8:10], "little")
    header = ast.literal_eval(data[10 : 10 + length].decode())
    header["shape"] = [*header["shape"]]
    header = damaged_value(rng, header) if rng.random() < 0.3 else header
    if isinstance(header, dict) and isinstance(header.get("shape"), list):
        if header["shape"] and rng.random() < 0.6:
            header["shape"][rng.randrange(len(header["shape"]))] = rng.choice((*LONG_INTEGERS, -1))
        header["shape"] = tuple(header["shape"])
        types = ("|O", "<U0", "<f8", "|b1", "<c8", [("a", "<f4")], "<f2", ">u2", "<m8", "|V8")
        if rng.random() < 0.3:
            header["descr"] = rng.choice(types)
    text = repr(header).encode(errors="replace") + b"\n"
    told = len(text) if rng.random() < 0.9 else rng.choice(INTEGERS)
    return b"\x93NUMPY\2\0" + (told % 2**32).to_bytes(4, "little") + text + data[10 + length :]


def damaged_npz(rng: random.Random, data: bytes) -> bytes:
    """An .npz with a damaged array, repeated, packed in another way, or with damaged bytes."""
    if rng.random() < 0.4:
        return damaged_zip(rng, data)
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    ways = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
    with zipfile.ZipFile(target, "w", rng.choice(ways)) as archive:
        for name in source.namelist():
            content = source.read(name)
            archive.writestr(name, damaged_npy(rng, content) if rng.random() < 0.7 else content)
    content = target.getvalue()
    return damaged_bytes(rng, content) if rng.random() < 0.1 else content
