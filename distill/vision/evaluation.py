"""Evaluates a student on the sets of its config, and writes its weights.

    python -m distill.evaluate --config configs/distill_imagenet.py --student runs/i1k_300
    python -m distill.evaluate --config configs/distill_imagenet.py --student R50x1_224.npz

The student is a work directory or a file; teachers are those of the config (none with
`--noteachers`). Prints one JSON object; `--export student.npz` also writes the weights in the
layout of the released files, or another `--layout`; `--export student.safetensors` in timm's names.
"""

import json
import os

import jax
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from distill.vision import convert, experiment, teachers
from distill.vision.resnet import ResNet
from distill.vision.rules import RULES
from distill.vision.timm import save_timm
from moshijax import shard
from moshijax.cli.flags import run_command
from moshijax.pod import interrupts
from moshijax.system import libtpu
from moshijax.system.errors import UserError
from moshijax.system.files import check_output
from moshijax.system.paths import local_path
from moshijax.train import evaluators
from moshijax.train.evaluators import sums_over
from moshijax.train.learner import State


CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file.", lock_config=True)
STUDENT = flags.DEFINE_string("student", None, "Work directory or file of the student.")
TEACHERS = flags.DEFINE_bool("teachers", True, "Also measure fidelity to the config's teachers.")
EXPORT = flags.DEFINE_string("export", None, "Where to write its weights: npz or safetensors.")
LAYOUT = flags.DEFINE_enum("layout", "bit", convert.LAYOUTS, "Array names of the exported file.")


def evaluate(config: ConfigDict, student: str, with_teachers: bool = True) -> dict[str, float]:
    """Metrics of a student on the evaluation sets of a config, named `set/metric`.

    Raises:
        ValueError: the student or a teacher cannot be loaded.
    """
    config = config.copy_and_resolve_references()
    config.student.load = student
    if not with_teachers:
        config.teachers = {}
        config.loss.distance = "labels"
    mesh = shard.make_mesh(config.mesh)
    parts = experiment.prepare(config, mesh, train=False)
    model = teachers.load_model(config.student, config.seed)
    state = State(shard.place(model, mesh, RULES), {}, None)
    sets = sums_over(parts.fidelity, parts.sets, mesh)
    key = jax.random.key(config.seed)
    return evaluators.numbers(evaluators.evaluate(sets, state, parts.task.frozen, key, mesh))


def check_export(path: str, student: str) -> None:
    """Refuses a file that cannot be written or is the student: before the evaluation, not after.

    Raises:
        UserError: it is one of these.
    """
    check_output(path)
    there = os.path.expanduser(student)
    if os.path.exists(path) and os.path.exists(there) and os.path.samefile(path, there):
        raise UserError(f"--export: {path} is the student itself: take another name.")


def write(path: str, model: ResNet, layout: str) -> None:
    """Writes weights in the form that the file's name asks for: timm's, or a `layout` of npz."""
    if path.endswith(".safetensors"):
        if model.config.pool_padding != "zero":
            logging.warning(
                "%s: timm pads the stem's pool with zeros, this student was made with %s: its "
                "logits differ a little there.",
                path,
                model.config.pool_padding,
            )
        save_timm(path, model)
    else:
        convert.save_npz(path, model, layout)


def main() -> None:
    """Prints the metrics of the student that the flags name."""
    libtpu.hush()
    interrupts.watch("evaluate")
    for flag in (STUDENT, EXPORT):
        if flag.value is not None:
            local_path(f"--{flag.name}", flag.value.removeprefix("hf://"))
    export, student = EXPORT.value, str(STUDENT.value)
    if export is not None:
        check_export(export, student)
    metrics = evaluate(CONFIG.value, student, TEACHERS.value)
    if export is not None:
        spec = CONFIG.value.student.copy_and_resolve_references()
        spec.load = student
        write(export, teachers.load_model(spec, 0), LAYOUT.value)
    print(json.dumps(metrics, indent=1))


def run() -> None:
    """The command line."""
    flags.mark_flags_as_required(["config", "student"])
    run_command("evaluate", main, __doc__ or "")
