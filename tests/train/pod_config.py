"""The toy config as a file; what follows the colon is the mesh."""

from tests.train.toy import config


def get_config(mesh):
    sizes = dict(zip(("data", "fsdp", "tensor"), map(int, mesh.split("x")), strict=True))
    return config(mesh=sizes, read_ahead=1)
