"""How close a classifier comes to its teachers on a set of images, clean and mixed."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from distill import distances, fidelity
from distill.matching import STUDENT
from distill.vision.matcher import HEAD, VisionMatcher, mixed_images
from moshijax.train.learner import averaged


MIXED = 0.5  # Own share of an evaluation image when it is mixed: as far off the data as it goes.


class Fidelity:
    """Sums over evaluation batches, and what they mean.

    Args:
        matcher: knows which images of these batches each model sees.
        combine: how several teachers become one, as in training.
    """

    def __init__(self, matcher: VisionMatcher, combine: str) -> None:
        self.matcher = matcher
        self.combine = "probabilities" if combine == "losses" else combine

    def evaluate(self, state: Any, frozen: Any, batch: Any) -> dict[str, Any]:
        """Sums of fidelity on clean images and, where there is a teacher, on mixed ones.

        An image is mixed with the row before it in its batch, so that what is measured on mixed
        images depends on the rows of a batch; all else is that of any batches.
        """
        mask, label = batch["mask"], batch["label"]
        clean = mixed_images(batch["images"], None)
        sums = {"clean": self._sums(state, frozen, clean, label, mask)}
        if frozen:
            # A mixed image counts only if both of its images do.
            both = mask * jnp.roll(mask, 1)
            mixed = mixed_images(batch["images"], jnp.full((), MIXED))
            sums["mixed"] = self._sums(state, frozen, mixed, None, both)
        return sums

    def _sums(self, state: Any, frozen: Any, images: Any, labels: Any, mask: Any) -> Any:
        """Sums of fidelity to the combined teachers on float images by view key."""

        def logits(name: str, model: Any) -> jax.Array:
            return self.matcher.logits(name, model, {"images": images})[HEAD].logits

        student = logits(STUDENT, averaged(state))
        taught = [logits(name, teacher) for name, teacher in frozen.items()]
        teacher = distances.combine(taught, self.combine) if taught else None
        return fidelity.fidelity_sums(student, teacher, labels, mask)

    def summarize(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Metrics of a whole set; those on mixed images begin with `mixed_`."""
        metrics = fidelity.summarize(sums["clean"])
        if "mixed" in sums and sums["mixed"]["count"]:  # Of a lone image there is no pair.
            mixed = fidelity.summarize(sums["mixed"])
            metrics |= {f"mixed_{name}": value for name, value in mixed.items()}
        return metrics
