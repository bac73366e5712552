#!/usr/bin/env bash
# Shows what a run on a cluster says, and follows it; Ctrl-C leaves it running.
#
#   gke_logs.sh --name NAME --cluster CLUSTER
#
#   --worker 0             which host of a slice, or all; process 0 reports
#   --lines 100            how many lines of the past
#   --no-follow            ends after them
#   --project P --zone Z   where; --dry-run prints the commands
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "$0")/common.sh"

parse "name cluster worker lines no-follow!" "$@"
need name cluster project zone
pods="jobset.sigs.k8s.io/jobset-name=$TPU_NAME"
[ "${TPU_WORKER:-0}" = all ] || pods+=",batch.kubernetes.io/job-completion-index=${TPU_WORKER:-0}"
follow=--follow
[ -z "$TPU_NO_FOLLOW" ] || follow=--follow=false
run gcloud container clusters get-credentials "$TPU_CLUSTER" "--project=$TPU_PROJECT" \
  "--location=${TPU_ZONE%-*}"
run kubectl logs "--selector=$pods" --all-containers --prefix --max-log-requests=1000 \
  "--tail=${TPU_LINES:-100}" "$follow"
