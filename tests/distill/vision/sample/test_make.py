import gzip
import hashlib
import importlib.resources
import struct

import numpy as np
import pytest

from distill.vision.sample import make
from moshijax.system.errors import UserError


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "NUM_ROWS", {"train": 5, "test": 3})
    random = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        images = random.integers(0, 256, (9, 4, 6), dtype=np.uint8)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", images[:, 0, 0])
    return tmp_path


def test_the_first_rows_of_both_parts_are_packed(folder):
    make.make(folder, folder / "a.npz")
    with np.load(folder / "a.npz", allow_pickle=False) as arrays:
        shapes = {name: arrays[name].shape for name in arrays}
        np.testing.assert_array_equal(
            arrays["test_images"], make.read_idx(folder / "t10k-images-idx3-ubyte.gz")[:3]
        )
        np.testing.assert_array_equal(arrays["train_labels"], arrays["train_images"][:, 0, 0])
    assert shapes == {
        "train_images": (5, 4, 6),
        "train_labels": (5,),
        "test_images": (3, 4, 6),
        "test_labels": (3,),
    }


def test_two_runs_write_the_same_bytes(folder):
    for name in ("a.npz", "b.npz"):
        make.make(folder, folder / name)
    digests = {hashlib.sha256((folder / n).read_bytes()).digest() for n in ("a.npz", "b.npz")}
    assert len(digests) == 1


def test_other_files_are_named(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x0d\x01" + bytes(8)))
    with pytest.raises(UserError, match=r"train-images.*is not an idx file of unsigned bytes"):
        make.make(folder, folder / "a.npz")


def test_the_packed_set_is_small_and_has_its_licence():
    files = importlib.resources.files("distill.vision.sample")
    assert 5e6 < len((files / "fashion_mnist.npz").read_bytes()) < 10e6
    assert "MIT License" in (files / "LICENSE").read_text()
