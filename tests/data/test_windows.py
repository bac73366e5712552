import io

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from moshijax.data.windows import (
    EvalWindows,
    Made,
    Shards,
    TrainWindows,
    check_codes,
    load,
    write_shard,
)
from moshijax.lm.presets import PRESETS
from tests.lm_models import random_codes


CONFIG = PRESETS["moshi_7b_tiny"]
WINDOWS = [random_codes(CONFIG, 1, length, seed=length)[0] for length in (20, 9, 31, 12, 15)]


@pytest.fixture
def shards(tmp_path):
    write_shard(tmp_path / "codes-0.array_record", WINDOWS[:3])
    write_shard(tmp_path / "codes-1.array_record", WINDOWS[3:])
    return str(tmp_path / "codes-*.array_record")


def test_shards_hold_what_was_written(shards):
    found = load(shards, 12, CONFIG)
    assert len(found) == 5
    for i, codes in enumerate(WINDOWS):
        np.testing.assert_array_equal(found[i], codes)
        assert found[i].dtype == np.int32


def test_training_windows_are_cut_and_padded(shards):
    data = TrainWindows(load(shards, 12, CONFIG), batch_size=5, length=12, seed=1)
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
    data = TrainWindows(load(shards, 12, CONFIG), batch_size=4, length=12, seed=1)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:9], "codes of shape \\[9, 20\\]; the model has 17 streams"),
        (lambda c: np.where(c == c[3, 5], 40, c), "stream .* holds 40 at frame .* -1 .* to 39"),
        (lambda c: c - 2, "stream .* holds -[23] at frame"),
        (lambda c: c[0], "codes of shape \\[20\\]"),
    ],
)
def test_codes_of_another_model_are_named(tmp_path, change, message):
    write_shard(tmp_path / "bad.array_record", [change(WINDOWS[0])])
    with pytest.raises(ValueError, match=f"record 0 of .*bad.array_record: {message}"):
        load(str(tmp_path / "bad.array_record"), 12, CONFIG)[0]


def test_a_record_that_is_no_array_is_named(tmp_path):
    path = str(tmp_path / "bad.array_record")
    writer = ArrayRecordWriter(path, "group_size:1")
    writer.write(b"nothing")
    record = io.BytesIO()
    np.save(record, np.array([{}], dtype=object), allow_pickle=True)
    writer.write(record.getvalue())
    writer.close()
    shards = Shards(path, CONFIG)
    for i in range(2):
        with pytest.raises(ValueError, match=f"record {i} of .*is no array file"):
            shards[i]


def test_missing_data_is_named():
    with pytest.raises(ValueError, match="no file has this name"):
        load("none-*.array_record", 12, CONFIG)
    with pytest.raises(ValueError, match="give the number of made windows"):
        load("made:", 12, CONFIG)
