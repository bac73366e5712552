"""Reading of one checkpoint, the whole of it or a part, by each process for itself."""

import pathlib
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh, NamedSharding

from moshijax.shard import Rules, parameter_spec
from moshijax.system.errors import UserError
from moshijax.train import intact


def state(
    folder: pathlib.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array | np.ndarray]:
    """The arrays of a checkpoint, proven to be those that were written.

    Args:
        folder: of the checkpoint.
        wanted: shapes and shardings of the state's arrays, by name.

    Raises:
        Damaged: the checkpoint is not what was written.
        UserError: it is, and holds another state.
        Exception: it cannot be read, and is not proven damaged: no memory, no storage.
    """
    record = intact.read_record(folder)
    share = slice(jax.process_index(), None, jax.process_count())
    intact.check_index(folder, record or (), share)
    if record is not None:
        _check_same(folder, wanted, record)
    args = ocp.args.StandardRestore(dict(wanted))
    leaves = _read(folder, ocp.StandardCheckpointHandler, args)
    if record is not None:
        intact.check_digests(leaves, record)
    return leaves


def _check_same(
    folder: pathlib.Path, wanted: Mapping[str, jax.ShapeDtypeStruct], record: intact.Record
) -> None:
    ours = {name: [str(x.dtype), list(x.shape)] for name, x in wanted.items()}
    theirs = {name: [about.dtype, about.shape] for name, about in record.items()}
    odd = sorted(n for n in ours | theirs if ours.get(n) != theirs.get(n))
    if odd:
        raise UserError(
            f"the checkpoint of step {folder.name} holds another state: {odd[0]} is "
            f"{theirs.get(odd[0])} there and {ours.get(odd[0])} here ({len(odd)} such arrays): go "
            "on with the code that wrote it, or take another --workdir."
        )


def _read(
    folder: pathlib.Path,
    handler: type[ocp.StandardCheckpointHandler] | type[ocp.PyTreeCheckpointHandler],
    args: ocp.args.StandardRestore | ocp.args.PyTreeRestore,
) -> dict[str, jax.Array | np.ndarray]:
    """Reads without a barrier: where one process fails, the others would wait for ever."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    way = handler(multiprocessing_options=alone)
    try:
        with ocp.Checkpointer(way, multiprocessing_options=alone) as reader:
            return dict(reader.restore(folder / intact.ITEM, args=args))
    except Exception:
        intact.check_whole(folder)  # Raises Damaged if the files are at fault.
        raise


def part(
    folder: pathlib.Path, prefix: str, mesh: Mesh | None, rules: Rules
) -> dict[str, jax.Array]:
    """The arrays of a checkpoint whose names begin with a prefix, by the rest of their name.

    Raises:
        Damaged: it is not whole.
    """
    record = intact.read_record(folder)
    intact.check_index(folder, record or ())
    shapes = {n: s for n, s in _shapes(folder, record).items() if n.startswith(prefix)}
    leaves = _read_some(folder, shapes, record, mesh, rules)
    return {name.removeprefix(prefix): leaf for name, leaf in leaves.items()}


def names(folder: pathlib.Path, prefix: str) -> list[str]:
    """The names of a checkpoint's arrays that begin with a prefix."""
    found = _shapes(folder, intact.read_record(folder))
    return sorted(name for name in found if name.startswith(prefix))


def one_by_one(folder: pathlib.Path, prefix: str) -> Iterator[tuple[str, jax.Array]]:
    """The arrays of `part`, one after the other, so that no more than one is in memory.

    Raises:
        Damaged: the checkpoint is not whole.
    """
    record = intact.read_record(folder)
    intact.check_index(folder, record or ())
    for name, shape in sorted(_shapes(folder, record).items()):
        if name.startswith(prefix):
            leaf = _read_some(folder, {name: shape}, record, None, ())[name]
            yield name.removeprefix(prefix), leaf


def _read_some(
    folder: pathlib.Path,
    shapes: Mapping[str, tuple[int, ...]],
    record: intact.Record | None,
    mesh: Mesh | None,
    rules: Rules,
) -> dict[str, jax.Array]:
    args = ocp.args.PyTreeRestore(
        item=dict.fromkeys(shapes, 0),
        restore_args={name: _target(name, shape, mesh, rules) for name, shape in shapes.items()},
        partial_restore=True,
    )
    found = _read(folder, ocp.PyTreeCheckpointHandler, args)
    leaves = {name: jnp.asarray(found[name]) for name in shapes}
    if record is not None:
        intact.check_digests(leaves, record)
    return leaves


def _shapes(folder: pathlib.Path, record: intact.Record | None) -> dict[str, tuple[int, ...]]:
    """Shapes of a checkpoint's arrays by name."""
    if record is not None:
        return {name: tuple(about.shape) for name, about in record.items()}
    described = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder / intact.ITEM)).tree
    return {name: array.shape for name, array in described.items()}


def _target(name: str, shape: tuple[int, ...], mesh: Mesh | None, rules: Rules) -> ocp.RestoreArgs:
    """Where an array is put: without a mesh on the host, as what wrote it may have been larger."""
    if mesh is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(
        sharding=NamedSharding(mesh, parameter_spec(name, shape, mesh, rules))
    )
