"""Dry runs of the scripts, and what they printed: python -m tests.tpu_scripts.cases writes it anew.

A case is a script with its options, as one would type them.
"""

import os
import pathlib
import shlex
import subprocess


ROOT = pathlib.Path(__file__).parent.parent.parent
GOLDEN = pathlib.Path(__file__).parent / "golden"
TRAIN = "python -m distill --config configs/distill_vision.py:tiny,arm=fixed --workdir /bucket/x"
CASES = {
    "create": (
        "create.sh --name pod --topology v5p:4x4x8 --spot",
        "create.sh --name pod --topology v5e:4x8 --reserved --valid-until 12h",
        "create.sh --name pod --type v4-32 -- --network=lab --internal-ips",
        "create.sh --name pod --type v6e-64 --runtime other",
    ),
    "setup": ("setup.sh --name pod", "setup.sh --name pod --bucket lab-runs --python 3.13"),
    "run": (
        f"run.sh --name pod -- {TRAIN}",
        "run.sh --name=pod --env A=1 --env 'B=it is' -- python -m distill --config='a b'",
    ),
    "logs": ("logs.sh --name pod", "logs.sh --name pod --worker all --lines 5 --no-follow"),
    "status": ("status.sh --name pod",),
    "stop": ("stop.sh --name pod",),
    "delete": ("delete.sh --name pod", "delete.sh --name pod --yes"),
    "resume": (
        "resume.sh --name pod --topology v5p:4x4x8 --spot --bucket lab-runs --env A=1 --env B=2"
        f" -- {TRAIN}",
    ),
    "gke_create": (
        "gke_create.sh --cluster lab --type v5p-128 --spot",
        "gke_create.sh --cluster lab --type v6e-64 --slices 2 --reservation r --bucket lab-runs",
    ),
    "gke_run": (
        f"gke_run.sh --name run --cluster lab --type v5p-128 --image hub/moshijax -- {TRAIN}",
        "gke_run.sh --name run --cluster lab --type v5p-128 --slices 2 --image hub/moshijax"
        " --max-restarts 3 --env A=1 -- python -m distill --config 'a b'",
    ),
    "gke_logs": (
        "gke_logs.sh --name run --cluster lab",
        "gke_logs.sh --name run --cluster lab --worker all --lines 5 --no-follow",
    ),
    "gke_delete": ("gke_delete.sh --name run --cluster lab --yes",),
}


def call(case: str, dry: bool = False, **options):
    """Runs a case in a clean environment with a project and a zone."""
    script, *arguments = shlex.split(case)
    environment = {k: v for k, v in os.environ.items() if k[:4] not in ("TPU_", "TMPD")}
    environment |= {"TPU_PROJECT": "lab", "TPU_ZONE": "us-east5-a"} | options.pop("env", {})
    command = [ROOT / "tpu_scripts" / script, *(["--dry-run"] if dry else []), *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, **options
    )


def dry_runs(name: str) -> str:
    """The cases of a script, each with what it prints."""
    return "\n".join(f"$ {case}\n{call(case, dry=True).stdout}" for case in CASES[name])


if __name__ == "__main__":
    for name in CASES:
        (GOLDEN / f"{name}.txt").write_text(dry_runs(name))
