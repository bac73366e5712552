"""What every oracle test needs before it imports a reference."""

import pytest

from tests.oracle import torch_timm


@pytest.fixture(scope="session", autouse=True)
def _importable_torchvision():
    """Transformers and timm import torchvision, which wants a little help on a CPU."""
    torch_timm.import_timm()
