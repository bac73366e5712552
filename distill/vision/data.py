"""Batches of rendered views for training and evaluation, each a pure function of its number."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from distill.vision import crops, images, views
from distill.vision.reader import Item, Reader
from distill.vision.sources import Source, load
from moshijax.data.order import shuffled


__all__ = ["EvalBatches", "Models", "TrainBatches", "load"]

ModelView = tuple[str, int]  # role ("student" or "teacher") and resolution
Models = Mapping[str, ModelView]  # by name
Targets = dict[str, tuple[views.View, str, int]]  # view key -> boxes, method, resolution
Pixels = dict[str, UInt8[np.ndarray, "B R R C"]]  # by view key


class TrainBatch(TypedDict):
    """Images as bytes, before mixup."""

    images: Pixels
    index: Int32[np.ndarray, " B"]  # rows of the data set
    label: Int32[np.ndarray, " B"]
    mix: np.float32  # an image's own share; 1: no mixup
    teacher_logits: NotRequired[dict[str, Float32[np.ndarray, "B V"]]]


class EvalBatch(TypedDict):
    """Images as bytes."""

    images: Pixels
    index: Int32[np.ndarray, " B"]  # -1: padding
    label: Int32[np.ndarray, " B"]
    mask: Float32[np.ndarray, " B"]  # 0: padding, or a corrupt image
    mix: NotRequired[np.float32]


def view_keys(design: views.Design, models: Models) -> dict[str, str]:
    """The view key of each model: the name of its array in a training batch's images."""
    for role, _ in models.values():
        if role not in ("student", "teacher"):
            raise ValueError(f"The role of a model is student or teacher, not {role!r}.")
    return {
        name: f"{'shared' if design.shared else role}_{resolution}"
        for name, (role, resolution) in models.items()
    }


class TrainBatches:
    """Training batches by step: shuffled rows, planned views, rendered for each model.

    Sampling is without replacement within an epoch; a batch may straddle two. Models with the
    same view and resolution share one array.

    Args:
        source: the images.
        models: role and resolution of each model.
        design: a key of `views.DESIGNS`.
        batch_size: of the global batch.
        seed: of shuffling, crops, flips and mixup.
        mixup: the concentration of its Beta distribution; 0: no mixup.
        on_corrupt: "skip" or "stop".
        margin: mild crops are cut from images resized to this many times the crop's side.
        inception: whose inception crops, "tf" or "rrc".
        channels: 1 or 3; None: those of the source.
        threads: that decode and render.
    """

    def __init__(
        self,
        source: Source,
        models: Models,
        *,
        design: str,
        batch_size: int,
        seed: int,
        mixup: float,
        on_corrupt: str,
        margin: float = crops.MARGIN,
        inception: str = "tf",
        channels: int | None = None,
        threads: int = 1,
    ):
        self.source = source
        self.models = dict(models)
        self.design = views.design_of(design)
        self.batch_size = batch_size
        self.reader = Reader(source, on_corrupt, channels, threads)
        self.keys = view_keys(self.design, self.models)
        self._seed = seed
        self._design, self._mixup = design, mixup
        self._margin, self._inception = margin, inception

    @property
    def corrupt_count(self) -> int:
        """How many rows were found corrupt so far."""
        return len(self.reader.corrupt)

    def batch(self, step: int, order: int = 0, rows: np.ndarray | None = None) -> TrainBatch:
        """These rows of the step's global batch (None: all); each `order` is another shuffling."""
        return self._render(*self._plan(step, order, rows))

    def plan(self, step: int, order: int = 0, rows: np.ndarray | None = None) -> views.Plan:
        """The sampled plan that `batch` renders."""
        return self._plan(step, order, rows)[0]

    def render(self, plan: views.Plan) -> TrainBatch:
        """Renders a plan, for instance a stored one."""
        return self._render(plan, self.reader.map(self.reader.read, plan.index.tolist()))

    def _plan(
        self, step: int, order: int, rows: np.ndarray | None
    ) -> tuple[views.Plan, list[Item]]:
        rows = np.arange(self.batch_size) if rows is None else np.asarray(rows)
        position = step * self.batch_size + rows.astype(np.int64)
        index = shuffled(position, len(self.source), seed=self._seed, order=order)
        items = self.reader.map(self.reader.read, index.tolist())
        resolutions = [r for role, r in self.models.values() if role == "student"]
        plan = views.sample_plan(
            self._design,
            seed=self._seed,
            order=order,
            step=step,
            batch_size=self.batch_size,
            rows=rows,
            index=np.array([item.index for item in items], np.int64),
            sizes=np.array([item.size for item in items], np.int64).reshape(-1, 2),
            resolution=(resolutions or [r for _, r in self.models.values()])[0],
            mixup=self._mixup,
            margin=self._margin,
            inception=self._inception,
        )
        return plan, items

    def _render(self, plan: views.Plan, items: list[Item]) -> TrainBatch:
        targets = {}
        for key, (role, resolution) in zip(self.keys.values(), self.models.values(), strict=True):
            view = plan.student if role == "student" else plan.teacher
            crop = self.design.student if role == "student" else self.design.teacher
            targets[key] = (view, images.METHODS[crop], resolution)
        output = _empty(targets, len(items), self.reader.channels)
        bottoms = _bottoms(targets, len(items))

        def render(k: int) -> tuple[int, int]:
            used, pixels = self.reader.decode(items[k], bottoms[k])
            scale = np.array(used.size * 2, np.float32) / np.array(items[k].size * 2, np.float32)
            _render(output, k, pixels, targets, scale if used.size != items[k].size else None)
            return used.index, used.row.label

        used = np.array(self.reader.map(render, range(len(items))), np.int32).reshape(-1, 2)
        return {"images": output, "index": used[:, 0], "label": used[:, 1], "mix": plan.mix}


