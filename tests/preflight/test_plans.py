import importlib
import pathlib

import jax
import pytest

from moshijax import shard
from moshijax.cli import config_files
from moshijax.preflight import memory, search
from moshijax.preflight.examine import changed, read
from moshijax.train import program
from moshijax.train.task import find


CONFIGS = pathlib.Path(__file__).parent.parent.parent / "configs"
FILES = [path.stem for path in config_files.experiments(CONFIGS)]


@pytest.mark.parametrize("file", FILES)
def test_every_published_config_can_be_planned_at_full_size(file):
    config = importlib.import_module(f"configs.{file}").get_config()
    planned = find(config)(config, shard.abstract_mesh())
    (kind,) = planned.batches
    assert sum(planned.counts[kind].values()) >= config.batch_size
    # Sessions are split by heads, what is trained by parameters.
    mesh = shard.make_mesh(dict(data=1) | {"tensor" if file == "moshi_live" else "fsdp": 8})
    placed = program.place(planned, mesh, config.seed)
    state = shard.shaped(placed.shapes, placed.shardings)
    whole = sum(memory.nbytes(x.shape, x.dtype) for x in jax.tree.leaves(state))
    # Split over eight devices, little stays whole on each.
    assert memory.chip_bytes(state) < 0.16 * whole
    # Pets have 37 classes.
    assert all(" 37 of " in line for line in placed.undivided())
    rows = {x.shape[0] for x in jax.tree.leaves(planned.batches) if x.shape}
    assert rows == {config.batch_size}
    # A live step has nothing to trade.
    assert planned.choices or file == "moshi_live"
    leanest = search.variants(planned.choices, config)[-1]
    other = changed(config, leanest)  # Its keys are the config's.
    assert {key: read(other, key) for key in leanest} == leanest
