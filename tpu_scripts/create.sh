#!/usr/bin/env bash
# Asks for a TPU by a queued resource of its name; it comes when one is free.
#
#   create.sh --name NAME --topology v5p:4x4x8 --spot
#
#   --topology GEN:SIDES   as preflight has it: v4, v5e, v5p or v6e and its sides
#   --type TYPE            instead: an accelerator type, as in v5p-256
#   --spot | --reserved    cheap and taken away at any time | of a reservation;
#                          else on demand
#   --valid-until 12h      give up the request after this time
#   --runtime VERSION      software of the hosts, if not the generation's own
#   --project P --zone Z   where; --dry-run prints the commands;
#                          -- ARGS go to gcloud
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "$0")/common.sh"

parse "name topology type spot! reserved! valid-until runtime" "$@"
need name project zone

generation=${TPU_TOPOLOGY%%:*}
if [ -n "$TPU_TOPOLOGY" ] && [ -n "$TPU_TYPE" ]; then
  fail "give --topology or --type, not both."
elif [ -n "$TPU_TOPOLOGY" ]; then
  [[ $TPU_TOPOLOGY =~ ^[a-z0-9]+:[0-9]+(x[0-9]+)+$ ]] \
    || fail "--topology: '$TPU_TOPOLOGY' is not like v5p:4x4x8."
  shape=("--type=${generation/v5e/v5litepod}" "--topology=${TPU_TOPOLOGY#*:}")
elif [ -n "$TPU_TYPE" ]; then
  generation=${TPU_TYPE%%-*}
  shape=("--accelerator-type=$TPU_TYPE")
else
  fail "give --topology or --type."
fi
case $generation in
  v4) runtime=tpu-ubuntu2204-base ;;
  v5e | v5litepod) runtime=v2-alpha-tpuv5-lite ;;
  v5p) runtime=v2-alpha-tpuv5 ;;
  v6e) runtime=v2-alpha-tpuv6e ;;
  *) runtime=$TPU_RUNTIME ;;
esac
[ -n "$runtime" ] || fail "'$generation' is none of v4, v5e, v5p, v6e: give its --runtime."

[ -z "$TPU_SPOT" ] || [ -z "$TPU_RESERVED" ] || fail "give --spot or --reserved, not both."
[ -z "$TPU_SPOT" ] || shape+=(--spot)
[ -z "$TPU_RESERVED" ] || shape+=(--reserved)
[ -z "$TPU_VALID_UNTIL" ] || shape+=("--valid-until-duration=$TPU_VALID_UNTIL")
queue create "$TPU_NAME" "--node-id=$TPU_NAME" "${shape[@]}" \
  "--runtime-version=${TPU_RUNTIME:-$runtime}" ${COMMAND[@]+"${COMMAND[@]}"}
