"""Many processes that are one run: how they find each other, agree, and end.

Every process runs the same command. What they decide together (to stop, to go back, which
checkpoint to read) is decided from the same numbers in all of them, or asked of all of them.
"""

import collections
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from moshijax.pod import addresses
from moshijax.system.errors import UserError


EXIT_STOPPED = 75  # Stopped as asked, and saved: EX_TEMPFAIL, the same command goes on.
EXIT_PEER_LOST = 76  # Another process is gone: the same command on all of them goes on.

HOST_LISTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")  # The first that is set counts.
TPU_PORT = 8482  # Of process 0 on a TPU; JAX's own choice.
VARIABLES = {
    "coordinator": ("JAX_COORDINATOR_ADDRESS",),
    "num_processes": ("JAX_NUM_PROCESSES",),
    "process_id": ("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX"),
}


Value = TypeVar("Value")


class Stopped(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop before its end; its state is saved."""


class Place(NamedTuple):
    """Where this process stands in its run; JAX finds what is None by the metadata of a TPU VM."""

    coordinator: str | None = None  # HOST:PORT of process 0
    num_processes: int | None = None
    process_id: int | None = None


def find_place(given: Place, variables: Mapping[str, str], on_tpu: bool) -> Place | None:
    """Where this process stands, by flags, then environment; None if it is alone.

    Raises:
        UserError: settings are missing, or contradict each other.
    """
    coordinator = given.coordinator
    if coordinator is None and (found := _variable("coordinator", variables)):
        coordinator = found[1]
    count = _number("num_processes", given.num_processes, variables)
    number = _number("process_id", given.process_id, variables)
    if count == 1:
        return None
    # JOB_COMPLETION_INDEX alone is no sign of a run of many: every indexed Job sets it.
    if coordinator is None and count is None and given.process_id is None:
        return _tpu_place(variables) if on_tpu else None
    if coordinator is None or count is None or number is None:
        place = Place(coordinator, count, number)
        absent = [name for name, value in place._asdict().items() if value is None]
        remedies = " and ".join(f"--{n} (or {' or '.join(VARIABLES[n])})" for n in absent)
        raise UserError(f"many processes need an address, their number and an id: add {remedies}.")
    if count < 1:
        raise UserError(f"num_processes: {count} is not a number of processes.")
    _check_id("process_id", number, count)
    return Place(str(addresses.with_port("coordinator", coordinator)), count, number)


def _variable(name: str, variables: Mapping[str, str]) -> tuple[str, str] | None:
    """The first variable of a setting that is set, and its text."""
    for variable in VARIABLES[name]:
        if text := variables.get(variable):
            return variable, text
    return None


def _number(name: str, value: int | None, variables: Mapping[str, str]) -> int | None:
    """A flag's number, else that of a variable."""
    if value is None and (found := _variable(name, variables)):
        return _integer(*found)
    return value


def _integer(variable: str, text: str) -> int:
    if not re.fullmatch(r"\s*[0-9]+\s*", text):
        raise UserError(f"{variable}: {text!r} is not a number.")
    return int(text)


def _check_id(name: str, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise UserError(f"{name}: {number} is not one of 0 to {count - 1}.")


def _tpu_place(variables: Mapping[str, str]) -> Place | None:
    """From what Kubernetes sets in the pods of a TPU; elsewhere JAX asks the machine."""
    listed = next((name for name in HOST_LISTS if variables.get(name)), None)
    if listed is None:
        return Place()
    hosts = addresses.parse_list(listed, variables[listed])
    slices = _integer("MEGASCALE_NUM_SLICES", variables.get("MEGASCALE_NUM_SLICES") or "1")
    if slices < 1:
        raise UserError(f"MEGASCALE_NUM_SLICES: {slices} is not a number of slices.")
    if len(hosts) * slices == 1:
        return None
    needed = ["TPU_WORKER_ID"]
    if slices > 1:
        needed += ["MEGASCALE_SLICE_ID", "MEGASCALE_COORDINATOR_ADDRESS"]
    for name in needed:
        if not variables.get(name):
            raise UserError(
                f"{name} is not set, yet this is one of {len(hosts)} hosts of {slices} slices "
                f"({listed}, MEGASCALE_NUM_SLICES): set it as a JobSet does."
            )
    worker = _integer("TPU_WORKER_ID", variables["TPU_WORKER_ID"])
    slice_id = _integer("MEGASCALE_SLICE_ID", variables.get("MEGASCALE_SLICE_ID") or "0")
    _check_id("TPU_WORKER_ID", worker, len(hosts))
    _check_id("MEGASCALE_SLICE_ID", slice_id, slices)
    leader = hosts[0]
    if slices > 1:
        name = "MEGASCALE_COORDINATOR_ADDRESS"
        leader = addresses.parse(name, variables[name])
    port = variables.get("JAX_COORDINATOR_PORT")
    number = addresses.port("JAX_COORDINATOR_PORT", port) if port else TPU_PORT
    return Place(
        str(leader._replace(port=number)), len(hosts) * slices, slice_id * len(hosts) + worker
    )


def _await_name(address: str, until: float) -> None:
    """Waits for a host's name, which a new pod gets a while after it starts."""
    name = addresses.parse("coordinator", address).host
    while True:
        try:
            socket.getaddrinfo(name, None)
            return
        except socket.gaierror:
            if time.monotonic() > until:
                raise
            time.sleep(2)


def start(place: Place, peer_timeout: int, start_timeout: int) -> None:
    """Joins the other processes; call it before anything touches a device.

    Raises:
        UserError: they did not all come in `start_timeout` seconds.
    """
    # The loop handles SIGTERM itself; JAX's preemption service would take it away.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if place.coordinator:
            _await_name(place.coordinator, time.monotonic() + start_timeout)
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            # JAX looks for a cluster only where something is missing.
            cluster_detection_method="deactivate" if None not in place else None,
            initialization_timeout=start_timeout,
            heartbeat_timeout_seconds=peer_timeout,
        )
    except (ValueError, RuntimeError, OSError) as error:
        where = place.coordinator or "the TPU's first host"
        raise UserError(
            f"cannot join the other processes at {where} within {start_timeout} s "
            f"({str(error).splitlines()[0]}): start the same command on every host, "
            "or set --num_processes=1 to run alone."
        ) from error


def is_main() -> bool:
    """Whether this is process 0, the one that writes the files of a run."""
    return jax.process_index() == 0


def broadcast(text: str) -> str:
    """The text of process 0, in every process; waits for all of them."""
    if jax.process_count() == 1:
        return text
    data = np.frombuffer(text.encode(), np.uint8) if is_main() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    mine = data if is_main() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(mine)).tobytes().decode()


