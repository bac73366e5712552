"""The one place where a function chooses its body by the platform it is compiled for."""

import functools
from collections.abc import Callable, Mapping
from types import FunctionType

import jax
from jaxtyping import Array, PyTree


class Kernel:
    """A function of arrays: its reference, and bodies that are faster on some platform.

    The reference is the definition; every other body computes the same, and a test runs it.
    """

    def __init__(self, reference: FunctionType, *tuned: FunctionType):
        self.reference = reference
        named = ((body.__name__.lstrip("_"), body) for body in (reference, *tuned))
        self.bodies: dict[str, FunctionType] = dict(named)

    def __call__(
        self,
        *arrays: PyTree[Array],
        default: FunctionType | None = None,
        cpu: FunctionType | None = None,
        tpu: FunctionType | None = None,
        cuda: FunctionType | None = None,
        **options: object,
    ) -> PyTree[Array]:
        """Computes by the body of the platform that this is compiled for.

        Args:
            arrays: the arguments of every body that are arrays, or trees of them.
            default: the body of platforms that have none of their own; None: the reference.
            cpu: the body for a CPU.
            tpu: the body for a TPU.
            cuda: the body for an NVIDIA GPU.
            options: the arguments of every body that are fixed when it is compiled.
        """
        named = {"cpu": cpu, "tpu": tpu, "cuda": cuda}
        chosen = {platform: self._bound(body, options) for platform, body in named.items() if body}
        otherwise = self._bound(default or self.reference, options)
        if not chosen:
            return otherwise(*arrays)
        return jax.lax.platform_dependent(*arrays, default=otherwise, **chosen)

    def _bound(
        self, body: FunctionType, options: Mapping[str, object]
    ) -> Callable[..., PyTree[Array]]:
        if body not in self.bodies.values():
            raise ValueError(f"{body.__name__} is no body of this kernel: {', '.join(self.bodies)}")
        return functools.partial(body, **options) if options else body
