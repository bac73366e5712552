"""What a run keeps on disk: its config, its checkpoints, the orders its data was read in.

Every small file is written beside its place and renamed, so that a kill at any moment
leaves the old or the new one. Orbax does the same for checkpoints.
"""

import json
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from ml_collections import ConfigDict

from moshijax.files import replacing
from moshijax.nn.paths import named_leaves, with_leaves


# Keys that change what is logged and kept, not what is computed.
BOOKKEEPING = (
    *("log_every", "eval_every", "checkpoint_every"),
    *("final_sets", "keep_checkpoints", "read_ahead"),
)


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


def claim(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Makes the directory this config's own.

    Raises:
        ValueError: it belongs to a run with another config.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "config.json"
    ours = json.loads(config.to_json(indent=1))
    if path.exists():
        theirs, mine = _flat(json.loads(path.read_text())), _flat(ours)
        changed = [
            f"{key} was {theirs.get(key)!r}, is now {mine.get(key)!r}"
            for key in sorted(theirs.keys() | mine.keys())
            if theirs.get(key) != mine.get(key) and key not in BOOKKEEPING
        ]
        if changed:
            raise ValueError(
                f"{workdir} belongs to another config ({'; '.join(changed)}): "
                "take another --workdir, or the config it was started with."
            )
    if jax.process_index() == 0:
        write_text(path, json.dumps(ours, indent=1) + "\n")


class DataOrder:
    """Which shuffling each stretch of the run reads: another one after every rollback."""

    def __init__(self, workdir: pathlib.Path) -> None:
        self._path = workdir / "orders.json"
        self._starts = json.loads(self._path.read_text()) if self._path.exists() else [0]

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
        if jax.process_index() == 0:
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
        wanted = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
        )
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                args = ocp.args.StandardRestore(named_leaves(wanted))
                leaves = self._manager.restore(step, args=args)
            except Exception as error:  # Orbax names no common class for damage on disk.
                self._set_aside(step, error)
                continue
            return with_leaves(shapes, dict(leaves)), step
        if steps:
            raise ValueError(
                f"{self._root}: none of the checkpoints {steps} can be read; they are kept in "
                f"{self._broken}; run again to start from the beginning."
            )
        return None

    def _set_aside(self, step: int, error: Exception) -> None:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        logging.warning(
            "checkpoint %s/%d cannot be read (%s): moved to %s, going on from the one before.",
            self._root, step, reason, self._broken,
        )  # fmt: skip
        self._manager.close()
        if jax.process_index() == 0:
            self._broken.mkdir(exist_ok=True)
            shutil.rmtree(self._broken / str(step), ignore_errors=True)
            (self._root / str(step)).rename(self._broken / str(step))
        self._manager = self._open(self._keep)


def load_leaves(workdir: str, prefix: str) -> dict[str, Any]:
    """The arrays under `prefix/` of a run's newest checkpoint, by the rest of their name.

    Raises:
        ValueError: the directory has no checkpoint.
    """
    root = pathlib.Path(workdir).absolute() / "checkpoints"
    steps = ocp.utils.checkpoint_steps(root) if root.is_dir() else []
    if not steps:
        raise ValueError(f"{workdir} has no checkpoint: train it first, or name another directory.")
    with ocp.CheckpointManager(root) as manager:
        leaves = manager.restore(max(steps), args=ocp.args.StandardRestore())
    names = [n for n in leaves if n.startswith(f"{prefix}/")]
    return {n.removeprefix(f"{prefix}/"): leaves[n] for n in names}
