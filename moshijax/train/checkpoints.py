"""The states of a run on disk: written in the background, read back before older ones go.

A checkpoint is a folder whose name is its step; whatever else lies beside it is left alone. It
appears whole, by a rename, and is set aside only when it is proven damaged.
"""

import contextlib
import itertools
import os
import pathlib
import re
import shutil
import time
from collections.abc import Generator, Mapping
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jaxtyping import PyTree

from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.pod import hosts
from moshijax.shard import Rules, shaped
from moshijax.system.errors import UserError
from moshijax.system.paths import local_path, plain_path
from moshijax.train import intact, restore
from moshijax.train.intact import Damaged


Tree = TypeVar("Tree")
STEP = re.compile(r"0|[1-9][0-9]*")
UNFINISHED = re.compile(r".+\.orbax-checkpoint-tmp.*|[0-9]+\.old")  # Of a run that was killed.
RETRY_AFTER = 5  # Seconds until a failed read is tried again: shared storage may recover.


class Checkpoints:
    """The states of a run, saved in the background; any tree, any mesh.

    Args:
        workdir: of the run.
        keep: how many of the newest checkpoints stay.
    """

    def __init__(self, workdir: pathlib.Path, keep: int) -> None:
        self._root = workdir.absolute() / "checkpoints"
        self._broken = workdir.absolute() / "broken_checkpoints"
        self._keep = keep
        if hosts.is_main():
            self._root.mkdir(parents=True, exist_ok=True)
            _clean(self._root)
        self._steps: list[int] = hosts.broadcast_json(
            find_steps(self._root) if hosts.is_main() else []
        )
        # The step and the arrays of a checkpoint that is not read back yet.
        self._written: tuple[int, list[str]] | None = None
        self._open = contextlib.ExitStack()
        self._place = self._open.enter_context(plain_path(self._root))
        self._saver = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._open, contextlib.closing(self._saver):
            # After an error of one process the others may never reach the collectives of settle().
            self.settle() if kind is None else self._saver.wait_until_finished()

    def newest(self) -> int:
        """The step of the newest checkpoint, 0 if there is none; waits for one being written."""
        self.settle()
        return max(self._steps, default=0)

    def save(self, step: int, state: PyTree[jax.Array]) -> None:
        """Copies the state and writes it in the background, unless the step is there already.

        Raises:
            UserError: this checkpoint or the one before cannot be written: the disk may be full.
        """
        self.settle()
        if step in self._steps:
            return
        leaves = named_leaves(state)
        record = intact.to_metadata(intact.record_of(leaves))
        items = ocp.args.Composite(**{intact.ITEM: ocp.args.StandardSave(leaves)})
        try:
            self._saver.save(self._place / str(step), items, custom_metadata=record)
        except (OSError, ValueError) as error:
            raise self._unwritten(step, error) from error
        self._written = (step, list(leaves))

    def settle(self) -> None:
        """Waits for the checkpoint being written and reads it back; then deletes the oldest.

        Raises:
            UserError: it could not be written, or cannot be read.
        """
        if self._written is None:
            return
        (step, names), self._written = self._written, None
        problem = None
        try:
            self._saver.wait_until_finished()
            share = slice(jax.process_index(), None, jax.process_count())
            intact.check_index(self._place / str(step), names, share)
            if hosts.is_main():
                intact.seal(self._place / str(step))
        except (OSError, ValueError, Damaged) as error:
            problem = error
        if blind := hosts.processes_where(problem is not None):
            error = problem or OSError(f"process {blind[0]} failed")
            raise self._unwritten(step, error) from problem
        self._steps = sorted({*self._steps, step})
        for old in self._steps[: -self._keep]:
            if hosts.is_main():
                _remove(self._root / str(old))
        self._steps = self._steps[-self._keep :]

    def _unwritten(self, step: int, error: Exception) -> UserError:
        """The error of a checkpoint not written, whose parts are removed: the log needs room."""
        if hosts.is_main():
            _clean(self._root)
        last = f"that of step {self._steps[-1]} is whole" if self._steps else "there is none before"
        return UserError(
            f"the checkpoint of step {step} cannot be written to {self._root} "
            f"({self._reason(error)}); {last}: make room there, then the same command goes on."
        )

    def _reason(self, error: Exception) -> str:
        """An error's first line, with the folder's own name."""
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        return text.replace(str(self._place), str(self._root))[:300]

    def restore(self, shapes: Tree, shardings: PyTree[NamedSharding]) -> tuple[Tree, int] | None:
        """The newest state that is whole, and its step; None if there is none.

        A damaged checkpoint is moved out of the way, never deleted. One that cannot be read for
        another reason, such as memory, stays where it is and ends the run.

        Raises:
            UserError: there were checkpoints and none is whole, or one is of another state.
        """
        self.settle()
        wanted = named_leaves(shaped(shapes, shardings))
        for step in sorted(self._steps, reverse=True):
            leaves, problem = self._read(step, wanted)
            if found := hosts.processes_where(isinstance(problem, Damaged)):
                other = Damaged(f"process {found[0]} finds it damaged")
                self._set_aside(step, problem if isinstance(problem, Damaged) else other)
                continue
            if failed := hosts.processes_where(problem is not None):
                raise problem or UserError(
                    f"process {failed[0]} could not read {self._root / str(step)}: it stays there, "
                    "the same command goes on from it."
                )
            return with_leaves(shapes, leaves), step
        aside = find_steps(self._broken)
        if hosts.broadcast_json(aside):
            raise UserError(
                f"{self._root}: none of the checkpoints {aside} is whole; they are kept in "
                f"{self._broken}: take another --workdir, or move that folder away to begin anew "
                "in this one."
            )
        return None

    def _read(
        self, step: int, wanted: Mapping[str, jax.ShapeDtypeStruct]
    ) -> tuple[dict[str, jax.Array | np.ndarray], Exception | None]:
        """The leaves of a checkpoint; none, and why this process cannot read them."""
        for last in (False, True):
            try:
                return restore.state(self._place / str(step), wanted), None
            except (OSError, ValueError, Damaged) as error:
                problem = error
            except Exception as error:  # Out of memory, say: it keeps its traceback.
                where = self._root / str(step)
                error.add_note(f"{where} is not proven damaged and stays in its place.")
                return {}, error
            if isinstance(problem, UserError) or last:
                break
            time.sleep(RETRY_AFTER)
        if isinstance(problem, UserError | Damaged):
            return {}, problem
        reason = f"{self._root / str(step)} could not be read ({self._reason(problem)})"
        return {}, UserError(
            f"{reason}, yet nothing shows that it is damaged: it stays there, the same command "
            "goes on from it."
        )

    def _set_aside(self, step: int, finding: Damaged) -> None:
        logging.warning(
            "checkpoint %s/%d is damaged (%s): moved to %s, going on from the one before.",
            self._root, step, self._reason(finding), self._broken,
        )  # fmt: skip
        if hosts.is_main():
            self._broken.mkdir(exist_ok=True)
            names = (f"{step}.{i}" if i else str(step) for i in itertools.count())
            free = next(name for name in names if not (self._broken / name).exists())
            (self._root / str(step)).rename(self._broken / free)
        hosts.broadcast("")  # A barrier: process 0 has moved it.
        self._steps.remove(step)


