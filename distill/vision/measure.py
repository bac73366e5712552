"""How close a classifier comes to its teachers on a set of images, clean and mixed."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from distill import distances, fidelity
from distill.matching import STUDENT
from distill.vision.matcher import mixed_images
from distill.vision.resnet import ResNet
from moshijax.train.learner import State, averaged


MIXED = 0.5  # Share of an evaluation image in its blend: as far from any image as mixup goes.


class Sums(TypedDict):
    """Sums of `fidelity_sums` over a set of images."""

    clean: dict[str, Array]
    mixed: NotRequired[dict[str, Array]]


class Fidelity:
    """Fidelity of a student to its teachers, as sums over evaluation batches.

    Args:
        keys: the view key of each model in a batch's images.
        combine: how the logits of several teachers are combined, as in training.
    """

    def __init__(self, keys: Mapping[str, str], combine: str) -> None:
        self.keys = dict(keys)
        self.combine = "probabilities" if combine == "losses" else combine

    def evaluate(
        self, state: State, frozen: Mapping[str, ResNet], batch: PyTree[ArrayLike]
    ) -> Sums:
        """Sums of an `EvalBatch` on clean images and, where there is a teacher, on mixed ones.

        An image is mixed with the one before it in its batch, so the metrics on mixed images
        depend on the batch size; those on clean images do not.
        """
        mask, label = batch["mask"], batch["label"]
        clean = mixed_images(batch["images"], None)
        sums: Sums = {"clean": self._sums(state, frozen, clean, label, mask)}
        if frozen:
            # A mixed image counts only if both of its images do.
            both = mask * jnp.roll(mask, 1)
            mixed = mixed_images(batch["images"], jnp.full((), MIXED))
            sums["mixed"] = self._sums(state, frozen, mixed, None, both)
        return sums

    def _sums(
        self,
        state: State,
        frozen: Mapping[str, ResNet],
        images: Mapping[str, Float[Array, "B R R C"]],
        labels: Int[Array, "B"] | None,
        mask: Float[Array, "B"],
    ) -> dict[str, Array]:
        """Sums of fidelity to the combined teachers on images by view key."""

        def logits(name: str, model: ResNet) -> jax.Array:
            return model(images[self.keys[name]])[0]

        student = logits(STUDENT, averaged(state))
        taught = [logits(name, teacher) for name, teacher in frozen.items()]
        teacher = distances.combine(taught, self.combine) if taught else None
        return fidelity.fidelity_sums(student, teacher, labels, mask)

    def summarize(self, sums: Sums) -> dict[str, float]:
        """Metrics of a whole set; those on mixed images begin with `mixed_`."""
        metrics = fidelity.summarize(sums["clean"])
        if "mixed" in sums and sums["mixed"]["count"]:  # Of a lone image there is no pair.
            mixed = fidelity.summarize(sums["mixed"])
            metrics |= {f"mixed_{name}": value for name, value in mixed.items()}
        return metrics
