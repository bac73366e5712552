"""The command lines of moshijax.

    moshijax train --config configs/moshi.py:tiny --workdir runs/moshi_tiny
    moshijax export runs/moshi_tiny tiny.safetensors
    moshijax preflight --config configs/moshi.py:stage=1 --topology v5p:4x4x4
    moshijax codec encode in.wav codes.npz
    moshijax lm --lm random --mimi random --mimi-preset small user.wav dialogue.wav

`moshijax COMMAND --help` says more of each.
"""

import sys

from moshijax.cli.terminal import make_parser
from moshijax.system import stdio
from moshijax.system.launch import hand_over


COMMANDS = {
    "train": "moshijax.train.__main__:run",
    "export": "moshijax.export.__main__:run",
    "preflight": "moshijax.preflight.__main__:run",
    "codec": "moshijax.codec.__main__:run",
    "lm": "moshijax.lm.run:run",
}


def run() -> None:
    """The command line."""
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        hand_over("moshijax", COMMANDS)
        return
    stdio.settle()
    parser = make_parser("moshijax", __doc__)
    parser.add_argument("command", choices=COMMANDS, help="what to do")
    parser.parse_args()


if __name__ == "__main__":
    run()
