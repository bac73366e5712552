#!/usr/bin/env bash
# Says how the request for a TPU stands, and the command of run.sh on every host.
#
#   status.sh --name NAME
#
#   --project P --zone Z   where; --dry-run prints the commands
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "$0")/common.sh"

parse "name" "$@"
need name project zone
queue describe "$TPU_NAME" '--format=value(state.state)'
on all "cd $SOURCE && bash tpu_scripts/host.sh status"
