import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from distill.vision.resnet import PRESETS, ResNet
from distill.vision.rules import RULES as RESNET
from moshijax import shard
from moshijax.codec.config import PRESETS as MIMI
from moshijax.codec.mimi import Mimi
from moshijax.codec.rules import RULES as CODEC
from moshijax.convert.lm import abstract_lm, load_lm, save_lm
from moshijax.lm.presets import PRESETS as LANGUAGE
from moshijax.lm.rules import RULES as LM
from moshijax.nn.paths import named_leaves
from moshijax.nn.rules import RULES as LAYERS
from moshijax.nn.transformer import unstack
from moshijax.system.errors import UserError
from tests.lm_models import random_codes, random_model


def test_rules_give_the_last_axes_and_drop_what_does_not_divide():
    mesh = shard.make_mesh(dict(data=2, fsdp=2, tensor=2))
    assert shard.parameter_spec("block1/conv1/kernel", (3, 3, 8, 16), mesh, RESNET) == P(
        None, None, "tensor", "fsdp"
    )
    assert shard.parameter_spec("conv_root/kernel", (7, 7, 3, 64), mesh, RESNET) == P(
        None, None, None, "fsdp"
    )
    assert shard.parameter_spec("0/mu/block1/gn1/scale", (64,), mesh, RESNET) == P(None)
    assert shard.parameter_spec("anything", (), mesh, RESNET) == P()


def test_what_an_axis_does_not_divide_is_told_with_its_size():
    mesh = shard.make_mesh(dict(data=1, fsdp=4, tensor=2))
    layer = {"kernel": jax.ShapeDtypeStruct((3, 8, 6), jnp.float32)}
    model = {"up": layer, "norm": {"scale": jax.ShapeDtypeStruct((5,), jnp.float32)}}
    assert shard.undivided(model, mesh, LAYERS) == []
    layer = {"kernel": jax.ShapeDtypeStruct((3, 6, 7), jnp.float32)}
    both = {"model": {"up": layer, "gate": layer}, "mu": {"up": layer}}
    assert shard.undivided(both, mesh, LAYERS) == [
        "mesh.fsdp=4 does not divide 6 of model/gate/kernel, 6 of model/up/kernel, "
        "6 of mu/up/kernel: every device has the whole of it.",
        "mesh.tensor=2 does not divide 7 of model/gate/kernel, 7 of model/up/kernel, "
        "7 of mu/up/kernel: every device has the whole of it.",
    ]
    many = {f"{i}": {"up": layer} for i in range(9)}
    assert shard.undivided(many, mesh, LAYERS)[0].count(" of ") == 5
    assert " and 5 more: every" in shard.undivided(many, mesh, LAYERS)[0]


def test_parameter_without_exactly_one_rule_is_an_error():
    mesh = shard.make_mesh()
    with pytest.raises(
        ValueError, match="'strange/weight' must match exactly one rule, it matches none"
    ):
        shard.parameter_spec("strange/weight", (4, 4), mesh, LAYERS)
    with pytest.raises(ValueError, match="exactly one rule"):
        shard.match_one("a/kernel", ((".*", 1), ("kernel", 2)), "decay")
    assert shard.match_one("a/subkernel", (("kernel", 1), ("subkernel", 2)), "decay") == 2


