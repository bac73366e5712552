"""PNG files without what is beside the pixels, checked before libpng complains of them."""

import struct
import zlib

from distill.vision.header import PNG


DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colours
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PALETTE = 3
LONGEST_SIDE = 1_000_000  # of libpng
BEST_RATIO = 1032  # of deflate: no byte becomes more
METHODS = ([0, 0, 0], [0, 0, 1])  # of compression, filters and interlacing
KEPT = {b"IHDR", b"PLTE", b"IDAT"}
END = b"\0\0\0\0IEND\xaeB`\x82"


def pixels_only(data: bytes) -> bytes:
    """The file with the chunks that make pixels alone, so that nothing else can be wrong.

    Profiles, texts, transparency and the frames of an animation change no pixel here, but
    libpng writes to the terminal about many of them.

    Raises:
        ValueError: the file ends early, or a chunk's bytes are not those of its checksum.
    """
    _check_header(data)
    at, kept = len(PNG), [PNG]
    while True:
        if at + 12 > len(data):
            raise ValueError("the PNG file ends early")
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        if kind == b"IEND":
            return b"".join((*kept, END))
        if kind == b"IDAT" and data[25] == PALETTE and not any(c[4:8] == b"PLTE" for c in kept):
            raise ValueError("the PNG file has no palette before its pixels")
        end = at + 12 + length
        if end > len(data):
            raise ValueError("the PNG file ends early")
        if kind in KEPT:
            checked = memoryview(data)[at + 4 : end - 4]
            if zlib.crc32(checked) != struct.unpack_from(">I", data, end - 4)[0]:
                raise ValueError(f"the checksum of a PNG chunk {kind.decode()} is wrong")
            kept.append(data[at:end])
        at = end


def _check_header(data: bytes) -> None:
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise ValueError("the PNG file has no header")
    width, height, depth, colours, *methods = struct.unpack_from(">IIBBBBB", data, 16)
    if depth not in DEPTHS.get(colours, ()) or methods not in METHODS:
        raise ValueError("the PNG file's header names no kind of PNG")
    least = height * width * depth * SAMPLES[colours] / 8 / BEST_RATIO
    if max(width, height) > LONGEST_SIDE or len(data) < least:
        raise ValueError(f"the PNG file cannot hold {width} by {height} pixels")
