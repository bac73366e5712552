"""What a run says: a bar or plain lines, JSON lines, TensorBoard.

`metrics.jsonl` holds one object a line with `step` and `kind` (train, eval or event).
"""

import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import tqdm
from tensorboard.summary import Writer

from moshijax import hosts
from moshijax.files import unwritable
from moshijax.train.workdir import write_text


SHOWN = 4  # Numbers that fit beside a bar.


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


def _plain(value: Any) -> Any:
    """JSON has no NaN: it is written as its name."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _text(values: Mapping[str, Any]) -> str:
    return "  ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()
    )


class Log:
    """The log of one run; in a process other than the first it says nothing."""

    def __init__(self, workdir: pathlib.Path, num_steps: int, unit: str) -> None:
        self._active = hosts.first()
        self._path = workdir / "metrics.jsonl"
        self._num_steps = num_steps
        self._workdir = workdir
        self._unit = unit
        self._seconds = 0.0
        self._bar: tqdm.tqdm | None = None
        self._board: Writer | None = None

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
        self._board = Writer(str(self._workdir))
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=self._num_steps, initial=step, desc=self._workdir.name, unit="step",
                dynamic_ncols=True,
            )  # fmt: skip

    def advance(self) -> None:
        """One step more."""
        if self._bar is not None:
            self._bar.update()

    def _write(self, row: dict[str, Any]) -> None:
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

    def train(self, step: int, values: Mapping[str, Any], rate: float, seconds: float) -> None:
        """The means of the last steps, and how fast they went (units and seconds)."""
        if not self._active:
            return
        self._seconds += seconds
        values = {k: _plain(v) for k, v in values.items()}
        speed = {f"{self._unit}_per_s": rate} if math.isfinite(rate) else {}
        speed["seconds"] = round(self._seconds, 3)
        self._write({"step": step, "kind": "train", **values, **speed})
        self._scalars("train", step, values | speed)
        if self._bar is not None:
            self._bar.set_postfix_str(_text(dict(list(values.items())[:SHOWN])))
        else:
            left = seconds_left(self._seconds, step, self._num_steps)
            pace = f"  {rate:.4g} {self._unit}/s" if math.isfinite(rate) else ""
            progress = f"step {step}/{self._num_steps}{pace}  ETA {left}"
            self._say(
                f"{self._workdir.name}: {progress}  {_text(dict(list(values.items())[:SHOWN]))}"
            )

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """The metrics of all evaluation sets, named `set/metric`."""
        if not self._active or not values:
            return
        values = {k: _plain(v) for k, v in values.items()}
        self._write({"step": step, "kind": "eval", **values})
        self._scalars("eval", step, values)
        brief = {k: v for k, v in values.items() if k.endswith(("/accuracy", "/kl", "/loss"))}
        self._say(f"{self._workdir.name}: step {step}  {_text(brief)}")

    def event(self, step: int, message: str) -> None:
        """Something a person should know."""
        if self._active:
            self._write({"step": step, "kind": "event", "message": message})
            self._say(f"{self._workdir.name}: step {step}: {message}")

    def _scalars(self, group: str, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if self._board is not None and not isinstance(value, str):
                self._board.add_scalar(f"{group}/{name}", value, step)


def seconds_left(seconds: float, step: int, num_steps: int) -> str:
    """The time left at the speed so far, as h:mm:ss."""
    left = round(seconds / max(step, 1) * (num_steps - step))
    return time.strftime("%H:%M:%S", time.gmtime(left)) if left < 86400 else f"{left / 86400:.1f} d"
