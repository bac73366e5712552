"""What the loop runs: a task's pure functions, placed on a mesh and compiled."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from moshijax import sharding
from moshijax.train import chips, flops
from moshijax.train.feed import EvalData, read_ahead


@runtime_checkable
class Task(Protocol):
    """What is trained: pure functions, and arrays that never change."""

    unit: str  # What the rows of a batch are called: images, windows.
    frozen: Any  # Arguments of every step, never saved: a teacher, a codec.

    def init(self, key: jax.Array) -> Any:
        """The state at step 0: models, optimizers, averages."""
        ...

    def update(self, state: Any, frozen: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        """One optimizer step; also returns float32 scalars by name, `loss` among them."""
        ...

    def evaluate(self, state: Any, frozen: Any, batch: Any) -> Any:
        """Sums that add up over batches."""
        ...

    def summarize(self, sums: Any) -> dict[str, float]:
        """Metrics from the sums of a whole set."""
        ...

    def model_flops(self, batch: Any) -> float | None:
        """The model's own FLOPs of an update; None: those of its program are as good."""
        ...


def model_flops(task: Task, batch: Any, jaxpr: Callable[[], Jaxpr]) -> float:
    """The FLOPs of an update of which MFU is told, in a run's log and in a plan of it.

    They are the model's own: nothing that is computed again, and no score that a mask hides, if
    the task knows that; else forward and backward once, as its program has them.
    """
    own = task.model_flops(batch)
    return flops.count(jaxpr(), recomputed=False) if own is None else own


class Program(NamedTuple):
    """A task on a mesh."""

    mesh: Any  # A Mesh, or an AbstractMesh where nothing is to be run.
    shapes: Any
    shardings: Any
    frozen: Any
    init: Callable[..., Any]
    update: jax.stages.Wrapped
    evaluate: Callable[..., Any]

    def undivided(self) -> list[str]:
        """What of the model, its moments alike, and of the frozen arrays the mesh leaves whole."""
        return sharding.undivided({"model": self.shapes[0], "frozen": self.frozen}, self.mesh)


def place(task: Task, mesh: Mesh | AbstractMesh, seed: int, vmem_kib: int = 0) -> Program:
    """Shapes, shardings and jitted functions of a task; compiles nothing yet.

    Args:
        task: what is trained.
        mesh: where.
        seed: of the state at step 0.
        vmem_kib: of a TPU's vector memory, what one operation may fill; 0: the chip's usual.
    """
    shapes = jax.eval_shape(task.init, jax.random.key(seed))
    shardings = sharding.shard_like(shapes, mesh)
    device = None if isinstance(mesh, AbstractMesh) else mesh.devices.flat[0]
    whole = NamedSharding(mesh, P())  # Every process can read what is reported.
    update, measure = _within(mesh, task.update), _within(mesh, task.evaluate)
    return Program(
        mesh=mesh,
        shapes=shapes,
        shardings=shardings,
        frozen=sharding.place(task.frozen, mesh),
        init=jax.jit(task.init, out_shardings=shardings),
        update=jax.jit(
            update,
            donate_argnums=0,
            out_shardings=(shardings, whole),
            compiler_options=compiler_options(device, vmem_kib),
        ),
        evaluate=jax.jit(measure, out_shardings=whole),
    )


def compiler_options(device: Any, vmem_kib: int = 0) -> dict[str, int]:
    """What the compiler for a device, or for none, is told beside its defaults.

    Of matrix products whose blocks may fill more of the vector memory than by default, it counts 5
    to 20% fewer cycles on v5e and v5p, and takes longer to compile them.
    """
    if device is None or device.platform != "tpu":
        return {}
    chip = chips.find(device.device_kind)
    limit = vmem_kib or (chip.vmem_kib if chip else 0)
    return {"xla_tpu_scoped_vmem_limit_kib": limit} if limit else {}


def _within(mesh: Mesh | AbstractMesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Tells kernels, which run on the rows and heads of a device, what the mesh is."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return run


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether no number of a tree is NaN or infinite."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))


def evaluate(task: Task, program: Program, state: Any, sets: Mapping[str, EvalData]) -> dict:
    """All metrics of all sets, named `set/metric`."""
    metrics = {}
    for name, data in sets.items():
        rows = sharding.local_rows(data.batch_size, program.mesh)
        sums = None
        for batch in read_ahead(
            lambda i, d=data, r=rows: d.batch(i, r), 0, data.num_batches - 1, 2
        ):
            placed = sharding.to_mesh(batch, data.batch_size, program.mesh)
            new = program.evaluate(state, program.frozen, placed)
            sums = new if sums is None else jax.tree.map(jnp.add, sums, new)
        summary = task.summarize(jax.device_get(sums))
        metrics |= {f"{name}/{key}": value for key, value in summary.items()}
    return metrics
