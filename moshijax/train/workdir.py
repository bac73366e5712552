"""What a run keeps on disk: its config, its checkpoints, the orders its data was read in.

Every small file is written beside its place and renamed, so that a kill at any moment
leaves the old or the new one. Orbax does the same for checkpoints.
"""

import json
import pathlib
import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from moshijax import hosts
from moshijax.files import replacing
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.sharding import parameter_spec, shaped


# Keys that change what is logged and kept, or how the work is split, not what is computed.
BOOKKEEPING = (
    *("log_every", "eval_every", "checkpoint_every"),
    *("final_sets", "keep_checkpoints", "read_ahead", "profile", "vmem_kib"),
    *("mesh.data", "mesh.fsdp", "mesh.tensor", "accumulate"),
)
SHARED_WITHIN = 60  # Seconds in which a file on shared storage must be seen by all hosts.


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a whole file or none of it."""
    with replacing(path, "w") as file:
        file.write(text)


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix: config}
    items = {}
    for key, value in config.items():
        items |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return items


def _changes(theirs: dict[str, Any], mine: dict[str, Any]) -> str:
    """What differs between two configs."""
    theirs, mine = _flat(theirs), _flat(mine)
    return "; ".join(
        f"{key} was {theirs.get(key)!r}, is now {mine.get(key)!r}"
        for key in sorted(theirs.keys() | mine.keys())
        if theirs.get(key) != mine.get(key) and key not in BOOKKEEPING
    )


def claim(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Makes the directory this config's own, for all processes of a run.

    Raises:
        ValueError: it belongs to a run with another config, or the processes have different
            configs, or they do not see the same directory.
    """
    path = workdir / "config.json"
    ours = json.loads(config.to_json(indent=1))
    text = json.dumps(ours, indent=1) + "\n"
    odd = hosts.where(hosts.tell(text) != text)
    if odd:
        raise ValueError(
            f"processes {odd} have another config than process 0: start the same command on "
            "every host."
        )
    changed = ""
    if hosts.first() and path.exists():
        changed = _changes(json.loads(path.read_text()), ours)
    changed = hosts.tell(changed)
    if changed:
        raise ValueError(
            f"{workdir} belongs to another config ({changed}): "
            "take another --workdir, or the config it was started with."
        )
    if hosts.first():
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    _check_shared(path, text)


def _check_shared(path: pathlib.Path, text: str) -> None:
    """Every process must see what the first wrote; shared storage may take a while."""
    hosts.tell("")  # It is written by now.
    until = time.monotonic() + SHARED_WITHIN
    while not (seen := path.exists() and path.read_text() == text) and time.monotonic() < until:
        time.sleep(1)
    blind = hosts.where(not seen)
    if blind:
        raise ValueError(
            f"{path.parent} is not the same directory for processes {blind} and process 0: put "
            "--workdir on storage that all hosts share."
        )


class DataOrder:
    """Which shuffling each stretch of the run reads: another one after every rollback."""

    def __init__(self, workdir: pathlib.Path) -> None:
        self._path = workdir / "orders.json"
        starts = json.loads(self._path.read_text()) if self._path.exists() else [0]
        self._starts = hosts.tell_json(starts)

    @property
    def rollbacks(self) -> int:
        """How often the run was rolled back so far."""
        return len(self._starts) - 1

    def at(self, step: int) -> int:
        """The order that this step's batch is read in: the last that begins before it."""
        return max(order for order, start in enumerate(self._starts) if start < step or order == 0)

    def renew(self, step: int) -> None:
        """From after `step` on, reads in an order not used before."""
        self._starts.append(step)
        if hosts.first():
            write_text(self._path, json.dumps(self._starts))


