"""Files of the Hugging Face hub by name: `hf://owner/repository@revision/folder/file`.

The revision is a branch, a tag, a commit or `refs/pr/3`; without it, `main`. Downloads are those of
the huggingface-hub package: its cache, its token, its offline mode, a download taken up again.
"""

import errno
import os
import pathlib
import re
import urllib.parse
from typing import NamedTuple

from moshijax.system.errors import UserError


NAME = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>refs/(pr|convert)/[^/]+|[^/@]+))?(/(?P<path>.*))?",
    re.ASCII | re.DOTALL,
)
OTHER_KINDS = {"datasets", "spaces", "buckets", "kernels", "models"}
FORM = "write hf://owner/repository/file or hf://owner/repository@revision/folder/file"


class HubName(NamedTuple):
    """A file of the hub, or a folder; the path of a repository itself is empty."""

    repo: str
    revision: str
    path: str

    def join(self, name: str) -> "HubName":
        """Returns the name of what lies in this folder."""
        return self._replace(path=f"{self.path}/{name}" if self.path else name)

    def split(self) -> tuple["HubName", str]:
        """Returns the folder of a file and the file's own name."""
        folder, _, name = self.path.rpartition("/")
        return self._replace(path=folder), name

    def __str__(self) -> str:
        safe = "/" if self.revision.startswith(("refs/pr/", "refs/convert/")) else ""
        revision = f"@{urllib.parse.quote(self.revision, safe)}" if self.revision != "main" else ""
        return f"hf://{self.repo}{revision}" + (f"/{self.path}" if self.path else "")


def locate(source: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of a local file, or of a hub file after fetching it.

    Raises:
        UserError: it is no name of a file, or cannot be fetched.
    """
    place = parse(source)
    if isinstance(place, pathlib.Path):
        return place
    if not place.path:
        raise UserError(f"{place} names a repository and no file of it: {FORM}.")
    return fetch(place)


def parse(source: str | os.PathLike[str]) -> pathlib.Path | HubName:
    """Returns what a user's name stands for: a path of this machine or a name of the hub.

    Raises:
        UserError: it is neither.
    """
    text = os.fspath(source)
    if not text.startswith("hf://"):
        return _local(text)
    match = NAME.fullmatch(text)
    if not match:
        raise UserError(f"{text!r} is no name of a hub file: {FORM}.")
    repo, path = match["repo"], match["path"] or ""
    owner, name = repo.split("/")
    revision = urllib.parse.unquote(match["revision"] or "main")
    if owner in OTHER_KINDS:
        raise UserError(
            f"{text!r} is of the hub's {owner}: only model repositories are read, so {FORM}."
        )
    path = path.removesuffix("/")
    if not (_plain(owner) and _plain(name) and inside(revision) and (not path or inside(path))):
        raise UserError(
            f"{text!r} has an empty part, or one that would lead out of its repository: {FORM}."
        )
    return HubName(repo, revision, path)


def _local(text: str) -> pathlib.Path:
    path = pathlib.Path(text)
    if path.exists():
        return path
    if re.match(r"[A-Za-z][\w+.-]*:(//|/[^/])", text) or text.startswith("hf:"):
        raise UserError(
            f"{text!r} is neither a path of this machine nor a name of the hub: {FORM}, or fetch "
            "it and give its path."
        )
    try:
        return path.expanduser()
    except RuntimeError:  # The home of a user whom this machine does not know.
        return path


def _plain(word: str) -> bool:
    return word[0] not in "-." and word[-1] not in "-." and "--" not in word and ".." not in word


def inside(path: str) -> bool:
    """Whether every part of a path is a name, so that it cannot lead out of its folder."""
    # On Windows a backslash and a drive's colon separate as well.
    parts = path.split("/") + path.split("\\")
    broken = re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", path)
    return not broken and not any(part.strip(" ") in ("", ".", "..") for part in parts)


def pinned(name: HubName, path: pathlib.Path) -> HubName:
    """Returns a name at the commit whose file was fetched to a path: a branch may move on."""
    return name._replace(revision=path.parents[name.path.count("/")].name)


def fetch(name: HubName) -> pathlib.Path:
    """Fetches a file of the hub unless the cache has it.

    Raises:
        UserError: there is no such file, or it cannot be fetched.
    """
    if (path := find(name)) is None:
        raise UserError(
            f"{name}: {name.repo} has no file {name.path!r} at the revision {name.revision}: see "
            "its list of files on the hub."
        )
    return path


def find(name: HubName) -> pathlib.Path | None:
    """Fetches a file of the hub unless the cache has it; None if the repository has no such file.

    Raises:
        UserError: it cannot be fetched.
    """
    _check_endpoint()
    # Imported here, since it takes long and few runs need it.
    from huggingface_hub import errors, hf_hub_download

    try:
        return pathlib.Path(hf_hub_download(name.repo, name.path, revision=name.revision))
    except errors.LocalEntryNotFoundError as error:
        reason = _reason(error.__cause__ or error)
    except errors.EntryNotFoundError:
        return None
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{name}: {name.repo} has no revision {name.revision!r}: give a branch, a tag or a "
            "commit of it."
        ) from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name} cannot be fetched: HF_TOKEN holds other characters than ASCII: set it to the "
            "token as the hub shows it."
        ) from error
    except (OSError, RuntimeError, errors.HTTPError, errors.XetDownloadError) as error:
        reason = _reason(error)
    raise UserError(f"{name} {reason}")


def _check_endpoint() -> None:
    """Raises UserError for an address that huggingface-hub cannot even be imported with."""
    address = os.environ.get("HF_ENDPOINT", "")
    try:
        _ = urllib.parse.urlsplit(address).port
    except ValueError as error:
        raise UserError(
            f"HF_ENDPOINT: {address!r} is no address ({error}): write it as https://HOST:PORT, or "
            "unset it."
        ) from error


def _reason(error: BaseException) -> str:
    """Says why a file cannot be had, and what helps."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"is not among the downloads in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids "
            "to fetch it: unset that once, or give the path of a local file."
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _answer(error, error.response.status_code)
    if isinstance(error, errors.FileMetadataError):
        return (
            f"cannot be fetched: what answers at {constants.ENDPOINT} is no hub: check HF_ENDPOINT "
            "and the proxy, or give the path of a local file."
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return (
            f"cannot be kept in {error.filename} ({error.strerror}): set HF_HUB_CACHE to a folder "
            "with room, or give the path of a local file."
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            f"cannot be kept in {constants.HF_HUB_CACHE} ({error.strerror}): make room there, or "
            "set HF_HUB_CACHE to a folder with room."
        )
    text = " ".join(str(error).split()) or type(error).__name__
    return (
        f"cannot be fetched from {constants.ENDPOINT} ({text}): check the network, or give the "
        "path of a local file."
    )


def _answer(error: BaseException, status: int) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            "is given only to who agreed to its owner's terms: agree on the repository's page, and "
            "set HF_TOKEN to a token of that account."
        )
    if status in (401, 403):
        return (
            f"is refused by the hub ({status}): HF_TOKEN is absent, out of date or may not read "
            "this repository; set it to a token that may."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "is in a repository that the hub does not show: check the name, and if it is private "
            "set HF_TOKEN to a token that may read it."
        )
    return f"cannot be fetched: the hub answers with {status}; try again later."
