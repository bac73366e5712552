"""What a command says of its flags: help, version, and what is wrong with one."""

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence

from absl import flags

from moshijax.system.errors import UserError
from moshijax.system.version import version


OURS = ("moshijax", "distill")  # packages whose flags are shown
INDENT = 18  # columns of a flag's name


def asked(argv: Sequence[str], usage: str) -> str:
    """Returns what is to be printed instead of a run: help or the version, if asked for."""
    words = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    given = {word.lstrip("-") for word in words if word.startswith("-")}
    if given & {"help", "h", "helpshort"}:
        return short(usage)
    if given & {"helpfull", "helpxml"}:
        return f"{usage.strip()}\n\n{flags.FLAGS.get_help()}"
    return version() if "version" in given else ""


def short(usage: str) -> str:
    """The examples, then a line for each flag of ours."""
    known = flags.FLAGS.flags_by_module_dict()
    # The main module goes by the name of its file.
    ours = [
        flag
        for module, found in known.items()
        if module == sys.argv[0] or module.split(".")[0] in OURS
        for flag in found
    ]
    width = max(40, min(100, shutil.get_terminal_size().columns))
    lines = [_describe(flag, width) for flag in ours]
    return "\n".join(
        [usage.strip(), "", *lines, "", "--helpfull shows the flags of libraries too."]
    )


def _describe(flag: flags.Flag, width: int) -> str:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    text = flag.help if flag.default is None else f"{flag.help} Default: {flag.default}."
    # A name that is too long has its line to itself; argparse does the same.
    begin = f"  {name}".ljust(INDENT) if len(name) < INDENT - 3 else f"  {name}\n{'':{INDENT}}"
    return begin + f"\n{'':{INDENT}}".join(textwrap.wrap(" ".join(text.split()), width - INDENT))


def complaint(error: Exception, usage: str) -> str:
    """One sentence for what the flags' parser refuses."""
    cause = error.__context__
    if isinstance(error, flags.IllegalFlagValueError) and isinstance(cause, UserError):
        return str(cause)
    text = str(error.args[0] if error.args else error)
    if missing := re.findall(r"Flag --(\w+) must have a value other than None", text):
        names = " and ".join(f"--{name}" for name in missing)
        return f"{names} {'are' if len(missing) > 1 else 'is'} missing: {_example(usage)}"
    if isinstance(error, AttributeError | KeyError):
        return f"unknown config key {text}"
    return text.strip().splitlines()[-1].removeprefix("ValueError: ")


def _example(usage: str) -> str:
    lines = [line.strip() for line in usage.splitlines() if line.startswith("    ")]
    return f"give them as in `{lines[0]}`; see --help" if lines else "see --help"