def broadcast_json(value: Value) -> Value:
    """The value of process 0, in every process: one that comes back from JSON as it was."""
    return json.loads(broadcast(json.dumps(value)))


def processes_where(flag: bool) -> list[int]:
    """The numbers of the processes whose flag is true; waits for all of them."""
    if jax.process_count() == 1:
        return [0] if flag else []
    answers = np.asarray(multihost_utils.process_allgather(np.int32(flag)))
    return [int(i) for i in np.flatnonzero(answers)]


def gather(array: jax.Array) -> jax.Array | np.ndarray:
    """The whole array in every process; an all-gather where it is spread over several."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return array
    return multihost_utils.process_allgather(array, tiled=True)


def agreed(asked: Callable[[], bool]) -> Callable[[], bool]:
    """Turns a question that is asked once a step into one with the same answer everywhere.

    Each call starts an all-reduce and reads the one of two calls before, which has arrived by
    then: nothing waits for the answer, and any process that says yes makes all stop after the
    same step. JAX's own preemption notice is not used: it knows SIGTERM alone, and counts
    steps that may go back when a loss is not finite.
    """
    if jax.process_count() == 1:
        return asked
    mesh = Mesh(np.array(jax.devices()), ("all",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("all")), NamedSharding(mesh, P())
    any_of = jax.jit(lambda flags: flags.any(), out_shardings=whole)
    answers: collections.deque[jax.Array] = collections.deque()

    def ask() -> bool:
        flags = np.full(jax.local_device_count(), asked())
        answers.append(
            any_of(jax.make_array_from_process_local_data(split, flags, (jax.device_count(),)))
        )
        return len(answers) > 2 and bool(answers.popleft())

    return ask


def leave(code: int) -> NoReturn:
    """Ends this process; after a failure without waiting for the others, which may hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code > 128:
        os._exit(code)  # Threads that still compile would crash in the interpreter's own end.
    if jax.distributed.is_initialized():
        if code not in (0, EXIT_STOPPED):
            time.sleep(
                2
            )  # Others report errors of their own before they notice that this one is gone.
            os._exit(code)
        jax.distributed.shutdown()
    sys.exit(code)
