import pytest

from moshijax.pod import addresses, hosts
from moshijax.pod.hosts import Place, find_place
from moshijax.system.errors import UserError


ALONE = Place()
ADDRESS = dict(JAX_COORDINATOR_ADDRESS="10.0.0.2:8476", JAX_NUM_PROCESSES="4", JAX_PROCESS_ID="3")
# What GKE sets in the pods of a JobSet of two slices of two hosts.
SLICES = dict(
    TPU_WORKER_HOSTNAMES="a-0.a,a-1.a",
    TPU_WORKER_ID="1",
    MEGASCALE_NUM_SLICES="2",
    MEGASCALE_SLICE_ID="1",
    MEGASCALE_COORDINATOR_ADDRESS="a-0-0.a",
)


def test_process_without_any_setting_is_alone():
    assert find_place(ALONE, {}, on_tpu=False) is None
    assert find_place(ALONE, {"JOB_COMPLETION_INDEX": "2"}, on_tpu=False) is None
    assert find_place(ALONE, SLICES, on_tpu=False) is None
    assert hosts.processes_where(True) == [0]
    assert hosts.broadcast("ä") == "ä"


def test_flags_come_before_the_environment():
    assert find_place(ALONE, ADDRESS, on_tpu=False) == Place("10.0.0.2:8476", 4, 3)
    given = Place(process_id=0)
    assert find_place(given, ADDRESS, on_tpu=False) == Place("10.0.0.2:8476", 4, 0)
    assert find_place(Place(num_processes=1), ADDRESS | SLICES, on_tpu=True) is None


def test_index_of_a_job_is_the_process_id():
    variables = ADDRESS | {"JAX_PROCESS_ID": "", "JOB_COMPLETION_INDEX": "2"}
    assert find_place(ALONE, variables, on_tpu=False) == Place("10.0.0.2:8476", 4, 2)


def test_pods_of_a_tpu_are_counted_over_its_slices():
    assert find_place(ALONE, SLICES, on_tpu=True) == Place("a-0-0.a:8482", 4, 3)
    one_slice = {k: v for k, v in SLICES.items() if k.startswith("TPU")}
    assert find_place(ALONE, one_slice, on_tpu=True) == Place("a-0.a:8482", 2, 1)
    port = one_slice | {"JAX_COORDINATOR_PORT": "9000"}
    assert find_place(ALONE, port, on_tpu=True) == Place("a-0.a:9000", 2, 1)
    alone = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
    assert find_place(ALONE, alone, on_tpu=True) is None


def test_machines_of_a_tpu_are_left_to_jax():
    assert find_place(ALONE, {}, on_tpu=True) == Place()


@pytest.mark.parametrize(
    ("given", "variables", "sentence"),
    [
        (Place("10.0.0.2:8476"), {}, r"add --num_processes .*JAX_NUM_PROCESSES.* and --process_id"),
        (Place(process_id=0), {}, r"add --coordinator \(or JAX_COORDINATOR_ADDRESS\) and --num"),
        (Place("10.0.0.2", 2, 0), {}, "coordinator: '10.0.0.2' is not HOST:PORT"),
        (Place("a:1", 2, 2), {}, "process_id: 2 is not one of 0 to 1"),
        (Place("a:1", 0, 0), {}, "num_processes: 0 is not a number of processes"),
        (ALONE, ADDRESS | {"JAX_PROCESS_ID": "x"}, "JAX_PROCESS_ID: 'x' is not a number"),
    ],
)
def test_half_an_address_is_refused(given, variables, sentence):
    with pytest.raises(ValueError, match=sentence):
        find_place(given, variables, on_tpu=False)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"TPU_WORKER_ID": ""}, "TPU_WORKER_ID is not set, yet this is one of 2 hosts of 2 slices"),
        ({"TPU_WORKER_ID": "2"}, "TPU_WORKER_ID: 2 is not one of 0 to 1"),
        ({"MEGASCALE_SLICE_ID": ""}, "MEGASCALE_SLICE_ID is not set"),
        ({"MEGASCALE_SLICE_ID": "2"}, "MEGASCALE_SLICE_ID: 2 is not one of 0 to 1"),
        ({"MEGASCALE_COORDINATOR_ADDRESS": ""}, "MEGASCALE_COORDINATOR_ADDRESS is not set"),
    ],
)
def test_half_set_pods_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        find_place(ALONE, SLICES | change, on_tpu=True)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("a-0.a", "a-0.a", None),
        (" 10.0.0.2:8476 ", "10.0.0.2", 8476),
        ("::1", "::1", None),
        ("[::1]", "::1", None),
        ("[::1]:8476", "::1", 8476),
        ("[fe80::2%eth0]:1", "fe80::2%eth0", 1),
        ("fe80::2%eth0", "fe80::2%eth0", None),
    ],
)
def test_addresses_are_names_or_numbers_of_either_kind(text, host, port):
    found = addresses.parse("x", text)
    assert found == (host, port)
    assert addresses.parse("x", str(found)) == found


@pytest.mark.parametrize(
    "text", ["", "a b", "a:", "a:x", "a:0", "a:65536", "[::1", "[a]:1", "1:2:3"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UserError, match=r"^x: (port )?'"):
        addresses.parse("x", text)


def test_coordinators_have_a_port_also_by_ipv6():
    place = find_place(Place(" [::1]:8476", 2, 0), {}, on_tpu=False)
    assert place == Place("[::1]:8476", 2, 0)
    with pytest.raises(UserError, match=r"'::1' is not HOST:PORT: .* such as \[::1\]:8476"):
        find_place(Place("::1", 2, 0), {}, on_tpu=False)


def pods(listed, worker="1", **more):
    variables = {"TPU_WORKER_HOSTNAMES": listed, "TPU_WORKER_ID": worker} | more
    return find_place(ALONE, variables, on_tpu=True)


def test_lists_of_hosts_may_have_spaces_a_last_comma_and_ipv6():
    assert pods("a, b,") == Place("a:8482", 2, 1)
    assert pods("a,", "0") is None
    assert pods("fd00::1,fd00::2") == Place("[fd00::1]:8482", 2, 1)
    assert pods("[fd00::1]:8471,[fd00::2]:8471") == Place("[fd00::1]:8482", 2, 1)
    two = dict(MEGASCALE_NUM_SLICES="2", MEGASCALE_SLICE_ID="1")
    leader = dict(MEGASCALE_COORDINATOR_ADDRESS="fd00::9")
    assert pods("a,b", "0", **two, **leader) == Place("[fd00::9]:8482", 4, 2)
    # Processes of one host differ by their port.
    assert pods("a:8471,a:8472") == Place("a:8482", 2, 1)


@pytest.mark.parametrize(
    ("listed", "more", "sentence"),
    [
        ("a,,b", {}, "place 1 of 'a,,b' is empty"),
        (",", {}, "place 0 of ',' is empty"),
        ("a,b,a", {}, "a stands twice in 'a,b,a': name every host once"),
        ("a b", {}, "'a b' is not the address of a host"),
        ("a,b", {"MEGASCALE_NUM_SLICES": "0"}, "MEGASCALE_NUM_SLICES: 0 is not a number of slices"),
        ("a,b", {"MEGASCALE_NUM_SLICES": "²"}, "MEGASCALE_NUM_SLICES: '²' is not a number"),
        ("a,b", {"JAX_COORDINATOR_PORT": "x"}, "JAX_COORDINATOR_PORT: port 'x' is not a number"),
    ],
)
def test_lists_that_cannot_be_counted_are_refused(listed, more, sentence):
    with pytest.raises(UserError, match=sentence):
        pods(listed, **more)
