#!/usr/bin/env bash
# Ends a run on a cluster; the cluster and its TPU stay.
#
#   gke_delete.sh --name NAME --cluster CLUSTER
#
#   --yes                  without asking
#   --project P --zone Z   where; --dry-run prints the commands
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "$0")/common.sh"

parse "name cluster yes!" "$@"
need_named "$@"
need cluster project zone
run xpk workload delete "--workload=$TPU_NAME" "--cluster=$TPU_CLUSTER" \
  "--project=$TPU_PROJECT" "--zone=$TPU_ZONE" ${TPU_YES:+--force}
