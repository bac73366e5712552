import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from distill.vision.convert import LAYOUTS, detect_layout, load_npz, save_npz
from distill.vision.resnet import PRESETS, ResNet, ResNetConfig
from moshijax.nn.paths import named_leaves
from moshijax.system.errors import UserError


SMALL = ResNetConfig((2, 1), 4, unit="bottleneck", num_groups=2, stem="imagenet", num_classes=5)
DEPTHS = {"r50x1": ((3, 4, 6, 3), 64), "r152x2": ((3, 8, 36, 3), 128)}


def shapes(config, dtype=None):
    model = jax.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0)))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype), model)


def make(config, seed=0):
    """A model of noise: what was read must differ from what was there."""
    model, rng = shapes(config), np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), model)


def arrays_of(depths, width, layout, num_classes=1000):
    """Names and shapes of a published file, written down from its description alone."""
    bit = layout == "bit"
    result = {}

    def add(bit_name, name, shape, bit_shape=None):
        result["resnet/" + bit_name if bit else name] = (bit_shape or shape) if bit else shape

    def norm(bit_name, name, c):
        add(f"{bit_name}/gamma", f"{name}/scale", (1, 1, 1, c), (c,))
        add(f"{bit_name}/beta", f"{name}/bias", (1, 1, 1, c), (c,))

    conv = "standardized_conv2d/kernel"
    add(f"root_block/{conv}", "root_block/conv_root/kernel", (7, 7, 3, width))
    c_in = width
    for b, depth in enumerate(depths, 1):
        mid = width * 2 ** (b - 1)
        for u in range(1, depth + 1):
            unit = f"block{b}/unit{u:02d}"
            add(f"{unit}/a/{conv}", f"{unit}/conv1/kernel", (1, 1, c_in, mid))
            add(f"{unit}/b/{conv}", f"{unit}/conv2/kernel", (3, 3, mid, mid))
            add(f"{unit}/c/{conv}", f"{unit}/conv3/kernel", (1, 1, mid, 4 * mid))
            if u == 1:
                add(f"{unit}/a/proj/{conv}", f"{unit}/conv_proj/kernel", (1, 1, c_in, 4 * mid))
            for i, (letter, c) in enumerate(zip("abc", (c_in, mid, mid), strict=True), 1):
                norm(f"{unit}/{letter}/group_norm", f"{unit}/gn{i}", c)
            c_in = 4 * mid
    norm("group_norm", "norm-pre-head", c_in)
    add("head/conv2d/kernel", "head/kernel", (c_in, num_classes), (1, 1, c_in, num_classes))
    add("head/conv2d/bias", "head/bias", (num_classes,))
    return result


def random_arrays(shapes_by_name, dtype=np.float32, seed=0):
    """Arrays that differ from one another, from a short noise: large ones must be cheap."""
    rng = np.random.default_rng(seed)
    return {
        name: np.resize(rng.integers(-100, 100, size=251).astype(dtype), shape)
        for name, shape in shapes_by_name.items()
    }


def write(path, arrays):
    np.savez(path, **arrays)
    return path


def small_file(path, layout="bit", **changes):
    return write(path, random_arrays(arrays_of((2, 1), 4, layout, 5)) | changes)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("preset", DEPTHS)
def test_published_files_round_trip_byte_for_byte(preset, layout, tmp_path):
    # One byte a weight: the float32 of R152x2 are 945 MB.
    arrays = random_arrays(arrays_of(*DEPTHS[preset], layout), np.int8)
    assert len(arrays) == {"r50x1": 153, "r152x2": 459}[preset]
    path = write(tmp_path / "published.npz", arrays)
    model = load_npz(path, shapes(PRESETS[preset], jnp.int8))
    save_npz(tmp_path / "saved.npz", model, layout)
    with np.load(tmp_path / "saved.npz", allow_pickle=False) as saved:
        assert set(saved.files) == set(arrays)
        for name, array in arrays.items():
            assert saved[name].dtype == array.dtype
            assert np.array_equal(saved[name], array), name


def test_both_layouts_give_the_same_model(tmp_path):
    model = make(SMALL)
    for layout in LAYOUTS:
        save_npz(tmp_path / f"{layout}.npz", model, layout)
        with np.load(tmp_path / f"{layout}.npz") as file:
            assert detect_layout(file.files) == layout
        loaded = load_npz(tmp_path / f"{layout}.npz", shapes(SMALL))
        jax.tree.map(np.testing.assert_array_equal, loaded, model)


def test_every_array_lands_at_its_own_place(tmp_path):
    path = small_file(tmp_path / "x.npz")
    loaded = named_leaves(load_npz(path, shapes(SMALL)))
    with np.load(path) as file:
        for ours, theirs in {
            "block1/unit02/conv3/kernel": "block1/unit02/c/standardized_conv2d/kernel",
            "block2/unit01/conv_proj/kernel": "block2/unit01/a/proj/standardized_conv2d/kernel",
            "block2/unit01/gn2/scale": "block2/unit01/b/group_norm/gamma",
            "block2/unit01/gn1/bias": "block2/unit01/a/group_norm/beta",
            "norm_pre_head/scale": "group_norm/gamma",
        }.items():
            np.testing.assert_array_equal(loaded[ours], file[f"resnet/{theirs}"])