def test_mesh_takes_what_is_left_and_refuses_what_does_not_fit():
    assert dict(shard.make_mesh(dict(fsdp=4)).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    with pytest.raises(ValueError, match="does not make 8 devices"):
        shard.make_mesh(dict(data=3))
    with pytest.raises(ValueError, match=r"unknown axes \['model'\]"):
        shard.make_mesh(dict(model=2))


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (dict(data=-1, fsdp=-1), "data and fsdp are -1, but one axis alone can take what"),
        (dict(data=0), "mesh.data: 0 is no size: take a whole number from 1 on, or -1"),
        (dict(fsdp=-2), "mesh.fsdp: -2 is no size"),
        (dict(fsdp="4"), "mesh.fsdp: '4' is no size"),
        (dict(fsdp=4.0), "mesh.fsdp: 4.0 is no size"),
        (dict(tensor=True), "mesh.tensor: True is no size"),
        (dict(data=-1, fsdp=3), "mesh: data=-1,fsdp=3 does not make 8 devices: take sizes whose"),
        (dict(data=-1, fsdp=16), "does not make 8 devices"),
        (dict(data=2, fsdp=2, tensor=4), "data=2,fsdp=2,tensor=4 does not make 8 devices"),
        (8, "mesh: 8 is no table of sizes"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused_in_a_sentence(shape, sentence):
    with pytest.raises(UserError, match=sentence):
        shard.mesh_sizes(shape, 8)


def test_rows_that_do_not_divide_are_told_the_mesh_over_which_they_do():
    def refusal(rows, **sizes):
        mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
        with pytest.raises(UserError, match=f"^batch_size: {rows} rows do not divide") as caught:
            shard.check_batch_size(rows, mesh)
        return str(caught.value).rpartition(": ")[2]

    both = "take a multiple of 128, or a mesh of "
    assert refusal(192, data=1, fsdp=128, tensor=1) == both + "fsdp=64,tensor=2."
    assert refusal(192, data=128, fsdp=1, tensor=1) == both + "data=64,tensor=2."
    assert refusal(24, data=1, fsdp=16, tensor=1).endswith("or a mesh of fsdp=8,tensor=2.")
    assert refusal(3, data=1, fsdp=128, tensor=1) == "take a multiple of 128."


def test_batch_arrives_whole_and_split_over_devices():
    mesh = shard.make_mesh(dict(data=2, fsdp=2, tensor=2))
    rows = shard.local_rows(8, mesh)
    np.testing.assert_array_equal(rows, np.arange(8))
    batch = {"x": np.arange(16.0).reshape(8, 2), "mix": np.float32(0.5)}
    placed = shard.to_mesh(batch, 8, mesh)
    np.testing.assert_array_equal(placed["x"], batch["x"])
    assert placed["x"].sharding.shard_shape((8, 2)) == (2, 2)
    assert placed["mix"].sharding.is_fully_replicated
    with pytest.raises(ValueError, match="6 rows do not divide among 4 devices"):
        shard.check_batch_size(6, mesh)


def test_every_parameter_of_every_preset_has_one_rule():
    mesh = shard.make_mesh(dict(data=2, fsdp=4))
    for config in PRESETS.values():
        shapes = jax.eval_shape(lambda c=config: ResNet(c, rngs=nnx.Rngs(0)))
        specs = named_leaves(shard.shard_like(shapes, mesh, RESNET))
        kernels = [s.spec for n, s in specs.items() if "conv" in n]
        assert all(spec[-1] == "fsdp" for spec in kernels)


def test_every_parameter_of_mimi_has_one_rule():
    mesh = shard.make_mesh(dict(data=2, fsdp=2, tensor=2))
    for config in MIMI.values():
        shapes = jax.eval_shape(lambda c=config: Mimi(c, rngs=nnx.Rngs(0)))
        specs = {n: s.spec for n, s in named_leaves(shard.shard_like(shapes, mesh, CODEC)).items()}
        attention = "encoder/transformer/layers/attention"
        assert specs[f"{attention}/q/kernel"] == P(None, "fsdp", "tensor")
        assert specs[f"{attention}/out/kernel"] == P(None, "tensor", "fsdp")


@pytest.mark.parametrize("name", [name for name in LANGUAGE if not name.endswith("_tiny")])
def test_every_parameter_of_every_language_model_has_one_rule(name):
    mesh = shard.make_mesh(dict(fsdp=4, tensor=2))
    shapes = abstract_lm(LANGUAGE[name])
    leaves = named_leaves(shapes)
    specs = {n: s.spec for n, s in named_leaves(shard.shard_like(shapes, mesh, LM)).items()}
    layer = "temporal/transformer/layers"
    assert specs[f"{layer}/attention/q/kernel"] == P(None, "fsdp", "tensor")
    assert specs[f"{layer}/mlp/down/kernel"] == P(None, "tensor", "fsdp")
    assert specs["temporal/text_embedding/table"] == P(None, "fsdp")
    whole = sum(leaves[n].size for n, spec in specs.items() if not any(spec))
    assert whole < 0.005 * sum(leaf.size for leaf in leaves.values())
    listed = jax.eval_shape(unstack, shapes)
    shard.shard_like(listed, mesh, LM)


def test_sharded_language_model_gives_the_same_logits(tmp_path):
    model = random_model("moshi_7b")
    path = save_lm(model, tmp_path / "lm.safetensors")
    mesh = shard.make_mesh(dict(data=2, fsdp=2, tensor=2))
    placed = load_lm(path, model.config, mesh=mesh)
    kernel = placed.temporal.transformer.layers.mlp.up.kernel[...]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 28)
    codes = random_codes(model.config, 4, 6)
    run = jax.jit(lambda model, codes: model.logits(codes))
    want, got = run(model, codes), run(placed, shard.to_mesh(codes, 4, mesh))
    np.testing.assert_allclose(got.text, want.text, atol=2e-5)
    np.testing.assert_allclose(got.audio, want.audio, atol=2e-5)


def test_placed_arrays_keep_their_values():
    mesh = shard.make_mesh(dict(data=2, fsdp=4))
    tree = {"head": {"kernel": jnp.arange(32.0).reshape(4, 8), "bias": jnp.ones(8)}}
    placed = shard.place(tree, mesh, RESNET)
    np.testing.assert_array_equal(placed["head"]["kernel"], tree["head"]["kernel"])
    assert placed["head"]["kernel"].sharding.shard_shape((4, 8)) == (4, 2)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh looks at in a device of a TPU of two slices."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "cpu"


def test_slices_share_the_data_axis_alone():
    chips = [Chip(id=i, slice_index=i // 4) for i in range(8)]
    grid = shard.device_grid(dict(data=4, fsdp=2, tensor=1), chips)
    assert grid.shape == (4, 2, 1)
    assert [{chip.slice_index for chip in row.flat} for row in grid] == [{0}, {0}, {1}, {1}]
    with pytest.raises(ValueError, match="data=1 does not divide among 2 slices: take a multiple"):
        shard.device_grid(dict(data=1, fsdp=8, tensor=1), chips)
