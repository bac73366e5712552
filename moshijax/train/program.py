"""What the loop runs: a task's pure functions, placed on a mesh and compiled."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from moshijax import shard
from moshijax.train import chips
from moshijax.train.task import Experiment, Metrics, State


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


NEVER_MIB = 1 << 20  # Of a gathered operand: more than any device has.
# All-gathers run beside products, as MaxText asks for on v5p too. Of Helium's 32B over fsdp 16 x
# tensor 4 the compiler then counts 98 gathers of streams, not 162, and 5.5 s of products, not 6.4.
GATHER_BESIDE = dict.fromkeys(
    (
        "xla_tpu_enable_async_collective_fusion",
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather",
        "xla_tpu_enable_async_collective_fusion_multiple_steps",
        "xla_tpu_overlap_compute_collective_tc",
        "xla_enable_async_all_gather",
    ),
    True,
)


class Program(NamedTuple):
    """An experiment on a mesh."""

    mesh: shard.AnyMesh
    rules: shard.Rules
    shapes: PyTree[jax.ShapeDtypeStruct]  # Of the state.
    shardings: PyTree[NamedSharding]
    frozen: PyTree[jax.Array | jax.ShapeDtypeStruct]
    init: Callable[[jax.Array], PyTree[jax.Array]]
    begin: jax.stages.Wrapped | None
    update: Mapping[str, jax.stages.Wrapped]  # By kind of batch.

    def undivided(self) -> list[str]:
        """What the mesh does not divide of parameters and frozen arrays: a line for each axis."""
        # A live session's state begins with its caches; rules know them by the field's name.
        first = getattr(self.shapes, "_fields", ("model",))[0]
        arrays = {first: self.shapes[0], "frozen": self.frozen}
        return shard.undivided(arrays, self.mesh, self.rules)


def place(experiment: Experiment, mesh: shard.AnyMesh, seed: int, vmem_kib: int = 0) -> Program:
    """Shapes, shardings and jitted functions of an experiment; compiles nothing yet.

    Args:
        experiment: what is trained.
        mesh: the devices, or an abstract mesh to plan on.
        seed: of the state at step 0.
        vmem_kib: of a TPU's vector memory, what one operation may fill; 0: the chip's usual.
    """
    task = experiment.task
    shapes = jax.eval_shape(task.init, jax.random.key(seed))
    shardings = shard.shard_like(shapes, mesh, task.rules)
    device = None if isinstance(mesh, AbstractMesh) else mesh.devices.flat[0]
    whole = NamedSharding(mesh, P())  # Replicated: every process reads the metrics.
    options = compiler_options(device, vmem_kib, mesh.shape["tensor"])

    def compiled(kind: str) -> jax.stages.Wrapped:
        def update(
            state: State, frozen: PyTree[jax.Array], batch: PyTree[jax.Array], key: jax.Array
        ) -> tuple[State, Metrics]:
            return task.update(kind, state, frozen, batch, key)

        run, outputs = within(mesh, update), (shardings, whole)
        return jax.jit(run, donate_argnums=0, out_shardings=outputs, compiler_options=options)

    begin = None
    if task.begin is not None:
        begin = jax.jit(within(mesh, task.begin), donate_argnums=0, out_shardings=shardings)
    return Program(
        mesh=mesh,
        rules=task.rules,
        shapes=shapes,
        shardings=shardings,
        frozen=shard.place(task.frozen, mesh, task.rules),
        init=jax.jit(task.init, out_shardings=shardings),
        begin=begin,
        update={kind: compiled(kind) for kind in experiment.batches},
    )


def compiler_options(
    device: chips.Device | None, vmem_kib: int = 0, tensor: int = 1
) -> dict[str, int | bool]:
    """What the compiler for a device, or for none, is told beside its defaults.

    Of matrix products whose blocks may fill more of the vector memory than by default, it counts 5
    to 20% fewer cycles on v5e and v5p, and takes longer to compile them. Products with gathered
    weights stay whole: over `fsdp` beside `tensor` it would cut each into one for every device's
    share of the weight, which take twice the cycles and add up in bfloat16.

    Args:
        device: one that runs the program.
        vmem_kib: of its vector memory, what one operation may fill; 0: the chip's usual.
        tensor: the size of the mesh's axis `tensor`, over which streams are gathered in each layer.
    """
    if device is None or device.platform != "tpu":
        return {}
    chip = chips.find(device.device_kind)
    limit = vmem_kib or (chip.vmem_kib if chip else 0)
    vmem = {"xla_tpu_scoped_vmem_limit_kib": limit} if limit else {}
    beside = GATHER_BESIDE if tensor > 1 and chip is chips.CHIPS["v5p"] else {}
    return {"xla_jf_spmd_threshold_for_windowed_einsum_mib": NEVER_MIB} | vmem | beside


def within(
    mesh: shard.AnyMesh, function: Callable[Arguments, Result]
) -> Callable[Arguments, Result]:
    """The function with the mesh set, for sharding constraints and for kernels in shard_map."""

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return run


@jax.jit
def all_finite(tree: PyTree[jax.Array]) -> jax.Array:
    """Whether no number of a tree is NaN or infinite."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))
