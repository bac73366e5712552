import os

import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.cli.terminal import complaining
from moshijax.system.errors import UserError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("x is\nwrong"), "work: x is wrong"),
        (FileNotFoundError(2, "No such file or directory", "x.wav"), "work: x.wav: No such file"),
        (OSError(28, "No space left on device", "x.npz"), "work: x.npz: No space left on device"),
    ],
)
def test_what_a_user_did_wrong_is_one_sentence(error, line):
    with pytest.raises(SystemExit) as end, complaining("work"):
        raise error
    assert str(end.value).startswith(line)
    assert "\n" not in str(end.value)


def mismatch():
    np.ones(2) + np.ones(3)


def misfit():
    jnp.ones((2, 3)) @ jnp.ones((2, 3))


@pytest.mark.parametrize(
    ("fail", "kind"),
    [
        (mismatch, ValueError),
        (misfit, TypeError),
        (lambda: jnp.ones(4).reshape(3), TypeError),
        (lambda: jnp.concatenate([]), ValueError),
        (lambda: int("x"), ValueError),
        (lambda: "\udce9".encode(), UnicodeEncodeError),
        (lambda: {}["x"], KeyError),
        (lambda: os.write(-1, b""), OSError),  # Of no file that has a name.
    ],
)
def test_what_a_programmer_did_wrong_keeps_its_traceback(fail, kind):
    with pytest.raises(kind) as error, complaining("work"):
        fail()
    assert not isinstance(error.value, UserError)
