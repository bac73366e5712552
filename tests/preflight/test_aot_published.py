"""Published configs on the slices that the README names for them; minutes each."""

import sys

import jax
import pytest

from configs import distill_imagenet, helium, moshi
from moshijax.preflight import tables, topology
from moshijax.preflight.examine import examine
from tests.preflight import measured


pytest.importorskip("libtpu")
pytestmark = [pytest.mark.aot, pytest.mark.slow]

LARGE = {"model.overrides.remat": "products"}


@pytest.fixture(autouse=True)
def _as_a_run_compiles():
    before = jax.config.values["jax_default_matmul_precision"]
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_default_matmul_precision", None)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_default_matmul_precision", before)


@pytest.mark.parametrize("name", ["v5e:4x8", "v4:2x2x4"])
def test_function_matching_of_imagenet_fits(name):
    config = distill_imagenet.get_config("epochs=300")
    assert config.batch_size == 4096
    report = examine(config, topology.parse(name))
    sys.stdout.write(tables.report_text(report))  # Shown by -rP.
    assert report.fits
    assert report.notes == []
    assert report.time.mfu > 0.2


@pytest.mark.parametrize(
    ("module", "name", "changes", "mfu"),
    [
        (moshi, "v5p:4x4x4", LARGE | {"loss.chunk_frames": 3750}, 0.55),
        (moshi, "v5e:8x8", {}, 0.35),
        (helium, "v5p:4x4x4", LARGE | {"accumulate": 4, "loss.chunk_frames": 1024}, 0.55),
        (helium, "v5e:8x8", {"accumulate": 8}, 0.42),
    ],
    ids=["moshi-v5p", "moshi-v5e", "helium-v5p", "helium-v5e"],
)
def test_language_models_fit_and_use_their_chips(module, name, changes, mfu):
    report = examine(module.get_config(), topology.parse(name), changes=changes)
    sys.stdout.write(tables.report_text(report))  # Shown by -rP.
    assert report.fits
    assert report.notes == []
    assert report.time.mfu > mfu


@pytest.mark.parametrize("row", measured.ROWS)
def test_plans_are_near_what_others_measured(row):
    found = measured.ROWS[row]
    report = examine(measured.get_config(f"row={row}"), topology.parse(found.topology))
    sys.stdout.write(tables.report_text(report))  # Shown by -rP.
    assert report.fits
    assert report.time.mfu == pytest.approx(found.mfu, rel=0.1)
