"""Keeps libtpu quiet where it is installed and there is no TPU.

Looking for one it asks for a TPU VM's settings and talks about not finding them, and writes logs.
"""

import glob
import os


SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
}
SILENT = (*SETTINGS, "TPU_LIBRARY_PATH")  # These say nothing of a TPU: libtpu's import has them.


def has_tpu() -> bool:
    """Whether this machine has a TPU, or is told so."""
    told = [name for name in os.environ if name.startswith("TPU_") and name not in SILENT]
    odd = [n for n, value in SETTINGS.items() if os.environ.get(n, value) != value]
    return bool(told or odd or glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def hush() -> None:
    """Gives libtpu the settings that it would ask for, unless there is a TPU; before its start."""
    if not has_tpu():
        os.environ.update(SETTINGS)
