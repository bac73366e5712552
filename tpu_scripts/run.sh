#!/usr/bin/env bash
# Copies the code to every host and starts the same command on all of them.
#
#   run.sh --name NAME \
#       -- python -m distill --config CONFIG --workdir /bucket/runs/x
#
# The command goes on when this terminal closes. logs.sh shows what it says,
# stop.sh has it save and stop, status.sh says how it ended. The same command
# again goes on where it stopped.
#
#   --env KEY=VALUE        for the command's environment; many times
#   --project P --zone Z   where; --dry-run prints the commands
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "$0")/common.sh"

parse "name env+" "$@"
need name project zone
[ ${#COMMAND[@]} -gt 0 ] || fail "what is to be run stands after --."

words=()
while IFS= read -r pair; do
  [ -n "$pair" ] || continue
  [[ $pair =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || fail "--env: '$pair' is not KEY=VALUE."
  words+=("$pair")
done <<< "$TPU_ENV"

ship
words=(env ${words[@]+"${words[@]}"} "${COMMAND[@]}")
on all "cd $SOURCE && bash tpu_scripts/host.sh start $(line "${words[@]}")"
