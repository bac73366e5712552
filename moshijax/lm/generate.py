"""Live generation: one frame in, one frame out; a whole recording is a scan over the same step.

Codes are kept in delayed time, in a ring of `max_delay + 2` frames (Moshi's own code keeps the
same). Step t of a row reads slot t % S, writes the user's frame t into the slots t + delay, and
what it chooses into slot t + 1, which the next step reads. At step 0 a row reads initial codes
only, and the user's frame 0 lies before what training has as frame 0: it is never read.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moshijax.lm.config import UNGENERATED, ZERO
from moshijax.lm.moshi import Moshi
from moshijax.lm.sampling import Sampling, by_row, penalize, sample
from moshijax.nn.streaming import State, batch_axes, hold_rows, pick_rows, select_rows
from moshijax.nn.transformer import Sources


RECENT = 64  # pieces that a repetition penalty looks back on, as in Moshi's Rust server


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: each row runs twice, and logits move away from the second run.

    The second run has other conditions, or is blind to its codes for the first `blind_frames`, or
    is blind to its text (`no_text`; then text is not guided). Scale and frames are one number for
    all rows or an array [B].
    """

    scale: Any  # JAX rebuilds the class with whatever it maps the leaves to.
    blind_frames: Any = None
    no_text: bool = dataclasses.field(default=False, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Settings:
    """How frames are generated; the defaults are those of Moshi's own code."""

    text: Any = dataclasses.field(default_factory=lambda: Sampling(0.7, 25))
    audio: Any = dataclasses.field(default_factory=lambda: Sampling(0.8, 250))
    guidance: Any = None
    padding_bonus: Any = 0.0  # added to the logit of text padding
    repetition_penalty: Any = 1.0  # of text pieces; 1: none


class LiveState(NamedTuple):
    """Everything a session needs from frame to frame."""

    temporal: State
    # A ring in delayed time, S = max_delay + 2: step t reads slot t % S of every stream.
    codes: Int[Array, "B K S"]
    frames: Int[Array, "B"]  # steps that the row has taken
    recent: Int[Array, "B recent"]  # its last text pieces, the newest last; UNGENERATED: none yet


class Frame(NamedTuple):
    """What a step gives: K_own streams are the text and the codebooks that the model predicts."""

    codes: Int[Array, "B K_own"]  # aligned; UNGENERATED until `max_delay` is over
    chosen: Int[Array, "B K_own"]  # what this step chose, in delayed time
    pauses: Float[Array, "B pause_heads pause_logits"]  # probabilities
    text_logits: Float[Array, "B V"]


class Context(NamedTuple):
    """Conditions of a session, projected once; with guidance, for twice the rows."""

    added: Float[Array, "B 1 D"] | None = None
    sources: Sources | None = None


def init_state(model: Moshi, batch_size: int, *, guided: bool = False) -> LiveState:
    """Returns the state before the first frame; `guided`: with a second run of each row."""
    config = model.config
    shape = (batch_size, config.num_streams, config.max_delay + 2)
    return LiveState(
        model.temporal.init_state(batch_size * (2 if guided else 1)),
        jnp.full(shape, UNGENERATED, jnp.int32),
        jnp.zeros(batch_size, jnp.int32),
        jnp.full((batch_size, RECENT), UNGENERATED, jnp.int32),
    )


def restart(model: Moshi, rows: Bool[Array, "B"], state: LiveState) -> LiveState:
    """Starts the marked rows anew."""
    guided = _is_guided(state)
    fresh = init_state(model, rows.shape[0], guided=guided)
    axes = batch_axes(model.temporal.init_state)
    # Only the position of a KV cache starts again: its mask hides what the slots still hold.
    temporal = hold_rows(~_twice(rows, guided), state.temporal, fresh.temporal, axes)
    others = select_rows(rows, fresh[1:], tuple(state[1:]), (0, 0, 0))
    return LiveState(temporal, *others)


def step(
    model: Moshi,
    state: LiveState,
    user_codes: Int[Array, "B K_user"],
    settings: Settings,
    key: Array,
    *,
    context: Context | None = None,
    forced: Int[Array, "B K_own"] | None = None,
    active: Bool[Array, "B"] | None = None,
) -> tuple[Frame, LiveState]:
    """Generates one frame of text and own audio from one frame of the user's codes.

    A user's code of ZERO is not heard. `forced`, by stream and in delayed time, replaces samples
    where it is not UNGENERATED. Rows that are not `active` keep their state and give UNGENERATED.
    """
    config, context = model.config, context or Context()
    guided = _is_guided(state)
    if guided is not (settings.guidance is not None):
        raise ValueError("settings.guidance and init_state's guided must go together.")
    if user_codes.shape[1] != config.num_user_codebooks:
        raise ValueError(
            f"user_codes: {user_codes.shape[1]} codebooks, the model hears "
            f"{config.num_user_codebooks}: give those."
        )
    codes = _write_user(model, state, user_codes)
    read, begun = _read(model, codes, state.frames)
    if settings.guidance is not None:
        read = _read_twice(model, read, begun, state.frames, settings.guidance)
    hidden, temporal = model.temporal(
        read[..., None], state.temporal, added=context.added, sources=context.sources
    )
    hidden = hidden[:, 0]
    text_logits = model.temporal.text_logits(hidden[:, None])[:, 0]
    chosen = _choose(model, state, hidden, text_logits, settings, key, forced)
    new, aligned = _write_own(model, codes, state, chosen, temporal)
    if active is not None:
        new = _hold(model, active, new, state, guided)
        aligned = jnp.where(active[:, None], aligned, UNGENERATED)
    rows = user_codes.shape[0]
    return Frame(aligned, chosen, model.pauses(hidden[:rows]), text_logits[:rows]), new


def generate(
    model: Moshi,
    state: LiveState,
    user_codes: Int[Array, "B K_user T"],
    settings: Settings,
    key: Array,
    *,
    context: Context | None = None,
    forced: Int[Array, "B K_own T"] | None = None,
) -> tuple[Int[Array, "B K_own T"], LiveState]:
    """Runs `step` over whole streams; step t draws with `fold_in(key, t)`."""
    length = user_codes.shape[2]
    if forced is None:
        shape = (user_codes.shape[0], 1 + model.config.num_generated, length)
        forced = jnp.full(shape, UNGENERATED, jnp.int32)

    def one(state: LiveState, inputs: tuple[Array, Array, Array]) -> tuple[LiveState, Array]:
        t, heard, forced = inputs
        own = jax.random.fold_in(key, t)
        frame, state = step(model, state, heard, settings, own, context=context, forced=forced)
        return state, frame.codes

    inputs = (jnp.arange(length), jnp.moveaxis(user_codes, 2, 0), jnp.moveaxis(forced, 2, 0))
    state, codes = jax.lax.scan(one, state, inputs)
    return jnp.moveaxis(codes, 0, 2), state


def _is_guided(state: LiveState) -> bool:
    """Whether the temporal state has two rows for each row of the session."""
    ends = [x.end for x in jax.tree.leaves(state.temporal, is_leaf=lambda x: hasattr(x, "end"))]
    return ends[0].shape[-1] == 2 * state.frames.shape[0]


def _twice(rows: Array, guided: bool) -> Array:
    return jnp.concatenate([rows, rows]) if guided else rows


def _write_user(
    model: Moshi, state: LiveState, user_codes: Int[Array, "B K_user"]
) -> Int[Array, "B K S"]:
    """Writes the user's codes of frame t of stream k into the slot of step t + delay k."""
    config = model.config
    first = 1 + config.num_generated
    late = jnp.array(config.delays[first:], jnp.int32)[None]
    slots = (state.frames[:, None] + late) % state.codes.shape[2]
    rows = jnp.arange(user_codes.shape[0])[:, None]
    streams = jnp.arange(first, config.num_streams)[None]
    return state.codes.at[rows, streams, slots].set(user_codes.astype(jnp.int32))


def _read(
    model: Moshi, codes: Int[Array, "B K S"], frames: Int[Array, "B"]
) -> tuple[Int[Array, "B K"], Bool[Array, "B K"]]:
    """Reads this step's codes, and whether each stream has begun."""
    config = model.config
    # Up to its delay a stream holds its initial code, whatever the ring has.
    begun = frames[:, None] > jnp.array(config.delays, jnp.int32)[None]
    now = (frames % codes.shape[2])[:, None, None]
    read = jnp.take_along_axis(codes, now, axis=2)[..., 0]
    return jnp.where(begun, read, jnp.array(config.initial, jnp.int32)[None]), begun


def _read_twice(
    model: Moshi,
    read: Int[Array, "B K"],
    begun: Bool[Array, "B K"],
    frames: Int[Array, "B"],
    guidance: Guidance,
) -> Int[Array, "B_twice K"]:
    """Adds what the second run of each row reads."""
    other = read
    if guidance.blind_frames is not None:
        delays = jnp.array(model.config.delays, jnp.int32)[None]
        # In delayed time, so that all streams are blind for the same frames of sound.
        blind = frames[:, None] <= delays + by_row(guidance.blind_frames, read)
        other = jnp.where(blind & begun, ZERO, other)
    if guidance.no_text:
        other = other.at[:, 0].set(jnp.where(begun[:, 0], ZERO, other[:, 0]))
    return jnp.concatenate([read, other])


def _guide(logits: Float[Array, "B_twice V"], guidance: Guidance | None) -> Float[Array, "B V"]:
    if guidance is None:
        return logits
    own, other = jnp.split(logits, 2)
    return other + (own - other) * by_row(guidance.scale, own)


def _choose(
    model: Moshi,
    state: LiveState,
    hidden: Float[Array, "B_twice D"],
    text_logits: Float[Array, "B_twice V"],
    settings: Settings,
    key: Array,
    forced: Int[Array, "B K_own"] | None,
) -> Int[Array, "B K_own"]:
    """Chooses the text, then the codebooks of the frame."""
    guidance, config = settings.guidance, model.config
    keys = jax.random.split(key, 1 + config.num_generated)

    def settle(stream: int, drawn: Int[Array, "B"]) -> Int[Array, "B"]:
        if forced is None:
            return drawn.astype(jnp.int32)
        wanted = forced[:, stream]
        return jnp.where(wanted == UNGENERATED, drawn, wanted).astype(jnp.int32)

    rows = state.frames.shape[0]
    guided_text = guidance if guidance is None or not guidance.no_text else None
    logits = _guide(text_logits, guided_text)[:rows]
    logits = penalize(logits, state.recent, settings.repetition_penalty)
    logits = logits.at[:, config.text_padding].add(settings.padding_bonus)
    text = settle(0, sample(logits, settings.text, keys[0]))
    if model.depth is None:
        return text[:, None]

    def choose(codebook: int, logits: Float[Array, "B_twice V"]) -> Int[Array, "B_twice"]:
        drawn = sample(_guide(logits, guidance), settings.audio, keys[1 + codebook])
        return _twice(settle(1 + codebook, drawn), guidance is not None)

    with jax.named_scope("depth"):
        codes = model.depth.generate(hidden, _twice(text, guidance is not None), choose)
    return jnp.concatenate([text[:, None], codes[:rows]], axis=1)


def _write_own(
    model: Moshi,
    codes: Int[Array, "B K S"],
    state: LiveState,
    chosen: Int[Array, "B K_own"],
    temporal: State,
) -> tuple[LiveState, Int[Array, "B K_own"]]:
    """Writes what was chosen, and reads the newest frame whose streams are all there, aligned."""
    config, size, streams = model.config, codes.shape[2], chosen.shape[1]
    # What is chosen at step t is read at step t + 1, so it goes into that slot.
    frames = state.frames + 1
    rows = jnp.arange(chosen.shape[0])[:, None]
    own = jnp.arange(streams)[None]
    codes = codes.at[rows, own, (frames % size)[:, None]].set(chosen)
    late = jnp.array(config.delays[:streams], jnp.int32)[None]
    # Stream k of the aligned frame f lies at f + delay k; the newest f is frames - max_delay.
    aligned = codes[rows, own, (frames[:, None] - config.max_delay + late) % size]
    aligned = jnp.where((frames > config.max_delay)[:, None], aligned, UNGENERATED)
    text = chosen[:, :1]
    silent = (text == config.text_padding) | (text == config.text_padding_end)
    recent = jnp.where(silent, state.recent, jnp.concatenate([state.recent[:, 1:], text], axis=1))
    return LiveState(temporal, codes, frames, recent), aligned


def _hold(
    model: Moshi, active: Bool[Array, "B"], new: LiveState, old: LiveState, guided: bool
) -> LiveState:
    axes = batch_axes(model.temporal.init_state)
    temporal = hold_rows(_twice(active, guided), new.temporal, old.temporal, axes)
    others = [pick_rows(active, n, o, 0) for n, o in zip(new[1:], old[1:], strict=True)]
    return LiveState(temporal, *others)
