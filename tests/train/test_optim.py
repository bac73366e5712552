import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from ml_collections import ConfigDict

from distill.vision import rules as resnet
from distill.vision.resnet import PRESETS, ResNet
from moshijax import shard
from moshijax.lm import rules as lm
from moshijax.nn.paths import named_leaves
from moshijax.system.errors import UserError
from moshijax.train import optim
from tests.lm_models import random_model
from tests.train.toy import OPTIMIZER


MODEL = {
    "block": {"kernel": jnp.array([[1.0, -2.0], [3.0, 4.0]]), "bias": jnp.array([1.0, 1.0])},
    "head": {"kernel": jnp.array([[5.0], [6.0]])},
}
GRADS = jax.tree.map(lambda x: 0.1 * x + 0.3, MODEL)


def make(num_steps=10, **changes):
    return optim.make(ConfigDict(OPTIMIZER | changes), num_steps, MODEL)


def run(optimizer, grads, count):
    model, state = MODEL, optimizer.init(MODEL)
    for _ in range(count):
        model, state, _ = optimizer.update(grads, state, model)
    return model


def test_decay_does_not_follow_the_learning_rate():
    zeros = jax.tree.map(jnp.zeros_like, GRADS)
    slow = run(make(learning_rate=1e-4, weight_decay=0.1, warmup_steps=0), zeros, 1)
    fast = run(make(learning_rate=1e-1, weight_decay=0.1, warmup_steps=0), zeros, 1)
    np.testing.assert_allclose(slow["head"]["kernel"], 0.9 * MODEL["head"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(slow["head"]["kernel"], fast["head"]["kernel"])
    np.testing.assert_array_equal(slow["block"]["bias"], MODEL["block"]["bias"])


def test_equals_adamw_with_decay_over_learning_rate():
    settings = dict(learning_rate=0.03, weight_decay=3e-4, warmup_steps=0, clip_norm=None)
    ours = run(make(**settings, schedule="constant", options={}), GRADS, 5)
    adamw = optax.adamw(0.03, weight_decay=0.01, mask=lambda p: {n: "bias" not in n for n in p})
    flat = {"block/kernel": MODEL["block"]["kernel"], "block/bias": MODEL["block"]["bias"]}
    grads = {"block/kernel": GRADS["block"]["kernel"], "block/bias": GRADS["block"]["bias"]}
    state = adamw.init(flat)
    for _ in range(5):
        updates, state = adamw.update(grads, state, flat)
        flat = optax.apply_updates(flat, updates)
    np.testing.assert_allclose(ours["block"]["kernel"], flat["block/kernel"], rtol=1e-5)
    np.testing.assert_allclose(ours["block"]["bias"], flat["block/bias"], rtol=1e-5)


def test_schedule_warms_up_and_ends_at_zero():
    schedule = optim.make_schedule("cosine", 100, 10)
    np.testing.assert_allclose(schedule(0), 0.1, rtol=1e-6)
    np.testing.assert_allclose(schedule(9), 1.0, rtol=1e-6)
    np.testing.assert_allclose(schedule(10), 1.0, rtol=1e-6)
    np.testing.assert_allclose(schedule(55), 0.5, rtol=1e-6)
    np.testing.assert_allclose(schedule(100), 0.0, atol=1e-6)
    np.testing.assert_allclose(optim.make_schedule("quadratic", 100, 0)(50), 0.25, rtol=1e-6)


def test_warmup_that_fills_the_run_is_refused():
    with pytest.raises(ValueError, match="1500 steps of warm-up do not fit a run of 1200 steps"):
        make(num_steps=1200, warmup_steps=1500)


def test_frozen_parameters_stay_and_have_no_moments():
    optimizer = make(frozen=(("block/.*", True), ("head/.*", False)))
    model = run(optimizer, GRADS, 3)
    np.testing.assert_array_equal(model["block"]["kernel"], MODEL["block"]["kernel"])
    assert np.all(model["head"]["kernel"] != MODEL["head"]["kernel"])
    names = [
        jax.tree_util.keystr(p)
        for p, _ in jax.tree_util.tree_leaves_with_path(optimizer.init(MODEL))
    ]
    assert not any("block" in name for name in names)


def test_rates_and_kinds_apply_by_name():
    settings = dict(clip_norm=None, weight_decay=0.0, warmup_steps=0, schedule="constant")
    options = dict(momentum=dict(decay=0.0))
    kinds = (("block/.*", "momentum"), ("head/.*", "lion"))
    rates = (("block/kernel", 2.0), ("block/bias", 1.0), ("head/.*", 0.5))
    model = run(
        make(**settings, options=options, kinds=kinds, rates=rates, learning_rate=0.1), GRADS, 1
    )
    step = jax.tree.map(lambda new, old: new - old, model, MODEL)
    np.testing.assert_allclose(step["block"]["kernel"], -0.2 * GRADS["block"]["kernel"], rtol=1e-5)
    np.testing.assert_allclose(step["block"]["bias"], -0.1 * GRADS["block"]["bias"], rtol=1e-5)
    np.testing.assert_allclose(step["head"]["kernel"], -0.05 * jnp.ones((2, 1)), rtol=1e-5)


@pytest.mark.parametrize("table", ["kinds", "decay", "rates", "frozen"])
def test_parameter_without_exactly_one_rule_is_refused(table):
    with pytest.raises(ValueError, match=f"optimizer.{table}: parameter 'block/bias'.*none"):
        make(**{table: (("kernel", OPTIMIZER[table][0][1]),)})
    twice = (("kernel", OPTIMIZER[table][0][1]), ("bias", 0.0), ("block/.*", 0.0))
    with pytest.raises(ValueError, match=r"'bias', 'block/\.\*'"):
        make(**{table: twice})


def test_unknown_optimizer_and_schedule_are_refused():
    with pytest.raises(ValueError, match=r"\['adm'\] is unknown, take one of"):
        make(kinds=((".*", "adm"),))
    with pytest.raises(ValueError, match="'cosin' is unknown"):
        make(schedule="cosin")


def test_gradients_are_clipped_before_adam_sees_them():
    optimizer = make(
        kinds=((".*", "momentum"),), options=dict(momentum=dict(decay=0.0)), clip_norm=0.5
    )
    big = jax.tree.map(lambda x: 100 * x, GRADS)
    _, _, metrics = optimizer.update(
        big, optimizer.init(MODEL), jax.tree.map(jnp.zeros_like, MODEL)
    )
    np.testing.assert_allclose(metrics["update_norm"], 0.5 * 0.05 * 0.5, rtol=1e-5)
    assert metrics["grad_norm"] > 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(learning_rate=1e30), r"optimizer.learning_rate: 1e\+30 .* from 0 to 1000\."),
        (dict(learning_rate=-1e-3), r"optimizer.learning_rate: -0.001 is refused"),
        (dict(learning_rate=float("nan")), "optimizer.learning_rate: nan is refused"),
        (dict(weight_decay=-1e-3), "optimizer.weight_decay: -0.001 .* from 0 to 1"),
        (dict(weight_decay=2.0), "optimizer.weight_decay: 2.0 is refused"),
        (dict(clip_norm=-1.0), "optimizer.clip_norm: -1.0 .* a finite number from 0 on"),
        (dict(clip_norm=float("inf")), "optimizer.clip_norm: inf is refused"),
        (dict(warmup_steps=-1), "optimizer.warmup_steps: -1 is refused"),
        (dict(rates=((".*", -1.0),)), r"optimizer.rates.\.\*: -1.0 is refused"),
        (dict(rates=(("(", 1.0),)), r"optimizer.rates: '\(' is no regular .*unterminated"),
        (dict(frozen=(("[", 1.0),)), r"optimizer.frozen: '\[' is no regular expression"),
        (dict(decay=("(",)), r"optimizer.decay: '\(' is refused.* rows of a regex"),
        (dict(kinds="adam"), "optimizer.kinds: 'adam' is refused"),
        (dict(kinds=((".*", "adam", 1),)), r"optimizer.kinds: \('\.\*', 'adam', 1\) is refused"),
        (dict(options=dict(adm=dict(b1=0.9))), "optimizer.options: 'adm' is refused"),
        (dict(options=dict(adam=dict(b3=0.9))), "optimizer.options.adam: .*'b3'.*scale_by_adam"),
        (dict(options=dict(adam=dict(b1=float("nan")))), "optimizer.options.adam.b1: nan"),
        (dict(options=dict(adam=dict(mu_dtype="bfloat17"))), "optimizer.options.adam: .*bfloat17"),
    ],
)
def test_numbers_that_train_nothing_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        make(**change)


