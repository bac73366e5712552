#!/usr/bin/env bash
# Builds an image of the code as it is here and runs a command in it on a TPU.
#
#   gke_run.sh --name NAME --cluster CLUSTER --type v5p-128 --image IMAGE \
#       -- python -m distill --config CONFIG --workdir /bucket/runs/x
#
# On a cluster, with xpk. A lost or preempted run is started again by the
# cluster, and goes on where it stopped.
#
#   --image IMAGE          where it is pushed, as in
#                          us-docker.pkg.dev/PROJECT/REPOSITORY/moshijax
#   --slices 1             over how many slices
#   --max-restarts 50      so often at most
#   --env KEY=VALUE        for the command's environment; many times
#   --project P --zone Z   where; --dry-run prints the commands
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "$0")/common.sh"

parse "name cluster type slices image max-restarts env+" "$@"
need name cluster type image project zone
[ ${#COMMAND[@]} -gt 0 ] || fail "what is to be run stands after --."

pairs=()
while IFS= read -r pair; do
  [ -z "$pair" ] || pairs+=("--env=$pair")
done <<< "$TPU_ENV"

run docker build --platform=linux/amd64 --file=tpu_scripts/Dockerfile "--tag=$TPU_IMAGE" .
run docker push "$TPU_IMAGE"
# 75 and 76 are stopped and lost: GKE restarts what it takes away. exec: signals reach the command.
run xpk workload create "--workload=$TPU_NAME" "--cluster=$TPU_CLUSTER" \
  "--project=$TPU_PROJECT" "--zone=$TPU_ZONE" "--tpu-type=$TPU_TYPE" \
  "--num-slices=${TPU_SLICES:-1}" "--docker-image=$TPU_IMAGE" \
  "--max-restarts=${TPU_MAX_RESTARTS:-50}" --restart-on-exit-codes=75,76 \
  --termination-grace-period-seconds=300 ${pairs[@]+"${pairs[@]}"} \
  "--command=exec $(line "${COMMAND[@]}")"
