import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg

from distill.vision import sources
from moshijax.system.errors import UserError


SIZES = {"train": 200, "test": 50}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", [("train", 0, 200)]),
        ("train[:30]", [("train", 0, 30)]),
        ("train[90%:]", [("train", 180, 200)]),
        ("test[-5:]", [("test", 45, 50)]),
        ("train[10%:-10]", [("train", 20, 190)]),
        ("train[:1%]+test+train[5:7]", [("train", 0, 2), ("test", 0, 50), ("train", 5, 7)]),
        ("train[150:900]", [("train", 150, 200)]),
    ],
)
def test_splits_are_in_the_notation_of_tfds(split, expected):
    found = [(part, s.start, s.stop) for part, s in sources.select(split, SIZES, "x")]
    assert found == expected


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("valid", "x has no split 'valid', only test, train"),
        ("train[5]", r"Split 'train\[5\]' of x is not of the form"),
        ("train[20:10]", r"Split 'train\[20:10\]' of x is empty: train has 200 rows"),
    ],
)
def test_bad_splits_are_named(split, message):
    with pytest.raises(ValueError, match=message):
        sources.select(split, SIZES, "x")


def test_the_embedded_set_is_fashion_mnist():
    train = sources.load(sources.SAMPLE, "train")
    test = sources.load(sources.SAMPLE, "test[:100]")
    assert (len(train), len(test), len(train.class_names), train.channels) == (15_000, 100, 10, 1)
    # The first labels of the published files: an ankle boot, a T-shirt; a boot, a pullover.
    assert [train[k].label for k in range(5)] == [9, 0, 0, 3, 0]
    assert [test[k].label for k in range(5)] == [9, 2, 1, 1, 6]
    assert train[0].image.shape == (28, 28, 1)
    assert train[0].image.sum() == 76_247
    assert np.bincount([train[k].label for k in range(1000)]).min() > 80


def test_slices_of_the_embedded_set_are_its_rows():
    whole, part = sources.load(sources.SAMPLE, "train"), sources.load(sources.SAMPLE, "train[7:9]")
    np.testing.assert_array_equal(part[1].image, whole[8].image)
    assert part[1].label == whole[8].label


def jpeg(level, height=20):
    return simplejpeg.encode_jpeg(np.full((height, 30, 3), level, np.uint8))


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_folders_have_a_class_a_sub_folder(tmp_path):
    for k, name in enumerate(["cat/b.jpg", "cat/a.JPEG", "dog/c.png", "dog/notes.txt"]):
        write(tmp_path / name, jpeg(10 * k))
    source = sources.load(f"folder:{tmp_path}", "all")
    assert [source[k].label for k in range(len(source))] == [0, 0, 1]
    assert source[0].image == jpeg(10)
    assert (len(source.class_names), source.channels) == (2, 3)
    assert len(sources.load(f"folder:{tmp_path}", "all[1:]")) == 2


def test_folders_of_splits_number_their_classes_together(tmp_path):
    write(tmp_path / "train/cat/a.jpg", jpeg(1))
    write(tmp_path / "train/eel/a.jpg", jpeg(2))
    write(tmp_path / "val/eel/b.jpg", jpeg(3))
    source = sources.load(f"folder:{tmp_path}", "val")
    assert (source[0].label, len(source.class_names)) == (1, 2)


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: there is no such folder"):
        sources.load("folder:nowhere", "all")
    with pytest.raises(ValueError, match="has no images; expected"):
        sources.load(f"folder:{tmp_path}", "all")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS data set in a folder of its own, with its images' labels."""
    import tensorflow_datasets as tfds

    class TwentyGreys(tfds.core.GeneratorBasedBuilder):
        __module__ = "twenty_greys"  # in a package TFDS would look for checksums beside it
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
            label = tfds.features.ClassLabel(num_classes=5)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for k in range(20):
                yield k, {"image": io.BytesIO(jpeg(10 * k, 20 + k)), "label": k % 5}

    folder = tmp_path_factory.mktemp("tfds")
    TwentyGreys(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


READ = """
import importlib.machinery, sys
class Blocked:
    # Finds TensorFlow, installed or not, and fails to import it.
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        raise ImportError("TensorFlow was imported.")
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Blocked())
from distill.vision import images, sources
source = sources.load("twenty_greys", "train[50%:]", sys.argv[1])
levels = [int(images.decode(source[k].image, source.channels).mean().round(-1)) for k in range(10)]
print([source[k].label for k in range(10)], levels, len(source.class_names))
"""


def test_tfds_is_read_without_tensorflow(prepared):
    root = pathlib.Path(sources.__file__).parents[2]
    command = [sys.executable, "-c", READ, str(prepared)]
    printed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    source = sources.load("twenty_greys", "train", str(prepared))
    labels = [source[k].label for k in range(10, 20)]
    assert sorted(source[k].label for k in range(20)) == sorted(list(range(5)) * 4)
    # The level of row k of the generator tells its label.
    levels = [int(simplejpeg.decode_jpeg(source[k].image).mean().round(-1)) for k in range(10, 20)]
    assert labels == [level // 10 % 5 for level in levels]
    assert printed.strip() == f"{labels} {levels} 5"


def test_unprepared_data_sets_say_how_to_prepare_them(tmp_path):
    message = "food101 is not prepared in .*tfds build food101 --file_format=array_record"
    with pytest.raises(ValueError, match=message):
        sources.load("food101", "train", str(tmp_path))


def test_unknown_data_sets_and_splits_are_named(prepared):
    with pytest.raises(UserError, match="no TFDS data set 'food100000'"):
        sources.load("food100000", "train", str(prepared))
    with pytest.raises(ValueError, match="twenty_greys has no split 'valid', only train"):
        sources.load("twenty_greys", "valid", str(prepared))


@pytest.mark.parametrize("name", ["", "a b", "food101/1", "food101:9.9.9"])
def test_names_that_tfds_cannot_read_are_refused(name, tmp_path):
    with pytest.raises(UserError, match=f"There is no TFDS data set {name!r}"):
        sources.load(name, "train", str(tmp_path))


def test_files_that_cannot_be_read_by_row_are_named(prepared, tmp_path):
    (source,) = prepared.glob("twenty_greys/1.0.0")
    target = tmp_path / "twenty_greys/1.0.0"
    for path in source.iterdir():
        write(target / path.name, path.read_bytes())
    info = json.loads((target / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (target / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="is prepared as tfrecord, which cannot be read by row"):
        sources.load("twenty_greys", "train", str(tmp_path))
