"""Looks for a mesh and for settings with which a config fits a slice, and ranks them by time."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from moshijax import shard
from moshijax.preflight import tables
from moshijax.preflight.examine import Report, changed, examine, read
from moshijax.preflight.topology import Topology
from moshijax.system.errors import UserError
from moshijax.train.task import find


Settings = dict[str, object]  # Values of a config by dotted key.
TENSOR = tuple(n for n in (1, 2, 4, 8) if n <= shard.WIDEST_TENSOR)


def fit(
    config: ConfigDict,
    slice_: Topology,
    mesh: Mapping[str, int],
    *,
    name: str,
    price: float | None,
    limit: int,
    say: Callable[[str], None],
) -> list[Report]:
    """Compiles at most `limit` variants and returns a report of each.

    First the settings, from the fastest to the leanest, on the most likely mesh until one fits;
    then the other meshes with that setting; then the settings around it.

    Args:
        config: an experiment.
        slice_: what it would run on.
        mesh: keys of the config's mesh, if it is not to be searched.
        name: what the config is called.
        price: of a chip for an hour.
        limit: of compilations.
        say: called with each line of progress.

    Raises:
        UserError: nothing that was tried can be built.
    """
    config = changed(config, mesh)
    settings = variants(choices_of(config), config)
    meshes: list[Settings] = [dict(mesh)] if mesh else candidates(config, slice_)
    tried: dict[str, Report] = {}
    refused: list[str] = []

    def attempt(change: Mapping[str, object]) -> Report | None:
        key = str(sorted(change.items()))
        if key in tried or len(tried) == limit:
            return tried.get(key)
        try:
            report = examine(config, slice_, name=name, changes=change, price=price)
        except UserError as error:
            say(f"left out {_text(change)}: {error}")
            refused.append(str(error))
            return None
        tried[key] = report
        took = f"{report.compile_seconds:.0f} s to compile"
        say(f"{len(tried)} of at most {limit}: {_text(change)}: {tables.verdict(report)} ({took})")
        return report

    best = _leanest_needed(attempt, meshes[0], settings)
    for other in meshes[1:]:
        attempt(other | best)
    for setting in settings:
        attempt(meshes[0] | setting)
    if not tried:
        raise UserError(f"nothing of what --fit looks at can be built: {refused[0]}")
    return list(tried.values())


def choices_of(config: ConfigDict) -> Mapping[str, Sequence[object]]:
    """What may be chosen for a config without changing what is learned."""
    return find(config)(config, shard.abstract_mesh()).choices


def _leanest_needed(
    attempt: Callable[[Mapping[str, object]], Report | None],
    mesh: Mapping[str, object],
    settings: Sequence[Settings],
) -> Settings:
    """The first setting that fits, else the last; one is skipped where over twice is needed."""
    at = 0
    while at < len(settings) - 1:
        report = attempt({**mesh, **settings[at]})
        if report and report.fits:
            return settings[at]
        usage = report.usage if report else None
        over = usage.needed / usage.available if usage else 1.0
        at = min(at + (2 if over > 2 else 1), len(settings) - 1)
    attempt({**mesh, **settings[-1]})
    return settings[-1]


def variants(choices: Mapping[str, Sequence[object]], config: ConfigDict) -> list[Settings]:
    """All settings, the fastest first: leaner by one key before leaner by two."""
    keys = list(choices)
    options = [
        list(values) if read(config, key) in values else [read(config, key), *values]
        for key, values in choices.items()
    ]
    ranked = itertools.product(*(range(len(values)) for values in options))
    order = sorted(ranked, key=lambda places: (sum(places), places[::-1]))
    return [{k: v[i] for k, v, i in zip(keys, options, places, strict=True)} for places in order]


def candidates(config: ConfigDict, slice_: Topology) -> list[Settings]:
    """Meshes that the batch can be split over: the config's, then those that gather least.

    Parameters split over all chips take the least memory; copies of them on groups of chips
    take less traffic; splitting single layers comes last.

    Raises:
        UserError: there is none.
    """
    found = []
    own = shard.mesh_sizes(_divisible(config, slice_), slice_.size)
    for sizes in [own, *_splits(slice_.size)]:
        rows = sizes["data"] * sizes["fsdp"]
        if config.batch_size % rows == 0 and sizes not in found:
            found.append(sizes)
    if not found:
        least = slice_.size // max(n for n in TENSOR if slice_.size % n == 0)
        raise UserError(
            f"batch_size: {config.batch_size} rows divide over no mesh of {slice_.size} devices "
            f"whose tensor axis is at most {TENSOR[-1]} wide: take a multiple of {least}."
        )
    return [{f"mesh.{axis}": size for axis, size in sizes.items()} for sizes in found]


def _divisible(config: ConfigDict, slice_: Topology) -> dict[str, int]:
    """The config's mesh if it fits the slice, else one split over all chips."""
    try:
        return shard.mesh_sizes(config.mesh, slice_.size)
    except UserError:
        return {"data": 1, "fsdp": -1}


def _splits(size: int) -> Iterator[dict[str, int]]:
    """Meshes of so many devices, the narrowest tensor axis and the fewest copies first."""
    for tensor in (n for n in TENSOR if size % n == 0):
        rest = size // tensor
        whole = [1, rest]
        between = [n for n in range(2, rest) if rest % n == 0 and n & (n - 1) == 0]
        for data in [*whole, *between]:
            yield {"data": data, "fsdp": rest // data, "tensor": tensor}


def _text(change: Mapping[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in change.items())


def rank(reports: Sequence[Report]) -> list[Report]:
    """What fits by predicted time, then what does not by what it needs."""

    def key(report: Report) -> tuple[bool, float]:
        if report.fits:
            return False, report.time.step
        return True, report.usage.needed if report.usage else 0.0

    return sorted(reports, key=key)
