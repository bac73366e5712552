"""What a run says: a bar or plain lines, JSON lines, TensorBoard, sounds and figures.

`metrics.jsonl` holds one object a line with `step` and `kind` (train, eval or event); a sound or a
figure stands in it as the path of its file, from the work directory.
"""

import json
import math
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, SupportsFloat

import tqdm

from moshijax.pod import hosts
from moshijax.system.files import unwritable
from moshijax.train import values as samples
from moshijax.train.board import Board
from moshijax.train.values import Figure, Sound, Value
from moshijax.train.workdir import write_text


SHOWN = 4  # How many metrics a line or the bar shows.


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a line cut short by a kill is left out."""
    rows = []
    text = path.read_text("utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and "kind" in row:
            rows.append(row)
    return rows


def _plain(value: SupportsFloat) -> float | str:
    """JSON has no NaN: it is written as its name."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _text(values: Mapping[str, object]) -> str:
    return "  ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()
    )


class Log:
    """The log of one run; in a process other than the first it says nothing.

    Args:
        workdir: of the run.
        num_steps: of the run.
        unit: what a row of a batch is called.
    """

    def __init__(self, workdir: pathlib.Path, num_steps: int, unit: str) -> None:
        self._active = hosts.is_main()
        self._path = workdir / "metrics.jsonl"
        self._num_steps = num_steps
        self._workdir = workdir
        self._unit = unit
        self._seconds = 0.0
        self._bar: tqdm.tqdm | None = None
        self._board: Board | None = None

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            self._board.close()

    def start(self, step: int) -> None:
        """Begins after `step`: rows of later steps are dropped, since they come again."""
        if not self._active:
            return
        rows = [r for r in read_metrics(self._path) if r["step"] <= step or r["kind"] == "event"]
        self._seconds = max((r["seconds"] for r in rows if "seconds" in r), default=0.0)
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))
        self.__exit__()
        self._board = Board(self._workdir)
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=self._num_steps, initial=step, desc=self._workdir.name, unit="step",
                dynamic_ncols=True,
            )  # fmt: skip

    def advance(self) -> None:
        """One step more."""
        if self._bar is not None:
            self._bar.update()

    def _write(self, row: Mapping[str, object]) -> None:
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise unwritable(self._path, error) from error

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def train(
        self, step: int, values: Mapping[str, SupportsFloat], rate: float, seconds: float
    ) -> None:
        """The means of the steps since the last call.

        Args:
            step: the last of them.
            values: means by name.
            rate: rows a second; NaN: not known yet.
            seconds: that passed since the last call.
        """
        if not self._active:
            return
        self._seconds += seconds
        means = {k: _plain(v) for k, v in values.items()}
        speed = {f"{self._unit}_per_s": rate} if math.isfinite(rate) else {}
        speed["seconds"] = round(self._seconds, 3)
        self._write({"step": step, "kind": "train", **means, **speed})
        self._scalars("train", step, means | speed)
        if self._bar is not None:
            self._bar.set_postfix_str(_text(dict(list(means.items())[:SHOWN])))
        else:
            left = seconds_left(self._seconds, step, self._num_steps)
            pace = f"  {rate:.4g} {self._unit}/s" if math.isfinite(rate) else ""
            progress = f"step {step}/{self._num_steps}{pace}  ETA {left}"
            brief = _text(dict(list(means.items())[:SHOWN]))
            self._say(f"{self._workdir.name}: {progress}  {brief}")

    def evaluation(self, step: int, values: Iterable[tuple[str, Value]]) -> None:
        """The values of all evaluators, named `set/metric`, as they come.

        Every process goes through them, since all of them compute; the first one writes.
        """
        found: dict[str, float | str] = {}
        for name, value in values:
            if not self._active:
                continue
            if not isinstance(value, Sound | Figure):
                found[name] = _plain(value)
            elif (path := self._sample(step, name, value)) is not None:
                found[name] = path
        if not found:
            return
        self._write({"step": step, "kind": "eval", **found})
        self._scalars("eval", step, found)
        brief = {k: v for k, v in found.items() if k.endswith(("/accuracy", "/kl", "/loss"))}
        self._say(f"{self._workdir.name}: step {step}  {_text(brief)}")

    def _sample(self, step: int, name: str, value: Sound | Figure) -> str | None:
        """Writes a sound or a figure; returns its path, or None if there is nothing to show."""
        within = samples.path_of(step, name, value)
        path = self._workdir / within
        if not samples.is_whole(value):
            path.unlink(missing_ok=True)  # Of an earlier start of this run.
            self.event(step, f"{name} has NaN or infinite samples: {within} is not written.")
            return None
        samples.write(path, value)
        if self._board is not None:
            self._board.sample(f"eval/{name}", value, path.read_bytes(), step)
        return str(within)

    def event(self, step: int, message: str) -> None:
        """Something a person should know."""
        if self._active:
            self._write({"step": step, "kind": "event", "message": message})
            self._say(f"{self._workdir.name}: step {step}: {message}")

    def _scalars(self, group: str, step: int, values: Mapping[str, float | str]) -> None:
        for name, value in values.items():
            if self._board is not None and not isinstance(value, str):
                self._board.number(f"{group}/{name}", value, step)


def seconds_left(seconds: float, step: int, num_steps: int) -> str:
    """The time left at the speed so far, as h:mm:ss."""
    left = round(seconds / max(step, 1) * (num_steps - step))
    return time.strftime("%H:%M:%S", time.gmtime(left)) if left < 86400 else f"{left / 86400:.1f} d"
