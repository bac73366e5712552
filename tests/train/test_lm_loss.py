"""What a language model is trained and measured by, however its batch is cut."""

import jax
import numpy as np
import pytest

from configs import moshi
from moshijax import shard
from moshijax.data import windows as data
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.train import program
from moshijax.train.lm import LMTask
from moshijax.train.task import find


PADDING = 3


def windows(rows, length, short):
    """Codes of which every other window has only `short` frames, and most text is padding."""
    rng = np.random.default_rng(0)
    codes = rng.integers(4, 40, (rows, 17, length)).astype(np.int32)
    codes[:, 0][rng.random((rows, length)) < 0.6] = PADDING
    codes[::2, :, short:] = -1
    return codes


def updated(parts, mesh, form="paper"):
    """Metrics and parameters after a step that is linear in the gradients."""
    config = moshi.get_config("tiny")
    config.accumulate, config.loss.form = parts, form
    config.optimizers.model.update(
        kinds=((".*", "momentum"),),
        options=dict(momentum=dict(decay=0.0)),
        clip_norm=0.0,
        warmup_steps=0,
        learning_rate=1.0,
    )
    placed = program.place(find(config)(config, mesh.abstract_mesh), mesh, 0)
    batch = {"codes": windows(8, 16, 4)}
    state = placed.init(jax.random.key(0))
    new, metrics = placed.update["audio"](
        state, {}, shard.to_mesh(batch, 8, placed.mesh), jax.random.key(0)
    )
    return jax.device_get((named_leaves(new.model), metrics))


def alone():
    return shard.make_mesh(dict(data=1), jax.devices()[:1])


def assert_same(found, want):
    for name, value in want[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-4, err_msg=name)
    for name, leaf in want[0].items():
        np.testing.assert_allclose(found[0][name], leaf, atol=2e-5, err_msg=name)


def test_uneven_pieces_change_neither_loss_nor_gradient():
    assert_same(updated(2, alone(), "finetune"), updated(1, alone(), "finetune"))


def test_nor_do_they_on_eight_devices():
    pieces = updated(2, shard.make_mesh(dict(data=2, fsdp=2, tensor=2)))
    assert_same(pieces, updated(1, alone()))


@pytest.fixture(scope="module")
def flat():
    """A task, and a state that finds all 48 pieces of text equally likely."""
    task = LMTask(moshi.get_config("tiny"))
    state = jax.jit(task.init)(jax.random.key(0))
    leaves = named_leaves(state.model)
    head = leaves["temporal/text_head/kernel"]
    model = with_leaves(state.model, leaves | {"temporal/text_head/kernel": 0 * head})
    return task, state._replace(model=model), jax.jit(task.evaluate)


@pytest.mark.parametrize("share", [0.0, 0.65, 0.95])
def test_perplexity_is_the_number_of_equally_likely_pieces(flat, share):
    task, state, evaluate = flat
    rng = np.random.default_rng(1)
    codes = windows(4, 16, 9)
    codes[:, 0] = np.where(codes[:, 0] == PADDING, 7, codes[:, 0])
    codes[:, 0][rng.random((4, 16)) < share] = PADDING
    found = task.summarize(jax.device_get(evaluate(state, {}, {"codes": codes})))
    assert found["text_perplexity"] == pytest.approx(48, rel=1e-4)
    assert found["word_perplexity"] == pytest.approx(48, rel=1e-4)
    assert ("padding_perplexity" in found) == bool(share)
    assert found["audio_perplexity_0"] == pytest.approx(np.exp(found["audio_loss_0"]), rel=1e-4)


def test_words_and_padding_have_perplexities_of_their_own(flat):
    task, state, evaluate = flat
    codes = windows(4, 16, 9)
    codes[0, 0, :5] = 0  # The end of padding is padding too.
    sums, weights = jax.device_get(evaluate(state, {}, {"codes": codes}))
    text = codes[:, 0]
    assert weights.words == (text > PADDING).sum()
    assert weights.padding == ((text == PADDING) | (text == 0)).sum()
    sums = sums._replace(words=np.log(10.0) * weights.words, padding=np.log(2.0) * weights.padding)
    found = task.summarize((sums, weights))
    assert found["word_perplexity"] == pytest.approx(10)
    assert found["padding_perplexity"] == pytest.approx(2)
    share = weights.words / (weights.words + weights.padding)
    assert found["text_perplexity"] == pytest.approx(10**share * 2 ** (1 - share))


def test_a_set_without_words_or_without_anything_has_no_number_for_it(flat):
    task, state, evaluate = flat
    codes = windows(4, 16, 9)
    codes[:, 0] = PADDING
    found = task.summarize(jax.device_get(evaluate(state, {}, {"codes": codes})))
    assert "word_perplexity" not in found
    assert found["padding_perplexity"] == found["text_perplexity"]
    nothing = task.summarize(jax.device_get(evaluate(state, {}, {"codes": codes * 0 - 1})))
    assert not [name for name in nothing if "perplexity" in name]
    assert np.isfinite(list(nothing.values())).all()


def test_rows_that_fill_up_a_batch_count_for_nothing(flat):
    task, state, evaluate = flat
    made = data.load("made:4", 16, task.model_config)
    whole = data.EvalWindows(made, batch_size=4, length=16).batch(0)
    few = data.EvalWindows([made[i] for i in range(3)], batch_size=4, length=16)
    rest = data.EvalWindows([made[3]], batch_size=4, length=16)
    assert few.num_batches == rest.num_batches == 1
    parts = [evaluate(state, {}, part.batch(0)) for part in (few, rest)]
    found = task.summarize(jax.device_get(jax.tree.map(lambda a, b: a + b, *parts)))
    want = task.summarize(jax.device_get(evaluate(state, {}, whole)))
    assert found == pytest.approx(want, rel=1e-5)
