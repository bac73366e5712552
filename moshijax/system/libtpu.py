"""Keeps libtpu quiet where it is installed and there is no TPU.

It would query the metadata server of a TPU VM, complain that there is none, and write logs.
"""

import glob
import os


SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
}
# What machines and pods with a TPU set. Other variables that begin with TPU_ say nothing of this
# machine: tpu_scripts take their options from them.
SIGNS = (
    *("TPU_WORKER_ID", "TPU_PROCESS_ADDRESSES", "TPU_PROCESS_BOUNDS", "TPU_PROCESS_PORT"),
    *("TPU_CHIPS_PER_HOST_BOUNDS", "TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_HOST_BOUNDS"),
    *("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES"),
)


def has_tpu() -> bool:
    """Whether this machine has a TPU, or is told so."""
    told = any(os.environ.get(name) for name in SIGNS)
    odd = any(os.environ.get(name, value) != value for name, value in SETTINGS.items())
    return told or odd or bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def hush() -> None:
    """Gives libtpu the settings that it would ask for, unless there is a TPU; before its start."""
    if not has_tpu():
        os.environ.update(SETTINGS)
