#!/usr/bin/env bash
# Copies the code to every host and installs it there, with pinned versions.
#
#   setup.sh --name NAME --bucket BUCKET
#
#   --bucket BUCKET        a Cloud Storage bucket that all hosts see as /bucket
#   --python 3.12          the Python of the environment
#   --project P --zone Z   where; --dry-run prints the commands
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "$0")/common.sh"

parse "name bucket python" "$@"
need name project zone
[ ${#COMMAND[@]} = 0 ] || fail "surplus argument '${COMMAND[0]}'."

ship
on all "cd $SOURCE && bash tpu_scripts/host.sh install $(quoted "${TPU_PYTHON:-3.12}")"
[ -z "$TPU_BUCKET" ] || on all "cd $SOURCE && bash tpu_scripts/host.sh mount $(quoted "$TPU_BUCKET")"
