import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from distill.vision.resnet import PRESETS, ResNet
from distill.vision.rules import RULES as RESNET
from moshijax import shard
from moshijax.codec.config import PRESETS as MIMI
from moshijax.codec.mimi import Mimi
from moshijax.codec.rules import RULES as CODEC
from moshijax.convert.lm import abstract_lm
from moshijax.lm.presets import PRESETS as LANGUAGE
from moshijax.lm.rules import RULES as LM
from moshijax.nn.paths import named_leaves
from moshijax.nn.rules import RULES as LAYERS
from moshijax.nn.transformer import unstack


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
