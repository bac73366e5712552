#!/usr/bin/env bash
# Asks the command of run.sh to save and stop, on all hosts; the TPU stays.
#
#   stop.sh --name NAME
#
#   --project P --zone Z   where; --dry-run prints the commands
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "$0")/common.sh"

parse "name" "$@"
need name project zone
on all "cd $SOURCE && bash tpu_scripts/host.sh stop"
