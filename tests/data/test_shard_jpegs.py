import io

import numpy as np
import pytest
from PIL import Image
from small_shards import in_memory, write

from zoobot.data.images import read_image
from zoobot.data.shards.jpeg import without_notes
from zoobot.data.shards.reader import open_shards

NOTES = b"told-"


def pixels(mode="RGB", size=(24, 17)):
    values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), np.uint8)
    return Image.fromarray(values if mode == "CMYK" else values[..., :3], mode=None).convert(mode)


def noted(mode="RGB", **options):
    """A JPEG that tells more than pixels, in each place where it can."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x010E] = "told-exif"
    pixels(mode).save(
        file, "JPEG", exif=exif, comment=b"told-comment", icc_profile=b"told-icc", **options
    )
    jpeg = file.getvalue()
    small = b"JFIF\0\1\2\0\0\1\0\1" + bytes([2, 1]) + NOTES + b"2"  # a picture of two pixels
    extra = b"\xff\xe0" + (len(small) + 2).to_bytes(2, "big") + small
    extra += b"\xff\xe1\0\x0atold-xmp" + b"\xff\xed\0\x0btold-iptc"
    return jpeg[:2] + extra + jpeg[2:] + b"told-behind"


OPTIONS = [
    {},
    {"progressive": True, "restart_marker_blocks": 2},
    {"subsampling": "4:2:0", "optimize": True},
    {"keep_rgb": True},
    {"mode": "L"},
    {"mode": "CMYK"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_a_jpeg_without_notes_has_the_same_pixels_and_nothing_else(options):
    jpeg = noted(**options)
    assert jpeg.count(NOTES) >= 7
    plain = without_notes(jpeg)
    assert NOTES not in plain
    for channels in (1, 3):
        found = [np.asarray(read_image(each, channels)) for each in (jpeg, plain)]
        np.testing.assert_array_equal(*found)
    assert without_notes(plain) == plain


def test_a_jpeg_that_is_out_of_order_is_not_taken_apart():
    jpeg = noted()
    for place in range(2, len(jpeg), 3):
        for torn in (jpeg[:place], jpeg[:place] + b"\0" + jpeg[place:]):
            plain = without_notes(torn)
            assert plain is None or NOTES not in plain
    for broken in (b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xe1\xff\xff", b"\x89PNG"):
        assert without_notes(broken) is None


def test_shards_have_no_notes_of_images_unless_they_are_to_be_kept(tmp_path):
    comment = Image.open(io.BytesIO(noted()))  # which Pillow writes again if it is shrunk
    assert comment.info["comment"] == b"told-comment"
    table = in_memory(2).assign(image=[noted(), noted("CMYK")])
    write(table, tmp_path / "small", img_size=20)
    write(table, tmp_path / "shrunk", img_size=10)
    write(table, tmp_path / "kept", img_size=20, keep_metadata=True)
    for name, is_kept in (("small", False), ("shrunk", False), ("kept", True)):
        shards = open_shards(tmp_path / name, "train")
        found = {shards.id_str(i): bytes(shards.source(i)) for i in range(2)}
        assert all((NOTES in jpeg) == is_kept for jpeg in found.values())
        if is_kept:
            assert found["g0"] == noted()
    with pytest.raises(ValueError, match=r"other keep_metadata \(True, now False\)"):
        write(table, tmp_path / "kept", img_size=20)
