"""Preflight of one config on one slice: what an update takes of memory and time."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence

import jax
from jax.extend.core import Jaxpr
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from moshijax import shard
from moshijax.preflight import collectives, estimate, memory, topology, work
from moshijax.preflight.compile import EXCEEDS, FAILED, FITS, Outcome, compile_for
from moshijax.train import flops, program, settings
from moshijax.train.task import Experiment, find


SHOWN = 8  # How many collectives are listed, the longest first.
DONATED = 0.99  # A note is due if fewer of the outputs take the place of donated arguments.


@dataclasses.dataclass(frozen=True)
class Report:
    """What preflight found."""

    config: str
    kind: str  # Of the batch whose update it is,
    kinds: Sequence[str]  # and all kinds that the config has.
    changes: Mapping[str, object]  # Keys that were set beside it.
    topology: str
    chips: int
    mesh: Mapping[str, int]
    status: str
    notes: Sequence[str]  # What to know or to change.
    compile_seconds: float
    parameters: int
    shares: Sequence[memory.Share]
    batch_bytes: float  # Of one chip.
    unused_bytes: float  # Arguments that the update does not read, but which stay there.
    usage: memory.Usage | None
    collectives: Sequence[collectives.Sum]
    longest: Sequence[collectives.Transfer]
    work: work.Work | None
    flops: estimate.Flops
    time: estimate.Estimate
    run: estimate.Run

    @property
    def fits(self) -> bool:
        """Whether it can be run."""
        return self.status == FITS

    def to_json(self) -> str:
        """Everything, as text."""
        return json.dumps(plain(dataclasses.asdict(self)), indent=1)


def plain(value: object) -> object:
    """Named tuples as objects, and numbers that JSON has."""
    if named := getattr(value, "_asdict", None):
        value = named()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def examine(
    config: ConfigDict,
    slice_: topology.Topology,
    *,
    name: str = "",
    kind: str | None = None,
    changes: Mapping[str, object] | None = None,
    price: float | None = None,
) -> Report:
    """Compiles an update of a config for a slice and adds up what it would take.

    Args:
        config: an experiment; it is not changed.
        slice_: what it would run on.
        name: what the config is called.
        kind: of the batch; None: the first.
        changes: keys that are set in it first.
        price: of a chip for an hour.

    Raises:
        UserError: the config has no task, or its mesh or a batch does not fit the slice.
    """
    config = changed(config, changes or {})
    sizes = check(config, slice_)
    planned = plan(config, sizes)
    kind = next(iter(planned.batches)) if kind is None else kind
    mesh, reason = _mesh(slice_, sizes)
    placed = program.place(planned, mesh, config.seed, config.vmem_kib)
    state = shard.shaped(placed.shapes, placed.shardings)
    batch = shard.batch_shapes(planned.batches[kind], mesh)
    key = jax.eval_shape(jax.random.key, 0)
    if reason:  # Nothing can be placed on a mesh of no devices.
        update = functools.partial(planned.task.update, kind)
        shapes = placed.shapes, planned.task.frozen, planned.batches[kind]
        traced = jax.jit(update).trace(*shapes, key)
    else:
        traced = placed.update[kind].trace(state, placed.frozen, batch, key)
    arguments = sum(map(memory.chip_bytes, (state, placed.frozen, batch)))
    if reason:
        outcome = Outcome(FAILED, reason, 0.0, None, None)
    else:
        outcome = compile_for(traced.lower(), slice_.chip, arguments)
    done = work.count(outcome.module, slice_.chip) if outcome.module else None
    transfers = []
    if outcome.module and not isinstance(mesh, AbstractMesh):
        transfers = collectives.find(outcome.module, topology.lay_out(slice_, mesh))
    arithmetic = _flops(traced.jaxpr.jaxpr, planned.model_flops(kind))
    time = estimate.estimate(arithmetic, slice_.size, slice_.chip, done, transfers)
    usage = outcome.usage
    unused = max(arguments - usage.arguments, 0.0) if usage else 0.0
    return Report(
        config=name,
        kind=kind,
        kinds=tuple(planned.batches),
        changes=changes or {},
        topology=slice_.name,
        chips=slice_.chips,
        mesh=sizes,
        status=_status(outcome, unused),
        notes=[
            *_notes(config, planned, outcome, unused),
            *placed.undivided(),
        ],
        compile_seconds=outcome.seconds,
        parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(placed.shapes[0])),
        shares=memory.shares(state, placed.frozen),
        batch_bytes=memory.chip_bytes(batch),
        unused_bytes=unused,
        usage=usage,
        collectives=collectives.summarize(transfers),
        longest=[t for t in transfers if t.axes][:SHOWN],
        work=done,
        flops=arithmetic,
        time=time,
        run=estimate.whole_run(
            time.step,
            round(config.num_steps * planned.share(kind)),
            planned.counts.get(kind, {}),
            slice_.chips,
            price,
        ),
    )


def check(config: ConfigDict, slice_: topology.Topology) -> dict[str, int]:
    """The mesh that a config has on a slice.

    Raises:
        UserError: it, or what is split over it, does not fit the slice.
    """
    settings.check(config)
    sizes = shard.mesh_sizes(config.mesh, slice_.size)
    shard.check_batch_size(config.batch_size, shard.abstract_mesh(sizes), config.accumulate)
    return sizes


def plan(config: ConfigDict, sizes: Mapping[str, int]) -> Experiment:
    """The experiment of a config, told by shapes alone; what its batches are is checked too."""
    mesh = shard.abstract_mesh(sizes)
    planned = find(config)(config, mesh)
    for kind in planned.batches:
        shard.check_batch_size(planned.num_rows(kind), mesh, name=f"batch of {kind}")
    return planned


def kinds(config: ConfigDict, slice_: topology.Topology) -> list[str]:
    """The kinds of batches of a config, each with an update of its own."""
    return list(plan(config, check(config, slice_)).batches)


def changed(config: ConfigDict, changes: Mapping[str, object]) -> ConfigDict:
    """A copy with some keys, such as `mesh.fsdp`, set."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(dict(changes))
    return config