class Checkpoints:
    """The states of a run, saved while it goes on; any tree, any mesh."""

    def __init__(self, workdir: pathlib.Path, keep: int) -> None:
        self._root = workdir.absolute() / "checkpoints"
        self._broken = workdir.absolute() / "broken_checkpoints"
        self._manager = self._open(keep)
        self._keep = keep

    def _open(self, keep: int) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._root, options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def newest(self) -> int:
        """The step of the newest checkpoint, 0 if there is none."""
        return max(self._manager.all_steps(), default=0)

    def save(self, step: int, state: Any) -> None:
        """Copies the state and writes it in the background; a step already there stays."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(named_leaves(state)))

    def restore(self, shapes: Any, shardings: Any) -> tuple[Any, int] | None:
        """The newest state that can be read, and its step; None if there is none.

        An unreadable checkpoint is moved out of the way, never deleted.

        Raises:
            ValueError: there were checkpoints and none can be read.
        """
        self._manager.wait_until_finished()
        wanted = shaped(shapes, shardings)
        steps = hosts.tell_json(sorted(self._manager.all_steps(), reverse=True))
        for step in steps:
            leaves, problem = self._read(step, named_leaves(wanted))
            blind = hosts.where(leaves is None)
            if not blind:
                return with_leaves(shapes, leaves), step
            self._set_aside(step, problem or f"process {blind[0]} could not")
        if steps:
            raise ValueError(
                f"{self._root}: none of the checkpoints {steps} can be read; they are kept in "
                f"{self._broken}; run again to start from the beginning."
            )
        return None

    def _read(self, step: int, wanted: dict[str, Any]) -> tuple[Any, str]:
        """The leaves of a checkpoint, or None and why it cannot be read."""
        try:
            with _reader(ocp.StandardCheckpointHandler) as reader:
                args = ocp.args.StandardRestore(wanted)
                return dict(reader.restore(self._root / str(step) / "default", args=args)), ""
        except Exception as error:  # Orbax names no common class for damage on disk.
            return None, (str(error).strip() or type(error).__name__).splitlines()[0][:200]

    def _set_aside(self, step: int, reason: str) -> None:
        logging.warning(
            "checkpoint %s/%d cannot be read (%s): moved to %s, going on from the one before.",
            self._root, step, reason, self._broken,
        )  # fmt: skip
        self._manager.close()
        if hosts.first():
            self._broken.mkdir(exist_ok=True)
            shutil.rmtree(self._broken / str(step), ignore_errors=True)
            (self._root / str(step)).rename(self._broken / str(step))
        hosts.tell("")  # It is moved by now.
        self._manager = self._open(self._keep)


def _reader(handler: Any) -> ocp.Checkpointer:
    """Reads for this process alone: to wait for another, whose read failed, would be for ever."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    return ocp.Checkpointer(handler(multiprocessing_options=alone), multiprocessing_options=alone)


def load_leaves(workdir: str, prefix: str, mesh: Mesh | None = None) -> dict[str, Any]:
    """The arrays under `prefix/` of a run's newest checkpoint, by the rest of their name.

    With a mesh each process reads its part of them onto it.

    Raises:
        ValueError: the directory has no checkpoint.
    """
    root = pathlib.Path(workdir).absolute() / "checkpoints"
    steps = ocp.utils.checkpoint_steps(root) if root.is_dir() else []
    if not steps:
        raise ValueError(f"{workdir} has no checkpoint: train it first, or name another directory.")
    folder = root / str(max(steps)) / "default"
    with _reader(ocp.PyTreeCheckpointHandler) as reader:
        found = {n: x.shape for n, x in _described(folder).items() if n.startswith(f"{prefix}/")}
        args = ocp.args.PyTreeRestore(
            item=dict.fromkeys(found, 0),
            restore_args={name: _target(name, shape, mesh) for name, shape in found.items()},
            partial_restore=True,
        )
        leaves = reader.restore(folder, args=args)
    return {n.removeprefix(f"{prefix}/"): jnp.asarray(leaves[n]) for n in found}


def _target(name: str, shape: tuple[int, ...], mesh: Mesh | None) -> ocp.RestoreArgs:
    """Where an array goes: to the host unless told, for its devices of old may not be here."""
    if mesh is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=NamedSharding(mesh, parameter_spec(name, shape, mesh)))


def _described(folder: pathlib.Path) -> dict[str, Any]:
    """Shapes and types of a checkpoint's leaves by name."""
    return dict(ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree)