class EvalBatches:
    """Every image once, in order, at every model's resolution; the last batch is padded.

    Crops: "cc" (the smaller side resized to `margin` resolutions, then the centre), "rs"
    (the whole image), "ic" (an inception crop and flip, another one for each `draw`). A
    corrupt image that is to be skipped is masked, as padding is.
    """

    def __init__(
        self,
        source: Source,
        models: Models,
        *,
        crop: str,
        batch_size: int,
        on_corrupt: str,
        margin: float = crops.MARGIN,
        seed: int = 0,
        inception: str = "tf",
        channels: int | None = None,
        threads: int = 1,
    ):
        self.source = source
        self.batch_size = batch_size
        self.num_batches = -(-len(source) // batch_size)
        self.reader = Reader(source, on_corrupt, channels, threads)
        self.keys = {name: f"eval_{resolution}" for name, (_, resolution) in models.items()}
        self._resolutions = sorted({resolution for _, resolution in models.values()})
        self._crop = crop
        self._seed, self._margin, self._inception = seed, margin, inception

    @property
    def corrupt_count(self) -> int:
        """How many rows were found corrupt so far."""
        return len(self.reader.corrupt)

    def batch(self, number: int, rows: np.ndarray | None = None, draw: int = 0) -> EvalBatch:
        """Rows of one global batch; padding has mask 0, index -1 and label 0."""
        rows = np.arange(self.batch_size) if rows is None else np.asarray(rows)
        position = number * self.batch_size + rows
        position[position >= len(self.source)] = -1
        items = self.reader.map(self._read, position.tolist())
        sizes = np.array([(1, 1) if item is None else item.size for item in items], np.int64)
        targets = {}
        for resolution in self._resolutions:
            view = self._view(number, rows, sizes.reshape(-1, 2), resolution, draw)
            targets[f"eval_{resolution}"] = (view, images.METHODS[self._crop], resolution)
        output = _empty(targets, len(items), self.reader.channels)

        def render(k: int) -> bool:
            item = items[k]
            pixels = None if item is None else self.reader.pixels(item)
            if pixels is not None:
                _render(output, k, pixels, targets)
            return pixels is not None

        mask = np.array(self.reader.map(render, range(len(items))), bool)
        labels = [0 if item is None else item.row.label for item in items]
        return {
            "images": output,
            "label": np.where(mask, labels, 0).astype(np.int32),
            "index": np.where(mask, position, -1).astype(np.int32),
            "mask": mask.astype(np.float32),
        }

    def _read(self, index: int) -> Item | None:
        return None if index < 0 else self.reader.try_read(index)

    def _view(
        self,
        number: int,
        rows: np.ndarray,
        sizes: Int64[np.ndarray, "B 2"],
        resolution: int,
        draw: int,
    ) -> views.View:
        return views.sample_view(
            self._crop,
            seed=self._seed,
            draw=draw,
            batch=number,
            batch_size=self.batch_size,
            rows=rows,
            sizes=sizes,
            resolution=resolution,
            margin=self._margin,
            inception=self._inception,
        )


def _empty(targets: Targets, count: int, channels: int) -> Pixels:
    return {
        key: np.zeros((count, resolution, resolution, channels), np.uint8)
        for key, (_, _, resolution) in targets.items()
    }


def _bottoms(targets: Targets, count: int) -> list[int] | list[None]:
    """The lower edge of all boxes of an image; None where pixels outside of the boxes are used."""
    if any(method != "cut" for _, method, _ in targets.values()):
        return [None] * count
    ends = [view.box[:, 0] + view.box[:, 2] for view, _, _ in targets.values()]
    return np.ceil(np.max(ends, axis=0)).astype(int).tolist()


def _render(
    output: Pixels,
    row: int,
    pixels: UInt8[np.ndarray, "H W C"],
    targets: Targets,
    scale: Float32[np.ndarray, "4"] | None = None,
) -> None:
    """Renders one row for every model; `scale` fits boxes that were sampled for another image."""
    for key, (view, method, resolution) in targets.items():
        box = view.box[row] if scale is None else view.box[row] * scale
        images.render(pixels, box, resolution, method, bool(view.flip[row]), output[key][row])
