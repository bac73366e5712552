#!/usr/bin/env bash
# Makes a GKE cluster with TPU slices, with xpk; needed once, for many runs.
#
#   gke_create.sh --cluster CLUSTER --type v5p-128 --spot --bucket BUCKET
#
#   --type TYPE            accelerator type of a slice: v5p-128, v5litepod-32
#   --slices 1             how many of them
#   --spot | --reservation NAME   else on demand
#   --bucket BUCKET        a Cloud Storage bucket that all runs see as /bucket
#   --project P --zone Z   where; --dry-run prints the commands; -- ARGS go to xpk
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "$0")/common.sh"

parse "cluster type slices spot! reservation bucket" "$@"
need cluster type project zone
at=("--cluster=$TPU_CLUSTER" "--project=$TPU_PROJECT" "--zone=$TPU_ZONE")

[ -z "$TPU_SPOT" ] || [ -z "$TPU_RESERVATION" ] || fail "give --spot or --reservation, not both."
capacity=--on-demand
[ -z "$TPU_SPOT" ] || capacity=--spot
[ -z "$TPU_RESERVATION" ] || capacity=--reservation=$TPU_RESERVATION
mounts=()
[ -z "$TPU_BUCKET" ] || mounts=(--enable-workload-identity --enable-gcsfuse-csi-driver)
run xpk cluster create "${at[@]}" "--tpu-type=$TPU_TYPE" "--num-slices=${TPU_SLICES:-1}" \
  "$capacity" ${mounts[@]+"${mounts[@]}"} ${COMMAND[@]+"${COMMAND[@]}"}
[ -z "$TPU_BUCKET" ] || run xpk storage attach bucket "${at[@]}" --type=gcsfuse \
  "--bucket=$TPU_BUCKET" --mount-point=/bucket --readonly=false --size=1000 --auto-mount=true \
  --mount-options=implicit-dirs,rename-dir-limit=1000000,metadata-cache:ttl-secs:5
