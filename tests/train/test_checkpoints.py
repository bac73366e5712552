import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.nn.paths import named_leaves
from moshijax.shard import make_mesh
from moshijax.system.errors import UserError
from moshijax.train import checkpoints, intact, restore
from moshijax.train.checkpoints import Checkpoints, find_steps, load_leaves
from moshijax.train.intact import Damaged


ROOT = pathlib.Path(__file__).parent.parent.parent
NAMES = [
    *(b"lr[1e-3]", b"a\\b", b"[!x]*?", b"two words", b"50%#1", b"caf\xc3\xa9", b"\xff\xfe"),
    *(b"'\"$(x)", b"{a,b}", b"~", b"-x", b"a:b", b"x.orbax-checkpoint-tmp-1", b"line\nbreak"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(checkpoints, "RETRY_AFTER", 0)


def state(seed=0):
    """Arrays of several types, one of them in two pieces on the disk."""
    rng = np.random.default_rng(seed)
    model = {
        "kernel": jnp.asarray(rng.standard_normal((8, 16)), jnp.float32),
        "half": jnp.asarray(rng.standard_normal(70), jnp.bfloat16),
        "large": jnp.asarray(rng.standard_normal((40, 30)), jnp.float32),
        "zeros": jnp.zeros(5),
        "flags": jnp.asarray([True, False, True]),
    }
    spread = jax.NamedSharding(make_mesh({"fsdp": 2, "data": -1}), jax.P("fsdp"))
    model["kernel"] = jax.device_put(model["kernel"], spread)
    return {"model": model, "count": jnp.asarray(seed, jnp.int32)}


def targets():
    shapes = jax.eval_shape(state)
    whole = jax.NamedSharding(make_mesh({"data": -1}), jax.P())
    return shapes, jax.tree.map(lambda _: whole, shapes)


def write(folder, steps=(5,), keep=3):
    with Checkpoints(folder, keep) as store:
        for step in steps:
            store.save(step, state(step))


def read(folder, keep=3):
    with Checkpoints(folder, keep) as store:
        return store.restore(*targets())


def assert_equal(a, b):
    for (name, x), y in zip(named_leaves(a).items(), named_leaves(b).values(), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=name)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    write(folder, (5, 10))
    return folder


@pytest.fixture
def copy(written, tmp_path):
    return pathlib.Path(shutil.copytree(written, tmp_path / "copy"))


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_is_read_again_also_after_it_was_moved(tmp_path, name):
    folder = tmp_path / os.fsdecode(name) / os.fsdecode(name)
    write(folder, (5, 10), keep=1)
    found, step = read(folder)
    assert step == 10
    assert_equal(found, state(10))
    moved = folder.rename(tmp_path / "moved")
    assert find_steps(moved / "checkpoints") == [10]
    assert_equal(read(moved)[0], state(10))
    again = moved.rename(tmp_path / os.fsdecode(name) / "[moved]")
    assert_equal(load_leaves(str(again), "model"), state(10)["model"])


def damaging(folder, wanted):
    """Reads one checkpoint as a run does: its arrays, or what proves that it is damaged."""
    try:
        return restore.state(folder, wanted), None
    except Damaged as damage:
        return None, damage


def test_a_byte_flipped_anywhere_is_found_or_harmless(copy):
    folder = copy / "checkpoints" / "10"
    wanted = named_leaves(checkpoints.shaped(*targets()))
    expected, found = named_leaves(state(10)), {}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 8
    rng = np.random.default_rng(0)
    for path in files:
        whole = path.read_bytes()
        # Some of each file, since a reading takes some 20 ms; arrays fill the largest.
        some = 12 if len(whole) < 3000 else 30
        for at in rng.choice(len(whole), min(len(whole), some), replace=False):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            leaves, damage = damaging(folder, wanted)
            found.setdefault(path.relative_to(folder).parts[0], []).append(bool(damage))
            if damage is None:
                assert_equal(leaves, expected)
        path.write_bytes(whole)
    assert any(found["default"])
    assert_equal(damaging(folder, wanted)[0], expected)


def test_a_change_of_any_element_changes_the_digest():
    one = jax.device_get(intact._digests({"x": state()["model"]["kernel"]}))["x"]
    kernel = np.asarray(state()["model"]["kernel"])
    for at in np.ndindex(kernel.shape):
        bits = kernel.copy().view(np.uint32)
        bits[at] ^= 1 << (at[1] * 2)
        assert intact.record_of({"x": bits.view(np.float32)})["x"][2] != one
    swapped = kernel[::-1]
    assert intact.record_of({"x": swapped})["x"][2] != one


def test_a_digest_is_the_same_on_any_mesh():
    kernel = np.asarray(state()["model"]["kernel"])
    alone = intact.record_of({"x": kernel})
    for sizes, spec in (
        ({"fsdp": 8, "data": 1}, ("fsdp",)),
        ({"data": 4, "tensor": 2}, ("tensor", "data")),
    ):
        spread = jax.device_put(kernel, jax.NamedSharding(make_mesh(sizes), jax.P(*spec)))
        assert intact.record_of({"x": spread}) == alone


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(copy):
    for file in (copy / "checkpoints" / "10").rglob("d/*"):
        os.truncate(file, 10)
    found, step = read(copy)
    assert step == 5
    assert_equal(found, state(5))
    assert find_steps(copy / "broken_checkpoints") == [10]
    write(copy, (10,))
    shutil.rmtree(copy / "checkpoints" / "10" / "default")
    assert read(copy)[1] == 5
    assert sorted(p.name for p in (copy / "broken_checkpoints").iterdir()) == ["10", "10.1"]


def test_a_run_does_not_begin_anew_beside_checkpoints_set_aside(copy):
    for file in (copy / "checkpoints").rglob("manifest.ocdbt"):
        file.unlink()
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"none of the checkpoints \[5, 10\] is whole; they are"
        ):
            read(copy)
    (copy / "broken_checkpoints").rename(copy / "elsewhere")
    assert read(copy) is None


@pytest.mark.parametrize(
    "error", [MemoryError("no memory"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: x")]
)
def test_an_error_that_is_not_the_files_own_leaves_a_checkpoint_in_its_place(
    copy, monkeypatch, error
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints.restore.ocp.Checkpointer, "restore", fail)
    with pytest.raises(type(error)) as raised:
        read(copy)
    assert "is not proven damaged and stays in its place" in raised.value.__notes__[0]
    assert find_steps(copy / "checkpoints") == [5, 10]
    assert not (copy / "broken_checkpoints").exists()


def test_what_passes_is_tried_again_and_what_stays_is_told_without_harm(copy, monkeypatch):
    real, calls = restore.state, []

    def flaky(*args, fails=1):
        calls.append(args)
        if len(calls) <= fails:
            raise OSError("Stale file handle")
        return real(*args)

    monkeypatch.setattr(checkpoints.restore, "state", flaky)
    assert read(copy)[1] == 10
    calls.clear()
    monkeypatch.setattr(checkpoints.restore, "state", lambda *a: flaky(*a, fails=2))
    with pytest.raises(UserError, match=r"10 could not be read \(Stale file handle\), yet nothing"):
        read(copy)
    assert find_steps(copy / "checkpoints") == [5, 10]


def test_another_state_is_told_without_harm(copy):
    shapes, shardings = targets()
    shapes["model"]["zeros"] = jax.ShapeDtypeStruct((6,), jnp.float32)
    with (
        Checkpoints(copy, 3) as store,
        pytest.raises(
            UserError, match=r"10 holds another state: model/zeros is \['float32', \[5\]\] there"
        ),
    ):
        store.restore(shapes, shardings)
    assert find_steps(copy / "checkpoints") == [5, 10]


def test_a_checkpoint_without_a_record_is_read_too(copy):
    file = copy / "checkpoints" / "10" / intact.METADATA
    file.write_text('{"item_handlers": {}, "custom_metadata": {}}')
    assert_equal(read(copy)[0], state(10))
    assert_equal(load_leaves(str(copy), "model"), state(10)["model"])


def test_an_older_one_goes_only_after_the_newer_was_read_back(copy, monkeypatch):
    def fail(*_):
        raise Damaged("its index is missing")

    monkeypatch.setattr(intact, "check_index", fail)
    store = Checkpoints(copy, 1)
    store.save(15, state(15))
    with (
        pytest.raises(
            UserError, match=r"step 15 cannot be .* \(its index is missing\); that of step 10"
        ),
        store,
    ):
        pass
    assert {5, 10} <= set(find_steps(copy / "checkpoints"))
    monkeypatch.undo()
    write(copy, (20, 25), keep=2)
    assert find_steps(copy / "checkpoints") == [20, 25]


def test_whatever_else_lies_among_the_checkpoints_is_left_alone(copy):
    root = copy / "checkpoints"
    (root / ".DS_Store").write_bytes(b"\0")
    (root / "15").write_text("a file")
    for name in ("tmp", "007", "20", "notes 5", "-3"):
        (root / name).mkdir()
    (root / "25.orbax-checkpoint-tmp").mkdir()
    assert read(copy)[1] == 10
    assert load_leaves(str(copy), "model")
    write(copy, (20,), keep=1)
    assert read(copy)[1] == 20
    names = sorted(p.name for p in root.iterdir())
    assert names == ["-3", ".DS_Store", "007", "15", "20", "notes 5", "tmp"]


def test_a_step_whose_name_is_taken_is_told(copy):
    (copy / "checkpoints" / "15").write_text("a file")
    with pytest.raises(UserError, match="step 15 cannot be written"):
        write(copy, (15,))


FULL = """
    import resource, sys, pathlib
    import jax.numpy as jnp
    from moshijax.train.checkpoints import Checkpoints
    store = Checkpoints(pathlib.Path(sys.argv[1]), 1)
    store.save(1, {"x": jnp.arange(10.0)})
    store.settle()
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    import jax
    store.save(2, {"x": jax.random.normal(jax.random.key(0), (100_000,))})
    try:
        store.settle()
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.startswith("UserError the checkpoint of step 2 cannot be written to"), (
        result
    )
    assert "that of step 1 is whole: make room there" in result.stdout
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
