"""Where the parts of a joined file begin: chained Ogg, and files that were put one after another.

FFmpeg itself goes on from part to part in the others, such as MP3, AAC, MPEG-TS and WebM.
"""

import os
import re
import struct
from collections.abc import Iterator
from typing import IO


CHUNK = 1 << 20  # bytes
OGG_PAGE = re.compile(rb"OggS\0(.)", re.DOTALL)
OGG_FIRST = 2  # the flag of a stream's first page
FLAC_START = re.compile(rb"fLaC[\0\x80]\0\0\x22")  # and a STREAMINFO of 34 bytes
LEAST_UNKNOWN = 0x7FFF0000  # bytes; writers to a pipe give a length of about 2 or 4 GiB, or 0
LEAST_UNKNOWN_W64 = 1 << 62
MOST_BOXES = 1_000_000  # of an MP4; a day in fragments of a second has 200,000


def find_starts(file: IO[bytes]) -> list[int]:
    """Returns the positions of a file at which a decoder has to begin anew, 0 among them."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if OGG_PAGE.match(head):
        starts = list(_ogg_links(file))
    elif FLAC_START.match(head):
        starts = [at for at, _ in _find(file, FLAC_START, 8)]
    elif head[:4] in (b"RIFF", b"FORM") and len(head) == 12:
        starts = list(_chunks(file, size, head[:4], head[8:12]))
    elif head[4:8] == b"ftyp":
        starts = list(_movies(file, size))
    else:
        starts = [0]
    return starts


def promised_size(file: IO[bytes]) -> int | None:
    """Returns the bytes that a WAV, W64 or AIFF says it has, unless it was written to a pipe."""
    file.seek(0)
    head = file.read(24)
    if head[:4] == b"riff" and len(head) == 24:
        length = struct.unpack("<Q", head[16:])[0]
        return length if length < LEAST_UNKNOWN_W64 else None
    if head[:4] not in (b"RIFF", b"FORM") or len(head) < 12:
        return None
    length = _length(head)
    return 8 + length if length < LEAST_UNKNOWN else None


def _length(head: bytes) -> int:
    return struct.unpack("<I" if head[:4] == b"RIFF" else ">I", head[4:8])[0]


def _find(file: IO[bytes], pattern: re.Pattern[bytes], width: int) -> Iterator[tuple[int, bytes]]:
    """Yields where a pattern of some width is in a file of any length, and what is there."""
    file.seek(0)
    base, data = 0, b""
    while chunk := file.read(CHUNK):
        data += chunk
        for match in pattern.finditer(data):
            yield base + match.start(), match[0]
        keep = min(len(data), width - 1)  # too few for a match, so that none comes twice
        base, data = base + len(data) - keep, data[len(data) - keep :]


def _ogg_links(file: IO[bytes]) -> Iterator[int]:
    """The starts of chained links: each begins with the first pages of its streams."""
    was_first = False
    for at, page in _find(file, OGG_PAGE, 6):
        is_first = bool(page[-1] & OGG_FIRST)
        if is_first and not was_first:
            yield at
        was_first = is_first


def _chunks(file: IO[bytes], size: int, kind: bytes, form: bytes) -> Iterator[int]:
    """The starts of joined WAVs or AIFFs: each begins where the one before says that it ends."""
    at = 0
    while at + 12 <= size:
        file.seek(at)
        head = file.read(12)
        if head[:4] != kind or head[8:] != form:
            return
        yield at
        at += 8 + _length(head) + _length(head) % 2


def _movies(file: IO[bytes], size: int) -> Iterator[int]:
    """The starts of joined MP4s: another begins at an `ftyp` box after a `moov` box, the index."""
    at, indexed = 0, True
    for _ in range(MOST_BOXES):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        kind = head[4:8]
        if kind == b"ftyp" and indexed:
            yield at
            indexed = False
        indexed |= kind == b"moov"
        length = struct.unpack(">I", head[:4])[0]
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        if length < 8 or at + length >= size:
            return
        at += length