def is_run(folder: pathlib.Path) -> bool:
    """Whether a folder is a work directory that has checkpoints, whatever else lies in it."""
    return bool(find_steps(folder / "checkpoints"))


def find_steps(root: pathlib.Path) -> list[int]:
    """The steps of a folder of checkpoints, in order; other names are left alone."""
    there = root.iterdir() if root.is_dir() else ()
    names = [p.name for p in there if STEP.fullmatch(p.name) and p.is_dir()]
    return sorted(int(name) for name in names if any((root / name).iterdir()))


def _clean(root: pathlib.Path) -> None:
    """Removes what a killed run left unfinished, and empty folders in a checkpoint's place."""
    for path in root.iterdir():
        if UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path)
        elif STEP.fullmatch(path.name) and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _remove(folder: pathlib.Path) -> None:
    """Removes a checkpoint, renamed first: a kill leaves no half of it under its name."""
    old = folder.with_name(f"{folder.name}.old")
    folder.rename(old)
    shutil.rmtree(old)


def load_leaves(
    workdir: str, prefix: str, mesh: Mesh | None = None, rules: Rules = ()
) -> dict[str, jax.Array]:
    """The arrays under `prefix/` of a run's newest checkpoint, by the rest of their name.

    Args:
        workdir: of the run.
        prefix: the part of the state, such as `model`.
        mesh: onto which each process reads its part of the arrays; None: whole arrays.
        rules: the sharding of the arrays by the rest of their name; read with a mesh only.

    Raises:
        UserError: the directory has no checkpoint, or the newest is damaged.
    """
    with newest(workdir) as folder:
        return restore.part(folder, f"{prefix}/", mesh, rules)


def parameters_of(folder: pathlib.Path) -> str:
    """The part of the state that is evaluated, exported and loaded: its average if it has one."""
    return "average" if restore.names(folder, "average/") else "model"


def load_parameters(
    workdir: str, mesh: Mesh | None = None, rules: Rules = ()
) -> dict[str, jax.Array]:
    """The parameters of a run's newest checkpoint by name: their average, if it has one.

    Raises:
        UserError: the directory has no checkpoint, or the newest is damaged.
    """
    with newest(workdir) as folder:
        return restore.part(folder, f"{parameters_of(folder)}/", mesh, rules)


@contextlib.contextmanager
def newest(workdir: str | os.PathLike[str]) -> Generator[pathlib.Path]:
    """The folder of a run's newest checkpoint, to read from.

    Raises:
        UserError: the directory has no checkpoint, or the newest is damaged.
    """
    root = local_path("load", workdir).absolute() / "checkpoints"
    steps = find_steps(root)
    if not steps:
        raise UserError(f"{workdir} has no checkpoint: train it first, or name another directory.")
    try:
        with plain_path(root) as place:
            yield place / str(steps[-1])
    except Damaged as damage:
        raise UserError(
            f"{root / str(steps[-1])} is damaged ({damage}): move it away to read the one before."
        ) from damage
