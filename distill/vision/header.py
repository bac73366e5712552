"""Height and width of an encoded image by its header, without unpacking a pixel.

A few bytes can declare pixels of any number, so the sizes are known before memory is taken.
Of files with several images it is the first one, as decoders give it.
"""

import struct
from collections.abc import Iterator


JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's markers of a frame, by coding
STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
TIFF = (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+")  # both orders of bytes, and BigTIFF
TIFF_WIDTH, TIFF_HEIGHT, TIFF_ORIENTATION = 256, 257, 274
TIFF_FORMATS = {3: "H", 4: "I", 16: "Q"}  # short, long, and BigTIFF's long
TIFF_ENTRIES = 4096  # a directory of more is no image's

Size = tuple[int, int]  # height and width


def size_of(data: bytes) -> Size | None:
    """Height and width of a JPEG, PNG, WebP, BMP, GIF or TIFF file; None of any other."""
    for magic, read in FORMATS.items():
        if data.startswith(magic):
            try:
                return read(data)
            except (struct.error, IndexError, OverflowError):  # what is wanted lies beyond its end
                return None
    return None


def _jpeg(data: bytes) -> Size | None:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker in FRAMES:
            return struct.unpack_from(">HH", data, at + 5)
        if marker == 0xFF:  # a byte of fill
            at += 1
        else:
            at += 2 if marker in STANDALONE else 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _png(data: bytes) -> Size:
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _gif(data: bytes) -> Size:
    width, height = struct.unpack_from("<HH", data, 6)
    return height, width


def _bmp(data: bytes) -> Size:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # the header of OS/2
        width, height = struct.unpack_from("<HH", data, 18)
        return height, width
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), width  # negative: the rows go down


def _webp(data: bytes) -> Size | None:
    kind = data[8:16]
    if kind == b"WEBPVP8X":
        width, height = data[24:27], data[27:30]
        return 1 + int.from_bytes(height, "little"), 1 + int.from_bytes(width, "little")
    if kind == b"WEBPVP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None


def _tiff(data: bytes) -> Size | None:
    found: dict[int, int] = {}
    for tag, kind, at in _tiff_entries(data):
        if tag in (TIFF_WIDTH, TIFF_HEIGHT) and kind in TIFF_FORMATS:
            (value,) = struct.unpack_from(_tiff_order(data) + TIFF_FORMATS[kind], data, at)
            found.setdefault(tag, value)
    return (found[TIFF_HEIGHT], found[TIFF_WIDTH]) if len(found) == 2 else None


def _tiff_order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


def _tiff_entries(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Tag and type of each entry of the first directory, and where its value stands."""
    order, big = _tiff_order(data), 43 in data[2:4]
    start = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0]
    count, entries, length, value = ("Q", 8, 20, 12) if big else ("H", 2, 12, 8)
    number = struct.unpack_from(order + count, data, start)[0]
    for k in range(min(number, TIFF_ENTRIES)):
        at = start + entries + length * k
        yield *struct.unpack_from(f"{order}HH", data, at), at + value


def upright(data: bytes) -> bytes:
    """A TIFF file whose pixels are to be shown as they lie: OpenCV would turn them."""
    try:
        for tag, _, at in _tiff_entries(data):
            if tag == TIFF_ORIENTATION:
                return data[:at] + struct.pack(f"{_tiff_order(data)}H", 1) + data[at + 2 :]
    except (struct.error, OverflowError):
        pass  # It ends within its directory, as its decoder will say.
    return data


FORMATS = {
    JPEG: _jpeg,
    PNG: _png,
    b"RIFF": _webp,
    b"BM": _bmp,
    b"GIF8": _gif,
    **dict.fromkeys(TIFF, _tiff),
}
