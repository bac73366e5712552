import pickle
import zipfile

import pytest

from moshijax.convert.safetensors import Safetensors
from moshijax.convert.weights import open_weights
from moshijax.system.errors import UserError
from tests.convert.test_weights import ARRAYS, write


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
CASES = {
    LFS: "is a git-lfs pointer and not the weights: run `git lfs pull`",
    b"<!DOCTYPE html>\n<html><body>404</body></html>": "is a page of the web and no weights",
    b"\n\n  <html>Log in</html>": "is a page of the web and no weights",
    b'<?xml version="1.0"?><Error>AccessDenied</Error>': "is a page of the web and no weights",
    b'{"error": "Repository not found"}': "is a text of JSON and no weights",
    b"GGUF\x03\0\0\0" + bytes(40): "is a GGUF file",
    b"\x1f\x8b\x08\0" + bytes(40): "unpack it with gunzip",
    bytes(1000): "begins with zeros, as an unfinished download does",
}


@pytest.mark.parametrize("content", CASES, ids=range(len(CASES)))
def test_what_is_given_instead_of_weights_is_told(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=CASES[content]) as caught:
        Safetensors(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_refused_with_the_way_to_convert_it(protocol, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(pickle.dumps({"a": list(range(100))}, protocol))
    with pytest.raises(UserError, match=r"is a pickle.*which can run code: convert it.*save_file"):
        open_weights(path)
    with pytest.raises(UserError, match=r"model\.bin is a pickle"):
        open_weights(tmp_path)


def test_a_pickle_of_today_is_refused_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", bytes(100))
    with pytest.raises(UserError, match=r"is a zip archive, as PyTorch's pickles.*torch\.load"):
        open_weights(tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"hf://a/b/pytorch_model\.bin is a pickle"):
        open_weights("hf://a/b/pytorch_model.bin")


@pytest.mark.parametrize("suffix", [".incomplete", ".part", ".crdownload"])
def test_a_file_still_being_downloaded_is_told(suffix, tmp_path):
    path = write(tmp_path / f"model.safetensors{suffix}", ARRAYS)
    with pytest.raises(UserError, match=r"is a download that has not finished"):
        open_weights(path)


@pytest.mark.parametrize("length", [0x280, ord("<"), ord("{"), 0x2020])
def test_a_header_whose_length_looks_like_something_else_is_a_header(length, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"a":{"dtype":"F32",')
    with pytest.raises(UserError, match=r"it is cut short or no safetensors file"):
        open_weights(path)
