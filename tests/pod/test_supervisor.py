import signal

import pytest

from moshijax.pod.hosts import EXIT_PEER_LOST
from moshijax.pod.supervisor import explain


SILENT = """E1123 coordination_service.cc:1549] Use error polling to propagate the following error:
UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):
1
12
The tasks have crashed. Check the task logs for an earlier error
"""
LEADER = "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task was"
LATE = "absl::Status: DEADLINE_EXCEEDED\n\nRPC: /xla.coordination.CoordinationService/RegisterTask"


@pytest.mark.parametrize(
    ("tail", "sentence"),
    [
        (SILENT, "lost process 1, 12, silent for 30 s: start the same command on every host"),
        (LEADER, "lost process 0, which holds the others together: start the same command"),
        (LATE, "not all processes came within 60 s: start the same command on every host"),
    ],
)
def test_abort_over_a_lost_peer_has_its_own_code_and_says_which(tail, sentence):
    code, message = explain(-signal.SIGABRT, tail, 30, 60)
    assert code == EXIT_PEER_LOST
    assert message.startswith(sentence)


def test_other_ends_keep_their_code():
    assert explain(0, SILENT, 30, 60) == (0, "")
    assert explain(75, "", 30, 60) == (75, "")
    assert explain(-signal.SIGABRT, "Check failed: x > 0", 30, 60)[0] == 134
    code, message = explain(-signal.SIGKILL, "", 30, 60)
    assert code == 137
    assert "killed by SIGKILL" in message
