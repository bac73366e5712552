import io
import os
import resource

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from moshijax.data import windows
from moshijax.data.order import Purpose, Stream
from moshijax.data.records import check_codes
from moshijax.data.windows import (
    EvalWindows,
    Made,
    Shards,
    TrainWindows,
    load,
    write_shard,
)
from moshijax.lm.presets import PRESETS
from moshijax.system.errors import UserError
from tests.lm_models import random_codes


CONFIG = PRESETS["moshi_7b_tiny"]
WINDOWS = [random_codes(CONFIG, 1, length, seed=length)[0] for length in (20, 9, 31, 12, 15)]


@pytest.fixture
def shards(tmp_path):
    write_shard(tmp_path / "codes-0.array_record", WINDOWS[:3])
    write_shard(tmp_path / "codes-1.array_record", WINDOWS[3:])
    return str(tmp_path / "codes-*.array_record")


def test_made_codes_and_cuts_have_random_streams_of_their_own(monkeypatch):
    purposes = []

    def stream(seed, order, step, purpose):
        purposes.append(purpose)
        return Stream(seed, order, step, purpose)

    monkeypatch.setattr(windows, "Stream", stream)
    made = Made(4, 20, CONFIG)
    TrainWindows(made, kind="audio", batch_size=2, length=12, seed=0).batch(1)
    assert sorted(purposes) == [Purpose.CUT, Purpose.MADE, Purpose.MADE]


def test_shards_hold_what_was_written(shards):
    found = load(shards, 12, CONFIG)
    assert len(found) == 5
    for i, codes in enumerate(WINDOWS):
        np.testing.assert_array_equal(found[i], codes)
        assert found[i].dtype == np.int32


def test_shards_that_nobody_reads_any_more_are_closed(shards):
    def opened():
        links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
        return [
            path for path in map(os.readlink, filter(os.path.islink, links)) if "codes-" in path
        ]

    found = load(shards, 12, CONFIG)
    assert [len(found[0]), len(found[4])] == [17, 17]
    assert len(opened()) == 2
    del found
    assert opened() == []


def test_training_windows_are_cut_and_padded(shards):
    data = TrainWindows(load(shards, 12, CONFIG), kind="audio", batch_size=5, length=12, seed=1)
    codes = data.batch(3)["codes"]
    assert codes.shape == (5, 17, 12)
    for row in codes:
        length = 9 if (row[:, 9:] == -1).all() else 12
        assert any(
            (row[:, :length] == window[:, i : i + length]).all()
            for window in WINDOWS
            for i in range(window.shape[1] - length + 1)
        )


def test_rows_are_those_of_the_whole_batch(shards):
    data = TrainWindows(load(shards, 12, CONFIG), kind="audio", batch_size=4, length=12, seed=1)
    whole = data.batch(7, order=2)["codes"]
    np.testing.assert_array_equal(data.batch(7, 2, np.array([1, 3]))["codes"], whole[[1, 3]])
    assert (data.batch(8, order=2)["codes"] != whole).any()
    assert (data.batch(7, order=1)["codes"] != whole).any()


def test_evaluation_sees_each_window_once(shards):
    data = EvalWindows(load(shards, 12, CONFIG), batch_size=2, length=12)
    assert data.num_batches == 3
    rows = np.concatenate([data.batch(i)["codes"] for i in range(3)])
    np.testing.assert_array_equal(rows[0], WINDOWS[0][:, :12])
    assert (rows[1][:, 9:] == -1).all()
    assert (rows[5] == -1).all()


def test_made_windows_are_of_the_model_and_differ():
    made = Made(3, 16, CONFIG)
    for i in range(3):
        check_codes(made[i], CONFIG, "made")
    assert (made[0] != made[1]).any()
    np.testing.assert_array_equal(made[1], Made(3, 16, CONFIG)[1])


def write_records(path, *records):
    """A shard of records that `write_shard` would refuse."""
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return str(path)


