"""A JPEG's bytes without the notes in it: where and by whom a picture was taken, and the like."""

import re

START, END = 0xD8, 0xD9
SCAN = 0xDA
# Frames, tables, scans, and how they are divided: all that a decoder needs.
OF_PIXELS = {*range(0xC0, 0xD0), SCAN, 0xDB, 0xDC, 0xDD} - {0xC8}
# Segments that tell how colours are stored, and how much of each does: JFIF's also has a picture.
JFIF, ADOBE = 0xE0, 0xEE
MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
AFTER_SCAN = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)


def without_notes(jpeg: bytes) -> bytes | None:
    """The JPEG without EXIF, colour profile, comments, small pictures, and what follows its end.

    Its pixels are the same: none of this is looked at when an image is read.

    Returns:
        The bytes; None if they are not in the order that they should be.
    """
    kept, place = [bytes([0xFF, START])], 2
    if jpeg[:2] != kept[0]:
        return None
    pattern = MARKER.match
    while found := pattern(jpeg, place):
        marker, place = found[1][0], found.end()
        if marker == END:
            return b"".join([*kept, bytes([0xFF, END])]) if pattern == AFTER_SCAN.search else None
        end = place + int.from_bytes(jpeg[place : place + 2], "big")
        if end < place + 2 or end > len(jpeg):
            return None
        segment, pattern = jpeg[place + 2 : end], MARKER.match
        if marker == JFIF:
            is_kept = segment.startswith(b"JFIF\0") and len(segment) >= 14
            segment = segment[:12] + bytes(2)  # the sides of its small picture
        elif marker == ADOBE:
            is_kept = segment.startswith(b"Adobe") and len(segment) >= 12
            segment = segment[:12]
        else:
            is_kept = marker in OF_PIXELS
        if is_kept:
            kept += [bytes([0xFF, marker]), (len(segment) + 2).to_bytes(2, "big"), segment]
        place = end
        if marker == SCAN:
            pattern = AFTER_SCAN.search
            found = pattern(jpeg, place)
            if found is None:
                return None
            kept.append(jpeg[place : found.start()])
            place = found.start()
    return None