def _mesh(slice_: topology.Topology, sizes: Mapping[str, int]) -> tuple[shard.AnyMesh, str]:
    """A mesh over the slice; where libtpu does not know it an abstract one, and why."""
    topology.check_libtpu()
    try:
        return shard.make_mesh(sizes, topology.devices(slice_)), ""
    except topology.UnknownSliceError as error:
        return shard.abstract_mesh(sizes), str(error)


def _flops(jaxpr: Jaxpr, own: float | None) -> estimate.Flops:
    return estimate.Flops(
        executed=flops.count(jaxpr),
        model=flops.count(jaxpr, recomputed=False) if own is None else own,
        kernels=flops.count_kernels(jaxpr),
    )


def _status(outcome: Outcome, unused: float) -> str:
    usage = outcome.usage
    over = usage is not None and usage.needed + unused > usage.available
    return EXCEEDS if over else outcome.status


def _notes(
    config: ConfigDict, planned: Experiment, outcome: Outcome, unused: float
) -> Sequence[str]:
    notes, usage = [], outcome.usage
    if outcome.status == FAILED:
        notes.append(f"The compiler gave up: {outcome.message}")
        notes.append("Memory is that of the arguments alone, time that of all arithmetic at peak.")
    if usage and outcome.status == FITS and usage.aliased < DONATED * usage.outputs:
        notes.append(
            f"{(usage.outputs - usage.aliased) / 2**30:.2f} GiB of what a step returns do not take "
            "the place of what it was given: the state is kept twice."
        )
    if usage and usage.needed + unused > usage.available:
        notes += remedies(config, planned, usage, unused)
    return notes


def remedies(
    config: ConfigDict, planned: Experiment, usage: memory.Usage, unused: float
) -> list[str]:
    """What would make a program fit, the smallest change first."""
    over = usage.needed + unused - usage.available
    notes = [f"{over / 2**30:.2f} GiB too many for a chip."]
    room = usage.available - usage.arguments - unused
    if room <= 0:
        notes.append("The state alone is too large: raise mesh.fsdp, or take a larger slice.")
        return notes
    if usage.arguments > usage.temporaries:
        notes.append("Most of it is the state: raise mesh.fsdp.")
    pieces = usage.temporaries / room
    for key, values in planned.choices.items():
        now = read(config, key)
        later = values[values.index(now) + 1 :] if now in values else values
        if key == "accumulate":
            least = config.accumulate * pieces
            later = [n for n in later if isinstance(n, int) and n >= least] or later[-1:]
        if later:
            notes.append(f"Try --config.{key}={later[0]}.")
    notes.append(f"Or a batch_size of {math.floor(config.batch_size / pieces)} or less.")
    notes.append("--fit tries such changes and ranks what fits.")
    return notes


def read(config: ConfigDict, key: str) -> object:
    """The value at a dotted key."""
    *tables, last = key.split(".")
    return functools.reduce(ConfigDict.__getitem__, tables, config)[last]
