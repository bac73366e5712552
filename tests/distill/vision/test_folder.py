import os
import pathlib

import pytest

from distill.vision import folder, sources
from moshijax.system.errors import UserError


def fill(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture")
    return root


def read(root, split="all"):
    source = sources.load(f"folder:{root}", split)
    rows = [
        (str(path.relative_to(root)), source[k].label) for k, (path, _) in enumerate(source.files)
    ]
    return rows, source.class_names


CLEAN = ("ant/a.png", "bee/a.png", "cat/a.png")
ROWS = [("ant/a.png", 0), ("bee/a.png", 1), ("cat/a.png", 2)]


@pytest.mark.parametrize(
    "beside",
    [
        ".ipynb_checkpoints/a.png",
        "ant/.ipynb_checkpoints/a-checkpoint.png",
        "bee/._a.png",
        "__MACOSX/ant/a.png",
        "ant/__MACOSX/a.png",
        "ant/Thumbs.db",
        "ant/.DS_Store",
        "ant/labels.txt",
        "a.png",
    ],
)
def test_what_systems_leave_beside_pictures_is_no_class_and_no_picture(tmp_path, beside):
    assert read(fill(tmp_path, *CLEAN, beside)) == (ROWS, ("ant", "bee", "cat"))


def test_hidden_folders_are_no_split(tmp_path):
    fill(tmp_path, *(f"train/{name}" for name in CLEAN), ".cache/x/a.png")
    with pytest.raises(UserError, match="has no split 'all', only train"):
        read(tmp_path)


def test_pictures_deeper_under_a_class_are_of_that_class(tmp_path):
    fill(tmp_path, "train/n02/images/b.JPEG", "train/n01/images/a.JPEG", "train/n01/c.png")
    rows = [("train/n01/c.png", 0), ("train/n01/images/a.JPEG", 0), ("train/n02/images/b.JPEG", 1)]
    assert read(tmp_path, "train") == (rows, ("n01", "n02"))


def test_a_stray_picture_beside_the_classes_of_a_split_makes_it_no_class(tmp_path):
    fill(tmp_path, *(f"train/{name}" for name in CLEAN), "train/preview.png", "test/ant/a.png")
    assert read(tmp_path, "train") == ([(f"train/{p}", k) for p, k in ROWS], ("ant", "bee", "cat"))


def test_many_splits_are_not_all_listed(tmp_path):
    fill(tmp_path, *(f"n{k:02}/images/a.png" for k in range(20)))
    with pytest.raises(UserError, match=r"no split 'all', only n00, .*, n07 and 12 more\.$"):
        read(tmp_path)


def test_links_are_followed_but_not_round_in_circles(tmp_path):
    fill(tmp_path / "store", "x/a.png", "x/b.png")
    (tmp_path / "set/ant").mkdir(parents=True)
    os.symlink(tmp_path / "store/x", tmp_path / "set/bee")
    os.symlink(tmp_path / "store/x/a.png", tmp_path / "set/ant/c.png")
    os.symlink("..", tmp_path / "store/x/up")
    os.symlink(".", tmp_path / "store/x/here")
    rows = [("ant/c.png", 0), ("bee/a.png", 1), ("bee/b.png", 1)]
    found, names = read(tmp_path / "set")
    assert [row for row in found if "up" not in row[0]] == rows
    assert len(found) == 3
    assert names == ("ant", "bee")


def test_a_folder_with_a_pictures_name_is_no_picture(tmp_path):
    fill(tmp_path, *CLEAN, "ant/old.png/b.png")
    assert read(tmp_path)[0] == [*ROWS[:1], ("ant/old.png/b.png", 0), *ROWS[1:]]


def test_an_empty_folder_is_no_class_and_is_told_once(tmp_path, caplog):
    fill(tmp_path, *CLEAN)
    (tmp_path / "dog").mkdir()
    with caplog.at_level("WARNING"):
        for _ in range(3):
            assert read(tmp_path)[1] == ("ant", "bee", "cat")
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path / 'dog'} has no picture: it is no class."
    ]


@pytest.mark.parametrize("name", ["a[1]", "b*", "c\\d", "{e}", "plain/"])
def test_a_path_is_no_pattern(tmp_path, name):
    fill(tmp_path / name, *CLEAN)
    source = sources.load(f"folder:{tmp_path}/{name}", "all")
    assert len(source) == 3


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "set", *CLEAN)
    assert len(sources.load("folder:~/set", "all")) == 3


def test_no_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="names no folder"):
        sources.load("folder:", "all")


def test_names_that_are_not_utf_8_are_read(tmp_path):
    strange = os.fsdecode(b"caf\xe9")
    fill(tmp_path, f"{strange}/\udcff.png", "ant/a.png")
    source = sources.load(f"folder:{tmp_path}", "all")
    assert source.class_names == ("ant", strange)
    assert source[1] == sources.Row(b"picture", 1)
    assert len(source.fingerprint) == 32


def test_two_ways_to_write_a_letter_are_one_class(tmp_path):
    fill(tmp_path / "train", "caf\u00e9/a.png", "ant/a.png")
    fill(tmp_path / "test", "cafe\u0301/a.png")
    assert sources.load(f"folder:{tmp_path}", "test").class_names == ("ant", "caf\u00e9")


def test_names_that_differ_by_case_are_two_classes(tmp_path):
    fill(tmp_path, "Cat/a.png", "cat/a.png")
    assert read(tmp_path)[1] == ("Cat", "cat")


def test_fingerprints_are_of_files_not_of_where_they_lie(tmp_path):
    marks = []
    for name, extra in (("one", ()), ("two", ()), ("three", ("ant/b.png",))):
        source = sources.load(f"folder:{fill(tmp_path / name, *CLEAN, *extra)}", "all")
        marks.append(source.fingerprint)
    (tmp_path / "two/ant/a.png").write_bytes(b"another picture")
    marks.append(sources.load(f"folder:{tmp_path / 'two'}", "all").fingerprint)
    assert marks[0] == marks[1]
    assert len(set(marks)) == 3


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    fill(tmp_path, *CLEAN)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(folder.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        folder.find(pathlib.Path(tmp_path), {"all"})
