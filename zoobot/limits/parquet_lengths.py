"""Count the lengths of texts that a page of a Parquet column claims within its data.

In two encodings pyarrow makes room for as many lengths as the data says there are, not as many as
the page has values.
"""

import pyarrow as pa

from zoobot.limits.memory import check_memory
from zoobot.limits.thrift import StructReader
from zoobot.system.errors import UserError

LENGTHS, SHARED_STARTS = 6, 7  # encodings: DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY
STREAMS = {LENGTHS: 1, SHARED_STARTS: 2}  # of lengths; of what is shared, and of what follows
CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
NOT_PACKED = 0


def unpacked_page(content: bytes, codec: int, num_bytes: int) -> bytes:
    """A page's bytes, unpacked.

    Raises:
        ValueError: it is damaged, takes more memory than is free, or is packed otherwise.
    """
    if codec == NOT_PACKED:
        return content
    if codec not in CODECS:
        raise UserError("texts in a DELTA encoding are packed in a way that can't be looked into")
    check_memory(num_bytes, "a page of it")
    return pa.decompress(content, num_bytes, CODECS[codec], asbytes=True)


def check_lengths(content: bytes, encoding: int, num_values: int) -> None:
    """ValueError if there are more lengths than values, or the lengths are cut short.

    Args:
        content: of a page, behind its levels.
        encoding: one of ``STREAMS``.
        num_values: that the page has.
    """
    if not content:  # all are missing
        return
    reader = StructReader(content)
    try:
        for _ in range(STREAMS[encoding]):
            _pass_lengths(reader, num_values)
    except IndexError:
        raise UserError("a page of it ends within the lengths of its texts") from None


def _pass_lengths(reader: StructReader, num_values: int) -> None:
    """Go beyond numbers in Parquet's DELTA_BINARY_PACKED."""
    block_size, num_parts, count = (reader.unsigned() for _ in range(3))
    if count > num_values:
        raise UserError(f"a page of it claims {count:,} lengths of {num_values:,} texts")
    reader.unsigned()  # the first number
    if not num_parts or not block_size or block_size % (32 * num_parts):
        raise UserError("a page of it has lengths of texts in parts of another size than Parquet's")
    part_size, left = block_size // num_parts, count - 1
    while left > 0:
        reader.unsigned()  # the smallest difference
        widths = reader.take(num_parts)
        for bits in widths:
            if left > 0:
                reader.take(-(-part_size * bits // 8))
            left -= part_size
