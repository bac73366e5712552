#!/usr/bin/env bash
# Shows what the command of run.sh says, and follows it; Ctrl-C leaves it running.
#
#   logs.sh --name NAME
#
#   --worker 0             which host, or all; process 0 is the one that reports
#   --lines 100            how many lines of the past
#   --no-follow            ends after them
#   --project P --zone Z   where; --dry-run prints the commands
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "$0")/common.sh"

parse "name worker lines no-follow!" "$@"
need name project zone
follow=' -F'
[ -z "$TPU_NO_FOLLOW" ] || follow=
on "${TPU_WORKER:-0}" "tail -n $(quoted "${TPU_LINES:-100}")$follow ~/run/log"
