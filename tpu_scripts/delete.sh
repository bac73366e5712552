#!/usr/bin/env bash
# Gives a TPU back, with everything on its hosts, and its request. Buckets stay.
#
#   delete.sh --name NAME
#
#   --yes                  without asking
#   --project P --zone Z   where; --dry-run prints the commands
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "$0")/common.sh"

parse "name yes!" "$@"
need_named "$@"
need project zone
queue delete "$TPU_NAME" --force ${TPU_YES:+--quiet}
