"""Files in timm's names; that timm reads them alike is shown in tests/oracle."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import vision
from distill import npz
from distill.vision.evaluation import write
from distill.vision.resnet import PRESETS, ResNet
from distill.vision.teachers import load_model, model_config
from distill.vision.timm import load_timm, save_timm
from moshijax.convert.safetensors import Lazy, Safetensors, write_safetensors
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.system.errors import UserError


OVERRIDES = dict(stage_sizes=(1, 2), width=32, num_classes=5)
CONFIG = dataclasses.replace(PRESETS["r50x1"], **OVERRIDES)


def shapes(config=CONFIG):
    return jax.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0)))


def random_model(config=CONFIG):
    rng = np.random.default_rng(0)
    leaves = named_leaves(shapes(config)).items()
    return with_leaves(
        shapes(config), {n: jnp.asarray(rng.standard_normal(x.shape), x.dtype) for n, x in leaves}
    )


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "student.safetensors"
    save_timm(path, random_model())
    return path


def test_file_has_the_names_and_shapes_of_timm(path):
    entries = Safetensors(path).entries
    assert entries["stem.conv.weight"].shape == (32, 3, 7, 7)
    assert entries["stages.1.blocks.0.downsample.conv.weight"].shape == (256, 128, 1, 1)
    assert entries["stages.1.blocks.1.norm3.bias"].shape == (64,)
    assert entries["head.fc.weight"].shape == (5, 256, 1, 1)
    assert len(entries) == len(named_leaves(shapes()))


def test_what_is_written_is_read_back(path):
    want, found = named_leaves(random_model()), named_leaves(load_timm(path, shapes()))
    for name, leaf in want.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


def test_a_head_of_other_classes_is_refused_or_left_out(path):
    config = dataclasses.replace(CONFIG, num_classes=7)
    with pytest.raises(UserError, match=r"head.fc.bias is \[5\], not \[7\].*load_head=False"):
        load_timm(path, shapes(config))
    model = random_model(config)
    found = named_leaves(load_timm(path, model, load_head=False))
    np.testing.assert_array_equal(found["head/kernel"], named_leaves(model)["head/kernel"])
    np.testing.assert_array_equal(found["norm_pre_head/bias"], load_bias(path))


def load_bias(path):
    return Safetensors(path)["norm.bias"]


def test_another_network_and_what_is_not_finite_are_refused(path, tmp_path):
    other = dataclasses.replace(CONFIG, stage_sizes=(1, 1))
    with pytest.raises(UserError, match=r"it has besides stages.1.blocks.1.conv1.weight"):
        load_timm(path, shapes(other))
    file = Safetensors(path)
    tensors = {
        name: Lazy(array.shape, array.dtype, lambda array=array: np.full_like(array, np.nan))
        for name, array in file.items()
    }
    write_safetensors(tmp_path / "nan.safetensors", tensors, {})
    with pytest.raises(UserError, match="nan"):
        load_timm(tmp_path / "nan.safetensors", shapes())


def test_networks_that_timm_lacks_are_not_written(tmp_path):
    model = jax.eval_shape(lambda: ResNet(PRESETS["tiny"], rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match="timm has BiT ResNets only"):
        save_timm(tmp_path / "tiny.safetensors", model)


@pytest.mark.parametrize("name", ["student.safetensors", "folder"])
def test_a_model_of_a_config_is_read_from_timms_file(name, path, tmp_path):
    spec = ConfigDict(vision.model("r50x1", 224, 5, str(path)))
    spec.overrides.update(stage_sizes=(1, 2), width=32)
    if name == "folder":
        (tmp_path / name).mkdir()
        spec.load = str(path.rename(tmp_path / name / "model.safetensors").parent)
    found = named_leaves(load_model(spec, 0))
    for leaf_name, leaf in named_leaves(random_model()).items():
        np.testing.assert_array_equal(found[leaf_name], leaf, err_msg=leaf_name)


def test_presets_in_timms_names_pad_as_timm_does_and_others_are_told_of(tmp_path, caplog):
    assert model_config(ConfigDict(vision.model("resnetv2_50x1_bit", 224, 5, None))) == (
        dataclasses.replace(PRESETS["r50x1"], num_classes=5, pool_padding="zero")
    )
    write(str(tmp_path / "a.safetensors"), random_model(), "bit")
    assert "timm pads the stem's pool with zeros" in caplog.text
    caplog.clear()
    padded = random_model(dataclasses.replace(CONFIG, pool_padding="zero"))
    write(str(tmp_path / "b.safetensors"), padded, "bit")
    assert not caplog.text


def test_an_exported_student_has_the_form_that_its_name_asks_for(tmp_path):
    write(str(tmp_path / "a.safetensors"), random_model(), "bit")
    assert "head.fc.weight" in Safetensors(tmp_path / "a.safetensors").entries
    write(str(tmp_path / "a.npz"), random_model(), "bit")
    assert "resnet/head/conv2d/bias" in npz.read_headers(tmp_path / "a.npz")