@pytest.mark.parametrize("wrapper", ["params/", "opt/target/"])
def test_job_checkpoints_are_unwrapped(wrapper, tmp_path):
    arrays = random_arrays(arrays_of((2, 1), 4, "big_vision", 5))
    wrapped = {wrapper + name: array for name, array in arrays.items()}
    others = {"opt/0/mu/head/bias": np.ones(5), "chrono/step": np.array(7)}
    path = write(tmp_path / "checkpoint.npz", wrapped | others)
    loaded = load_npz(path, shapes(SMALL))
    np.testing.assert_array_equal(loaded.head.kernel[...], arrays["head/kernel"])


def test_numbers_of_convolutions_are_dropped(tmp_path):
    arrays = random_arrays(arrays_of((2, 1), 4, "bit", 5))
    numbered = {
        name.replace("standardized_conv2d", f"standardized_conv2d_{i}"): array
        for i, (name, array) in enumerate(arrays.items())
    }
    loaded = load_npz(write(tmp_path / "x.npz", numbered), shapes(SMALL))
    expected = arrays["resnet/block1/unit01/a/proj/standardized_conv2d/kernel"]
    np.testing.assert_array_equal(loaded.block1.unit01.conv_proj.kernel[...], expected)


def test_bfloat16_survives_numpy(tmp_path):
    model = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make(SMALL))
    save_npz(tmp_path / "x.npz", model, "bit")
    loaded = load_npz(tmp_path / "x.npz", shapes(SMALL, jnp.float32))
    assert loaded.block1.unit01.conv1.kernel.dtype == jnp.float32
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a).astype(ml_dtypes.bfloat16), b),
        loaded,
        model,
    )


def test_every_misfit_is_named_with_the_file(tmp_path):
    arrays = random_arrays(arrays_of((2, 1), 4, "bit", 5))
    del arrays["resnet/group_norm/gamma"]
    arrays["resnet/extra"] = np.ones(2)
    arrays["resnet/block1/unit01/b/group_norm/beta"] = np.ones(7)
    path = write(tmp_path / "odd.npz", arrays)
    with pytest.raises(ValueError, match="does not fit") as error:
        load_npz(path, shapes(SMALL))
    for part in (
        "odd.npz",
        "resnet/group_norm/gamma is missing",
        "resnet/extra is surplus",
        "resnet/block1/unit01/b/group_norm/beta has shape (7,), the model's has (4,)",
    ):
        assert part in str(error.value)


def test_a_file_of_another_depth_is_refused_in_a_short_message(tmp_path):
    path = small_file(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"and \d+ more\)") as error:
        load_npz(path, shapes(PRESETS["r50x1"]))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_head_of_other_classes_is_refused_or_left_alone(layout, tmp_path):
    path = small_file(tmp_path / "x.npz", layout)
    config = dataclasses.replace(SMALL, num_classes=7)
    with pytest.raises(ValueError, match=r"x.npz has a head of 5 classes, the model one of 7"):
        load_npz(path, shapes(config))
    model = make(config)
    loaded = load_npz(path, model, load_head=False)
    np.testing.assert_array_equal(loaded.head.kernel[...], model.head.kernel[...])
    old, new = (m.block1.unit01.conv1.kernel[...] for m in (model, loaded))
    assert np.all(old != new)


def test_damaged_files_are_refused_by_name(tmp_path):
    good = small_file(tmp_path / "whole.npz")
    load_npz(good, shapes(SMALL))
    whole = good.read_bytes()
    half = tmp_path / "half.npz"
    half.write_bytes(whole[: len(whole) // 2])
    flipped = tmp_path / "flipped.npz"
    flipped.write_bytes(whole[:3000] + bytes([whole[3000] ^ 255]) + whole[3001:])
    empty = tmp_path / "empty.npz"
    empty.write_bytes(b"")
    single = tmp_path / "single.npy"
    np.save(single, np.ones(3))
    objects = write(tmp_path / "objects.npz", dict(a=np.array([{}], dtype=object)))
    for path in (half, flipped, empty, single, objects):
        with pytest.raises(ValueError, match=re.escape(f"{path} is not a whole npz file")):
            load_npz(path, shapes(SMALL))
    with pytest.raises(UserError, match=r"none.npz cannot be opened: No such file"):
        load_npz(tmp_path / "none.npz", shapes(SMALL))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    save_npz(path, make(SMALL), "bit")
    before = path.read_bytes()

    def fail(file, **kwargs):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        save_npz(path, make(SMALL, 1), "bit")
    assert path.read_bytes() == before
    assert list(pathlib.Path(tmp_path).iterdir()) == [path]


def test_unknown_layouts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="layout is 'c'"):
        save_npz(tmp_path / "x.npz", make(SMALL), "c")