def tiny_resnet():
    return ResNet(PRESETS["tiny"], rngs=nnx.Rngs(0))


# Of a tiny model's kernels some are factored then, and some are not.
OPTIONS = {"adafactor": dict(min_dim_size_to_factor=8)}


@pytest.mark.parametrize(
    ("make_model", "rules"),
    [(lambda: random_model("moshi_7b"), lm.RULES), (tiny_resnet, resnet.RULES)],
)
@pytest.mark.parametrize("kind", optim.KINDS)
def test_every_kind_takes_on_eight_devices_the_step_of_one(make_model, rules, kind):
    model, rng = make_model(), np.random.default_rng(0)
    config = OPTIMIZER | dict(kinds=((".*", kind),), options=OPTIONS, decay=((".*", 0.5),))
    optimizer = optim.make(ConfigDict(config), 10, model)
    grads = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), model)
    step = jax.jit(optimizer.update)
    given = grads, optimizer.init(model), model
    mesh = shard.make_mesh(dict(data=2, fsdp=2, tensor=2))
    placed = shard.place(given, mesh, rules)
    one, eight = step(*given), step(*placed)
    for name, leaf in named_leaves(one).items():
        found = named_leaves(eight)[name]
        np.testing.assert_allclose(found, leaf, rtol=2e-5, atol=1e-7, err_msg=name)
    # What is as large as the parameters is split like them.
    moments = named_leaves(placed[1])
    for name, leaf in named_leaves(placed[2]).items():
        for other, moment in moments.items():
            if other.endswith(f"/{name}") and moment.shape == leaf.shape:
                assert moment.sharding.spec == leaf.sharding.spec, other


def test_momentum_has_its_usual_decay():
    settings = dict(kinds=((".*", "momentum"),), clip_norm=None, weight_decay=0.0, warmup_steps=0)
    usual = run(make(**settings, options={}), GRADS, 3)
    given = run(make(**settings, options=dict(momentum=dict(decay=0.9))), GRADS, 3)
    jax.tree.map(np.testing.assert_array_equal, usual, given)
