#!/usr/bin/env bash
# Keeps a run going until it is done, also when its TPU is taken away.
#
#   resume.sh --name NAME --topology v5p:4x4x8 --spot --bucket BUCKET \
#       -- python -m distill --config CONFIG --workdir /bucket/runs/x
#
# It makes the TPU anew, sets it up, and starts the same command again, which
# goes on from its newest checkpoint. It ends with code 0 when the command is
# done, with 75 after stop.sh, and with the command's own code after an error.
# All else is tried again, after pauses that double up to half an hour. The TPU
# stays; delete.sh gives it back.
#
#   --poll 60              seconds between looks
#   --max-restarts 50      so often at most on one TPU
#   options of create.sh, setup.sh and run.sh; --dry-run prints the commands
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "$0")/common.sh"

parse "name topology type spot! reserved! valid-until runtime bucket python env+ poll max-restarts" \
  "$@"
need_named "$@"
need project zone
[ ${#COMMAND[@]} -gt 0 ] || fail "what is to be run stands after --."

poll=${TPU_POLL:-60}
longest=1800
at=(--name "$TPU_NAME" --project "$TPU_PROJECT" --zone "$TPU_ZONE" ${TPU_DRY_RUN:+--dry-run})

say() {
  echo "resume.sh: $(date '+%F %T') $1" >&2
}

create() {
  tpu_scripts/create.sh "${at[@]}" ${TPU_TOPOLOGY:+--topology "$TPU_TOPOLOGY"} \
    ${TPU_TYPE:+--type "$TPU_TYPE"} ${TPU_SPOT:+--spot} ${TPU_RESERVED:+--reserved} \
    ${TPU_VALID_UNTIL:+--valid-until "$TPU_VALID_UNTIL"} ${TPU_RUNTIME:+--runtime "$TPU_RUNTIME"}
}

setup() {
  tpu_scripts/setup.sh "${at[@]}" ${TPU_BUCKET:+--bucket "$TPU_BUCKET"} \
    ${TPU_PYTHON:+--python "$TPU_PYTHON"}
}

start() {
  local pair environment=()
  while IFS= read -r pair; do
    [ -z "$pair" ] || environment+=(--env "$pair")
  done <<< "$TPU_ENV"
  tpu_scripts/run.sh "${at[@]}" ${environment[@]+"${environment[@]}"} -- "${COMMAND[@]}"
}

# The request's state; nothing if there is none.
state() {
  queue list "--filter=name~/$TPU_NAME\$" '--format=value(state.state)'
}

hosts() {
  on all "cd $SOURCE 2>/dev/null && bash tpu_scripts/host.sh status || echo none"
}

if [ -n "$TPU_DRY_RUN" ]; then
  echo "# every $poll s"
  state
  echo "# suspended or failed"
  tpu_scripts/delete.sh "${at[@]}" --yes
  echo "# suspended, failed or not there"
  create
  echo "# active"
  hosts
  echo "# active, the command not started, or lost"
  setup
  start
  exit
fi

pause=$poll
restarts=0

# Waits longer and longer while nothing works.
back_off() {
  say "$1; next try in $pause s"
  sleep "$pause"
  pause=$((pause * 2 < longest ? pause * 2 : longest))
}

# What the hosts' commands come to: busy | done | stopped | error CODE | fresh | lost
verdict() {
  awk '
    / running$| stopping$/ { busy = 1 }
    / stopped [0-9]+$/ { stopped = 1 }
    /none$/ { fresh = 1 }
    / ended [0-9]+$/ { if ($NF == 75 || $NF == 76 || $NF > 128) lost = 1; else if ($NF) code = $NF }
    END {
      if (busy) print "busy"; else if (stopped) print "stopped"; else if (code) print "error", code
      else if (fresh) print "fresh"; else if (lost) print "lost"; else print "done"
    }'
}

tend() {
  local reports what
  if ! reports=$(hosts); then
    back_off "the hosts do not answer"
    return
  fi
  what=$(verdict <<< "$reports")
  case $what in
    busy) pause=$poll; sleep "$poll"; return ;;
    done) say "the command is done"; exit 0 ;;
    stopped) say "the command was stopped as asked"; exit 75 ;;
    error*) say "the command ended with code ${what#error }: logs.sh shows why"; exit "${what#error }" ;;
  esac
  if [ "$what" = lost ]; then
    restarts=$((restarts + 1))
    [ "$restarts" -le "${TPU_MAX_RESTARTS:-50}" ] || { say "lost too often"; exit 76; }
    say "the command was lost: starting it again"
  fi
  # Also after a loss: a host that was switched off and on has no bucket mounted.
  if ! setup; then
    back_off "setting up failed"
  elif ! start; then
    back_off "starting failed"
  else
    sleep "$pause"
  fi
}

while :; do
  if ! now=$(state); then
    back_off "gcloud failed"
    continue
  fi
  case $now in
    ACTIVE) tend ;;
    SUSPENDED | FAILED)
      say "the TPU is $now: making it anew"
      restarts=0
      tpu_scripts/delete.sh "${at[@]}" --yes || back_off "deleting failed"
      ;;
    '') create || back_off "creating failed" ;;
    *) say "the request is $now"; sleep "$poll" ;;
  esac
done
