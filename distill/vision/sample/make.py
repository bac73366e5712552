"""Makes fashion_mnist.npz again from the data set's four idx.gz files.

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb debian
    python -m distill.vision.sample.make debian/usr/share/datasets/fashion-mnist

The first rows of both parts are kept, in their order. Two runs with the same
zlib write the same bytes: the archive carries no time stamps.
"""

import argparse
import gzip
import io
import pathlib
import zipfile

import numpy as np

from moshijax.system.errors import UserError


NUM_ROWS = {"train": 15_000, "test": 4_000}
FILES = {"train": "train", "test": "t10k"}  # our name of a part, the files' prefix
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that zip can hold


def read_idx(path: pathlib.Path) -> np.ndarray:
    """Reads one gzipped idx file of unsigned bytes.

    Raises:
        UserError: it is another kind of file.
    """
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\x00\x00\x08":
        raise UserError(f"{path} is not an idx file of unsigned bytes.")
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def write_npz(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes what numpy.load reads, without the time of writing."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue(), compresslevel=9)


def make(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Packs the first rows of both parts into one file."""
    arrays = {}
    for part, count in NUM_ROWS.items():
        prefix = folder / FILES[part]
        arrays[f"{part}_images"] = read_idx(prefix.with_name(f"{prefix.name}-images-idx3-ubyte.gz"))
        arrays[f"{part}_labels"] = read_idx(prefix.with_name(f"{prefix.name}-labels-idx1-ubyte.gz"))
        for kind in ("images", "labels"):
            arrays[f"{part}_{kind}"] = np.ascontiguousarray(arrays[f"{part}_{kind}"][:count])
    write_npz(target, arrays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="where the four idx.gz files are")
    parser.add_argument("--output", type=pathlib.Path)
    flags = parser.parse_args()
    make(flags.folder, flags.output or pathlib.Path(__file__).with_name("fashion_mnist.npz"))
