"""Files that are given in place of a safetensors file: told by their first bytes, and refused."""

import pathlib

from moshijax.system.errors import UserError


PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".th")
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".download")
CONVERT = (
    'convert it where PyTorch is installed: python -c "import torch, safetensors.torch as s; '
    "s.save_file({k: v.contiguous().clone() for k, v in torch.load('IN', weights_only=True)"
    ".items()}, 'OUT.safetensors')\""
)
MAGIC = {
    b"version https://git-lfs": "is a git-lfs pointer and not the weights: run `git lfs pull` in "
    "its folder",
    b"PK\x03\x04": f"is a zip archive, as PyTorch's pickles are, which can run code: {CONVERT}",
    b"\x80": f"is a pickle, as old PyTorch wrote, which can run code: {CONVERT}",
    b"GGUF": "is a GGUF file, which is not read: fetch the model's safetensors",
    b"\x93NUMPY": "is a NumPy array: fetch the model's safetensors",
    b"\x1f\x8b": "is compressed: unpack it with gunzip",
    b"\x28\xb5\x2f\xfd": "is compressed: unpack it with unzstd",
    bytes(8): "begins with zeros, as an unfinished download does: fetch it anew",
    b"{": "is a text of JSON and no weights: give the safetensors file, or an index whose name "
    "ends with .index.json",
    b"<": "is a page of the web and no weights, such as one that asks to log in or says that "
    "nothing is there: fetch the file itself",
}


def refuse_unfinished(path: pathlib.Path) -> None:
    """Raises UserError for a download that still goes on, by its name."""
    if path.suffix in UNFINISHED:
        raise UserError(
            f"{path} is a download that has not finished, by its name: wait for it, or fetch it "
            "anew."
        )


def refuse_pickle(name: str) -> None:
    """Raises UserError for a pickle by its name, before anything is fetched."""
    if name.endswith(PICKLES):
        raise UserError(f"{name} is a pickle, which can run code: {CONVERT}.")


def refuse_foreign(path: pathlib.Path, head: bytes) -> None:
    """Raises UserError if the first bytes of a file are those of another known format."""
    if (
        head[8:9] == b"{"
    ):  # A safetensors header: the 8 bytes of its length before it may look like anything.
        return
    for magic, what in MAGIC.items():
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(magic):
            raise UserError(f"{path} {what}.")
