"""JPEG files cut to their upper rows, by a smaller height in the header."""

import struct


BASELINE, EXTENDED = 0xC0, 0xC1
START_OF_SCAN = 0xDA
STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
BLOCK = 16  # rows of the largest coded unit, at twofold vertical subsampling


def upper_rows(data: bytes, bottom: int) -> bytes:
    """Rewrites a file's height so that decoding stops soon after row `bottom`.

    The rows above come out the same. Whatever does not hold its rows in order, in one scan
    of two-row units at most, is returned as it is.
    """
    frame = _frame(data)
    if frame is None:
        return data
    height, at = frame
    # The last row of a block takes a part of its colour from the first row of the next.
    kept = (bottom // BLOCK + 1) * BLOCK
    if kept >= height:
        return data
    return b"".join((data[:at], struct.pack(">H", kept), data[at + 2 :]))


def _frame(data: bytes) -> tuple[int, int] | None:
    """The height and its offset in the file, if the file can be cut."""
    at, frame, components = 2, None, 0
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (BASELINE, EXTENDED):
            height, components = struct.unpack_from(">H", data, at + 5)[0], data[at + 9]
            sampling = data[at + 11 : at + 10 + 3 * components : 3]
            if all(factors & 15 <= 2 for factors in sampling):
                frame = height, at + 5
        elif marker == START_OF_SCAN:
            return frame if data[at + 4] == components else None
        at += 2 if marker in STANDALONE else 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None
