"""The matcher of images: mixed images at each model's resolution, one head, "class".

Beyer et al. 2022 (arXiv:2106.05237), section 3: the student and its teachers are shown the same
mixed images. Labels are mixed as the images are.
"""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from distill import distances
from distill.matching import Head
from distill.vision import views
from distill.vision.resnet import ResNet


HEAD = "class"


class MixedBatch(TypedDict):
    """What all models see of a batch, and the labels of it."""

    images: dict[str, Float[Array, "B R R C"]]  # by view key, in [-1, 1]
    label: Int[Array, "B"]
    partner: Int[Array, "B"]  # the label of the image that each is mixed with
    mix: Float[Array, "B"]  # an image's own share; 1: no mixup
    teacher_logits: NotRequired[dict[str, Float[Array, "B V"]]]


class VisionMatcher:
    """Classifiers of images; `model(images)` gives logits and features.

    Args:
        keys: the view key of each model in a batch's images.
        label_smoothing: probability mass of a label that is spread over all classes.
        labelled: whether the labels of the images are among the student's classes.
    """

    def __init__(
        self, keys: Mapping[str, str], label_smoothing: float = 0.0, labelled: bool = True
    ) -> None:
        self.keys = dict(keys)
        self.label_smoothing, self.labelled = label_smoothing, labelled

    def view(self, batch: PyTree[ArrayLike], key: jax.Array) -> MixedBatch:
        """Mixes the images of a `TrainBatch`, each with the one before it."""
        del key  # All randomness is in the sampled plan, of which `mix` is a part.
        mixed: MixedBatch = {
            "images": mixed_images(batch["images"], batch["mix"]),
            "label": batch["label"],
            "partner": jnp.roll(batch["label"], 1),
            "mix": jnp.broadcast_to(batch["mix"], batch["label"].shape),
        }
        if "teacher_logits" in batch:
            mixed["teacher_logits"] = batch["teacher_logits"]
        return mixed

    def logits(self, name: str, model: ResNet, view: MixedBatch) -> dict[str, Head]:
        """The logits of a model for its images, unless they were computed beforehand."""
        known = view.get("teacher_logits", {})
        if name in known:
            return {HEAD: Head(known[name])}
        logits, _ = model(view["images"][self.keys[name]])
        return {HEAD: Head(logits)}

    def label_losses(
        self, view: MixedBatch, logits: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Cross entropies against the labels, mixed like the images; none without labels."""
        if not self.labelled:
            return {}
        own, other = (
            distances.cross_entropy(logits[HEAD], labels, self.label_smoothing)
            for labels in (view["label"], view["partner"])
        )
        return {HEAD: view["mix"] * own + (1 - view["mix"]) * other}


@jax.named_scope("mixed_images")
def mixed_images(images: Mapping[str, jax.Array], share: jax.Array | None) -> dict[str, jax.Array]:
    """Maps bytes to [-1, 1] and blends each image with the one before it, in all views alike.

    `share` is an image's own share of the blend, lambda in the mixup paper; None: no mixup.
    """
    floats = {name: views.to_float(array) for name, array in images.items()}
    if share is None:
        return floats
    return {name: views.mix(array, share) for name, array in floats.items()}
