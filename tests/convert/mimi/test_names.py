import dataclasses
import hashlib

import numpy as np
import pytest

from moshijax.codec.config import PRESETS
from moshijax.convert.mimi import abstract_mimi
from moshijax.convert.mimi.names import LAYOUTS, entries
from moshijax.convert.tables import announce
from moshijax.convert.transforms import QKV, conv_transpose, depthwise_transpose, halves
from moshijax.nn.paths import named_leaves


# Number of tensors and digest of the sorted lines "name shape" of the files that PyTorch's Moshi
# 0.2.13, transformers 4.57.6 and transformers 5.23.0 have for the published size.
PUBLISHED = {
    "published": (318, "3f97581cefeab08a"),
    "torch": (318, "9e164a17b8fc1828"),
    "transformers": (350, "9e02fe0468e81aca"),
    "transformers5": (350, "ff4ee0c05742d6f0"),
}


def digest(shapes):
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_and_shapes_are_the_published_ones(layout):
    leaves = named_leaves(abstract_mimi(PRESETS["mimi"]))
    shapes = {e.name: announce(e, leaves).shape for e in entries(PRESETS["mimi"], layout)}
    assert (len(shapes), digest(shapes)) == PUBLISHED[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_parameter_is_in_exactly_one_tensor(layout):
    config = dataclasses.replace(PRESETS["tiny"], num_codebooks=3)
    paths = [path for entry in entries(config, layout) for path in entry.paths]
    assert len(set(paths)) == len(paths)
    leaves = set(named_leaves(abstract_mimi(config)))
    stacked = {
        "/layers/".join([p.split("/layers/")[0], p.split("/layers/")[1].split("/", 1)[1]])
        if "/layers/" in p
        else p
        for p in paths
    }
    assert stacked == leaves


TRANSFORMS = {
    "qkv": (QKV, (12, 4)),
    "conv_transpose": (conv_transpose(3), (4, 5, 6)),
    "depthwise": (depthwise_transpose(2), (5, 1, 4)),
    "halves": (halves(2), (8, 6)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_join_undoes_split(name):
    transform, shape = TRANSFORMS[name]
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(transform.join(*transform.split(array)), array)


def test_halves_become_pairs():
    # One head of width 6: rows 0 1 2 are the first half, 3 4 5 the second.
    (ours,) = halves(1).split(np.arange(6.0)[:, None] * np.ones((1, 6)))
    np.testing.assert_array_equal(ours[0], [0, 3, 1, 4, 2, 5])


def test_unknown_layout_is_named():
    with pytest.raises(ValueError, match="layout 'onnx' is unknown; there are published, torch"):
        entries(PRESETS["tiny"], "onnx")
