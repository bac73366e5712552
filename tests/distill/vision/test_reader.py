import struct
import threading
import zlib

import numpy as np
import pytest
import simplejpeg

from distill.vision import images, sources
from distill.vision.reader import Reader
from moshijax.system.errors import UserError


def png(width, height):
    """A PNG file whose header says so, with next to no pixels."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    return images.PNG + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


GOOD = simplejpeg.encode_jpeg(np.full((20, 30, 3), 99, np.uint8))


def source(tmp_path, *files):
    for k, content in enumerate(files):
        path = tmp_path / f"ant/{k:02}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return sources.load(f"folder:{tmp_path}", "all")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (png(60000, 60000), "60000 by 60000 pixels are more than the 100,000,000 that are read"),
        (png(0, 40), "a header of 0 by 40 pixels"),
        (png(9000, 9000), "cannot hold 9000 by 9000 pixels"),
        (b"", "not the start of a JPEG, PNG, WebP, BMP, GIF or TIFF file"),
        (png(20, 30)[:40], "ends early"),
        (png(20, 30).replace(b"IDAT", b"IDAU"), "OpenCV does not read it"),
    ],
    ids=["huge", "zero", "hollow", "empty", "short", "bare"],
)
def test_a_picture_that_cannot_be_is_skipped_or_stops_a_run_by_name(tmp_path, content, why):
    found = source(tmp_path, content, GOOD)
    reader = Reader(found, "skip")
    item, pixels = reader.decode(reader.read(0))
    assert item.index == 1
    assert pixels.shape == (20, 30, 3)
    assert reader.corrupt == {0}
    stopping = Reader(found, "stop")
    with pytest.raises(UserError, match=why):
        stopping.decode(stopping.read(0))


def test_a_link_to_nothing_is_skipped(tmp_path):
    found = source(tmp_path, GOOD, GOOD)
    (tmp_path / "ant/00.png").unlink()
    (tmp_path / "ant/00.png").symlink_to("nothing")
    reader = Reader(sources.load(f"folder:{tmp_path}", "all"), "skip")
    assert len(found) == len(reader.source) == 2
    assert reader.read(0).index == 1


def test_corrupt_rows_are_told_once_and_counted_at_the_end(tmp_path, caplog):
    reader = Reader(source(tmp_path, b"", b"x", b"", GOOD), "skip")
    with caplog.at_level("INFO"):
        for _ in range(3):
            assert reader.read(0).index == 3
        reader.tell_corrupt()
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in told] == ["WARNING", "INFO", "INFO", "WARNING"]
    assert "Row 0 of folder:" in told[0][1]
    assert told[-1][1].startswith("3 of 4 rows of folder:")


def test_a_set_that_is_well_ends_without_a_word(tmp_path, caplog):
    reader = Reader(source(tmp_path, GOOD), "skip")
    reader.read(0)
    reader.tell_corrupt()
    assert not caplog.records


def test_a_file_is_told_once_by_its_name_whoever_reads_it(tmp_path, caplog):
    found = source(tmp_path, b"", GOOD)
    for _ in range(3):
        assert Reader(found, "skip").read(0).index == 1
    assert [record.getMessage().split(" is ")[0] for record in caplog.records] == [
        f"Row 0 of folder:{tmp_path}, split all (ant/00.png)"
    ]


def test_a_closed_reader_has_no_threads_and_still_reads(tmp_path):
    before = set(threading.enumerate())
    reader = Reader(source(tmp_path, GOOD, GOOD), "stop", threads=2)
    assert [item.index for item in reader.map(reader.read, range(2))] == [0, 1]
    own = set(threading.enumerate()) - before
    assert own
    reader.close()
    for thread in own:
        thread.join(10)
    assert not any(thread.is_alive() for thread in own)
    assert [item.index for item in reader.map(reader.read, range(2))] == [0, 1]
