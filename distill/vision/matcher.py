"""Vision as a matcher sees it: mixed images at each model's resolution, one head, "class".

Beyer et al. 2022 (arXiv:2106.05237), section 3: the student and its teachers are shown the same
mixed images. Labels are mixed as the images are.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from distill import distances
from distill.matching import Head
from distill.vision import views


HEAD = "class"


class VisionMatcher:
    """Classifiers of images; `model(images)` gives logits and features.

    Args:
        keys: which array of a batch's images each model sees.
        label_smoothing: share of a label that is spread over all classes.
        labelled: whether the images' labels are of the student's classes.
    """

    def __init__(
        self, keys: Mapping[str, str], label_smoothing: float = 0.0, labelled: bool = True
    ) -> None:
        self.keys = dict(keys)
        self.label_smoothing, self.labelled = label_smoothing, labelled

    def view(self, batch: Any, key: jax.Array) -> dict[str, Any]:
        """Mixed images, and the labels of both images of each pair.

        A batch has `images`, `label`, `mix` and, of targets that were computed before,
        `teacher_logits`.
        """
        del key  # The plan of the views holds all randomness.
        seen = {
            "images": mixed_images(batch["images"], batch["mix"]),
            "label": batch["label"],
            "partner": jnp.roll(batch["label"], 1),
            "mix": jnp.broadcast_to(batch["mix"], batch["label"].shape),
        }
        told = {"teacher_logits": batch["teacher_logits"]} if "teacher_logits" in batch else {}
        return seen | told

    def logits(self, name: str, model: Any, view: Mapping[str, Any]) -> dict[str, Head]:
        """What a model says of its images, unless that was computed before."""
        told = view.get("teacher_logits", {})
        if name in told:
            return {HEAD: Head(told[name])}
        logits, _ = model(view["images"][self.keys[name]])
        return {HEAD: Head(logits)}

    def label_losses(
        self, view: Mapping[str, Any], logits: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Cross entropies against the labels, mixed as the images are."""
        if not self.labelled:
            return {}
        own, other = (
            distances.cross_entropy(logits[HEAD], view[which], self.label_smoothing)
            for which in ("label", "partner")
        )
        return {HEAD: view["mix"] * own + (1 - view["mix"]) * other}


@jax.named_scope("mixed_images")
def mixed_images(images: Mapping[str, jax.Array], share: jax.Array | None) -> dict[str, jax.Array]:
    """Bytes to [-1, 1], blended with the row before unless `share` is None; all views alike."""
    floats = {name: views.to_float(array) for name, array in images.items()}
    if share is None:
        return floats
    return {name: views.mix(array, share) for name, array in floats.items()}
