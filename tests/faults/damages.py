"""Ways to damage a safetensors file, by name."""


def in_header(content, share):
    """A place in the header of a safetensors file."""
    return 8 + int(share * int.from_bytes(content[:8], "little"))


def flipped(content, place):
    altered = bytearray(content)
    altered[place] ^= 1
    return bytes(altered)


DAMAGES = {
    "empty": lambda content: b"",
    "within the header's length": lambda content: content[:5],
    "no header": lambda content: content[:8],
    "within the header": lambda content: content[: in_header(content, 0.5)],
    "no tensors": lambda content: content[: in_header(content, 1)],
    "within the tensors": lambda content: content[: in_header(content, 1) + 20],
    "last byte missing": lambda content: content[:-1],
    "a byte too many": lambda content: content + b"x",
    "zeros": lambda content: bytes(len(content)),
    "first byte flipped": lambda content: flipped(content, 0),
    "header flipped": lambda content: flipped(content, in_header(content, 0.5)),
    "first value flipped": lambda content: flipped(content, in_header(content, 1)),
    "last byte flipped": lambda content: flipped(content, -1),
}
