"""Supervises a process of many, so that it ends with a defined exit code and a clear message.

When a process dies, JAX's coordination service aborts the others in C++, where Python can catch
nothing, once the dead one has missed its heartbeats for the time-out. So each process has a parent
that starts it, forwards signals and output, and says what happened.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading

from moshijax.pod.hosts import EXIT_PEER_LOST


WATCHED = "MOSHIJAX_WATCHED_BY"  # The parent's process id, in the child's environment.
TAIL = 20_000  # Bytes of the last lines, in which the cause is looked for.


def watched() -> bool:
    """Whether this process has a parent that watches it."""
    return os.environ.get(WATCHED) == str(os.getppid())


def end_with_parent() -> None:
    """Has this process killed when its parent dies (on Linux), since nobody else would end it."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def supervise(program: str, peer_timeout: int, start_timeout: int) -> int:
    """Runs this same command as a child process; returns the exit code."""
    command = [sys.executable, *sys.orig_argv[1:]]
    environment = os.environ | {WATCHED: str(os.getpid())}
    # In a session of its own the child gets no Ctrl-C of the terminal, only what is forwarded.
    child = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: child.send_signal(n))
    tail = bytearray()
    reader = threading.Thread(target=_pass_on, args=(child, tail), daemon=True)
    reader.start()
    code = child.wait()
    reader.join(timeout=5)
    code, message = explain(code, tail.decode(errors="replace"), peer_timeout, start_timeout)
    if message:
        print(f"{program}: {message}", file=sys.stderr, flush=True)  # noqa: T201
    return code


def _pass_on(child: subprocess.Popen, tail: bytearray) -> None:
    assert child.stderr is not None
    while chunk := os.read(child.stderr.fileno(), 65536):
        sys.stderr.buffer.write(chunk)
        sys.stderr.buffer.flush()
        tail += chunk
        del tail[:-TAIL]


def explain(code: int, tail: str, peer_timeout: int, start_timeout: int) -> tuple[int, str]:
    """Exit code and last line for a process's return code and last lines."""
    if code >= 0:
        return code, ""
    if code != -signal.SIGABRT:
        return 128 - code, f"killed by {signal.Signals(-code).name} (see above, or the host's log)."
    again = "start the same command on every host, it goes on from the newest checkpoint."
    if "RegisterTask" in tail:
        return EXIT_PEER_LOST, f"not all processes came within {start_timeout} s: {again}"
    silent = re.search(r"stopped sending heartbeats\):\s*([\d\s]+)", tail)
    if silent:
        names = ", ".join(silent[1].split())
        return EXIT_PEER_LOST, f"lost process {names}, silent for {peer_timeout} s: {again}"
    if "coordination service" in tail:
        return EXIT_PEER_LOST, f"lost process 0, which holds the others together: {again}"
    return 128 - code, "aborted (see above)."