def array_file(array):
    """The bytes of a NumPy array file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype.hasobject)
    return file.getvalue()


def with_one(value):
    codes = WINDOWS[0].astype(type(value))
    codes[4, 7] = value
    return codes


WRONG = [
    (WINDOWS[0][:9], "codes of shape \\[9, 20\\]; the model has 17 streams"),
    (WINDOWS[0][0], "codes of shape \\[20\\]"),
    (WINDOWS[0][:, :0], "codes of shape \\[17, 0\\].* windows without a frame"),
    (with_one(40), "stream 4 holds 40 at frame 7; codes are -1 .* to 39"),
    (with_one(-2), "stream 4 holds -2 at frame 7"),
    (with_one(np.uint64(2**64 - 1)), "stream .* holds 18446744073709551615 at frame"),
    (np.float32(WINDOWS[0]), "codes of type float32; they are whole numbers"),
    (with_one(1.5), "codes of type float64"),
    (WINDOWS[0] > 3, "codes of type bool"),
    (np.complex64(WINDOWS[0]), "codes of type complex64"),
    (np.full(WINDOWS[0].shape, {}), "codes of type object"),
]


@pytest.mark.parametrize(("codes", "message"), WRONG)
def test_codes_of_no_model_or_another_are_found_before_a_run(tmp_path, codes, message):
    good = array_file(WINDOWS[0])
    path = write_records(tmp_path / "bad.array_record", good, array_file(codes), good)
    with pytest.raises(UserError, match=f"record 1 of .*bad.array_record: {message}"):
        load(path, 12, CONFIG)


@pytest.mark.parametrize("codes", [codes for codes, _ in WRONG[1:3] + WRONG[4:]])
def test_they_are_not_written_either(tmp_path, codes):
    with pytest.raises(UserError, match=r"window 1 for .*bad.array_record: "):
        write_shard(tmp_path / "bad.array_record", [WINDOWS[0], codes])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["i1", "<i2", ">i2", ">i4", "<i8", "u1", ">u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_type_of_whole_numbers_is_read_and_written(tmp_path, kind, order):
    codes = np.asarray(np.maximum(WINDOWS[0], 0), kind, order=order)
    theirs = load(write_records(tmp_path / "a.array_record", array_file(codes)), 12, CONFIG)
    write_shard(tmp_path / "b.array_record", [codes])
    ours = load(str(tmp_path / "b.array_record"), 12, CONFIG)
    for found in (theirs[0], ours[0]):
        np.testing.assert_array_equal(found, codes)
        assert found.dtype == np.int32


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"nothing", "is no array file"),
        (
            array_file(WINDOWS[0])[:-2],
            "is damaged: .* are 1360 bytes, but it holds 1358",
        ),
        (array_file(WINDOWS[0]).replace(b"(17, 20)", b"(17, 10**9)"), "is no array file"),
        (array_file(WINDOWS[0]).replace(b"20), }      ", b"2000000000),}"), "is damaged"),
    ],
)
def test_a_record_that_is_no_array_is_named(tmp_path, record, message):
    path = write_records(tmp_path / "bad.array_record", array_file(WINDOWS[0]), record)
    with pytest.raises(UserError, match=f"record 1 of .*bad.array_record {message}"):
        Shards(path, CONFIG)


def test_a_record_is_named_in_its_own_file(tmp_path):
    write_shard(tmp_path / "0.array_record", WINDOWS[:3])
    write_shard(tmp_path / "1.array_record", [])
    write_records(tmp_path / "2.array_record", array_file(WINDOWS[0]), b"", b"nothing")
    with pytest.raises(UserError, match=r"record 1 of .*2.array_record is no array"):
        load(str(tmp_path / "*.array_record"), 12, CONFIG)


def test_a_set_without_a_window_or_without_a_code_is_refused(tmp_path):
    write_shard(tmp_path / "none.array_record", [])
    with pytest.raises(UserError, match=r"data.train: .*none.array_record holds no window"):
        load(str(tmp_path / "none.array_record"), 12, CONFIG, "data.train")
    write_shard(tmp_path / "void.array_record", [WINDOWS[0] * 0 - 1])
    with pytest.raises(UserError, match=r"void.array_record .*no code but -1 \(none\)"):
        load(str(tmp_path / "void.array_record"), 12, CONFIG)


@pytest.mark.parametrize("name", ["codes [v1]", "[ab]?", "a*b", "back\\slash", "x[0:3]", "~"])
def test_a_folder_or_file_of_any_name_is_read(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    write_shard(folder / f"{name}-0", WINDOWS[:1])
    write_shard(folder / f"{name}-1", WINDOWS[1:3])
    assert len(load(str(folder / f"{name}-0"), 12, CONFIG)) == 1
    assert len(load(str(folder / f"{name}-*"), 12, CONFIG)) == 3
    assert len(load(f"{tmp_path}/*/*-1", 12, CONFIG)) == 2


def test_only_a_star_is_a_pattern(shards, tmp_path):
    (tmp_path / ".codes-2.array_record.partial").write_bytes(b"")
    assert len(load(shards.replace("codes", "c**"), 12, CONFIG)) == 5
    for pattern in ("codes-?.array_record", "codes-[01].array_record", "**/codes-0.array_record,"):
        with pytest.raises(UserError, match=r"data: .*: no file has this name; .* commas and ~"):
            load(str(tmp_path / pattern), 12, CONFIG)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.mkdir(), r"x.array_record is a folder: .*x.array_record/\*.array_record"),
        (lambda p: p.write_bytes(b""), "is no shard of codes, or damaged .*at least 64KB"),
        (lambda p: p.write_bytes(bytes(2**17)), "is no shard of codes, or damaged .*Corrupted"),
        (lambda p: p.symlink_to("nowhere"), "cannot be read .*No such file"),
        (os.mkfifo, "is a pipe or a device"),
    ],
)
def test_what_is_no_shard_is_named(tmp_path, make, message):
    make(tmp_path / "x.array_record")
    with pytest.raises(UserError, match=f"evaluation.sets.test: .*{message}"):
        load(str(tmp_path / "*.array_record"), 12, CONFIG, "evaluation.sets.test")


def test_missing_data_is_named():
    with pytest.raises(ValueError, match="no file has this name"):
        load("none-*.array_record", 12, CONFIG)
    with pytest.raises(ValueError, match="give the number of made windows"):
        load("made:", 12, CONFIG)
    for name in ("made:0", "made:²", "made:-1", f"made:{10**30}"):
        with pytest.raises(UserError, match="from 1 to 100000000"):
            load(name, 12, CONFIG)


def test_a_disk_that_is_full_is_named_and_nothing_stays(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"a.array_record cannot be written .*File too large"):
            write_shard(tmp_path / "a.array_record", WINDOWS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
