"""The loop that keeps a run going, with a gcloud that plays a TPU's life."""

import os

import pytest

from tests.tpu_scripts.cases import call


# Answers `list` by the next word of $STATES and `status` by the next line of $REPORTS; the last
# ones last. All else is written down.
GCLOUD = r"""#!/bin/bash
next() {
  head -n 1 "$1"
  if [ "$(wc -l < "$1")" -gt 1 ]; then sed -i 1d "$1"; fi
}
case "$*" in
  *"queued-resources list"*) next "$STATES" | sed 's/^none$//' ;;
  *"host.sh status"*) next "$REPORTS" | tr ',' '\n' ;;
  *"queued-resources create"*) echo create >> "$CALLS" ;;
  *"queued-resources delete"*) echo delete >> "$CALLS" ;;
  *"host.sh install"*) echo setup >> "$CALLS" ;;
  *"host.sh start env broken"*) exit 1 ;;
  *"host.sh start"*) echo start >> "$CALLS" ;;
esac
"""
RUN = "resume.sh --name pod --type v5p-8 --spot --poll 0 -- python -m distill"


@pytest.fixture
def life(tmp_path):
    """Plays states and reports of hosts; gives the exit code, what was done, and what was said."""
    (tmp_path / "gcloud").write_text(GCLOUD)
    (tmp_path / "gcloud").chmod(0o755)

    def play(states, reports, command=RUN):
        files = {"STATES": states, "REPORTS": reports, "CALLS": []}
        for name, lines in files.items():
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        env = {name: str(tmp_path / name) for name in files} | {"TMPDIR": str(tmp_path)}
        path = f"{tmp_path}:{os.environ['PATH']}"
        result = call(command, env=env | {"PATH": path})
        return result.returncode, (tmp_path / "CALLS").read_text().split(), result.stderr

    return play


def test_run_is_made_set_up_started_and_watched_to_its_end(life):
    states = ["none", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    reports = ["a: none,b: none", "a: running,b: running", "a: running,b: ended 0", "a: ended 0"]
    code, calls, said = life(states, reports)
    assert code == 0
    assert calls == ["create", "setup", "start"]
    assert "the command is done" in said


def test_preempted_tpu_is_made_anew(life):
    states = ["ACTIVE", "SUSPENDING", "SUSPENDED", "none", "ACTIVE"]
    reports = ["a: running,b: running", "none,none", "a: running", "a: ended 0,b: ended 0"]
    code, calls, _ = life(states, reports)
    assert code == 0
    assert calls == ["delete", "create", "setup", "start"]


def test_lost_run_is_set_up_and_started_again(life):
    for lost in ("a: ended 76,b: ended 137", "a: ended 75,b: ended 75"):
        code, calls, _ = life(["ACTIVE"], [lost, "a: running", "a: ended 0,b: ended 0"])
        assert code == 0
        assert calls == ["setup", "start"]


def test_run_that_is_always_lost_is_given_up(life):
    command = RUN.replace("--poll 0", "--poll 0 --max-restarts 2")
    code, calls, said = life(["ACTIVE"], ["a: ended 76"], command)
    assert code == 76
    assert calls == ["setup", "start"] * 2
    assert "lost too often" in said


def test_error_of_the_command_ends_the_loop_with_its_code(life):
    code, calls, said = life(["ACTIVE"], ["a: ended 76,b: ended 1"])
    assert (code, calls) == (1, [])
    assert "the command ended with code 1: logs.sh shows why" in said


def test_run_that_was_stopped_is_left_alone(life):
    code, calls, said = life(["ACTIVE"], ["a: stopping,b: running", "a: stopped 75,b: stopped 75"])
    assert (code, calls) == (75, [])
    assert "stopped as asked" in said


def test_what_fails_is_tried_again(life, tmp_path):
    broken = RUN.replace("python", "broken")
    code, calls, said = life(["ACTIVE"], ["a: none", "a: none", "a: ended 0"], broken)
    assert code == 0
    assert calls == ["setup", "setup"]
    assert said.count("starting failed; next try in 0 s") == 2
