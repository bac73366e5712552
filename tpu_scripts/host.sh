#!/usr/bin/env bash
# What the other scripts have done on a host, in the folder of the code.
#
#   host.sh install PYTHON   an environment with the package, versions pinned
#   host.sh mount BUCKET     a Cloud Storage bucket as /bucket
#   host.sh start COMMAND    in the background, with its lines in ~/run/log
#   host.sh stop             asks the command to save and stop
#   host.sh status           running | stopping | ended CODE | stopped CODE | none
set -euo pipefail

state=$HOME/run

running() {
  [ -f "$state/pid" ] && kill -0 "$(cat "$state/pid")" 2>/dev/null
}

install() {
  python3 -m pip install --quiet --user uv
  local uv="python3 -m uv"
  $uv venv --quiet --allow-existing --python "$1" .venv
  $uv pip install --quiet --python .venv --constraint constraints.txt --editable '.[tpu]'
  .venv/bin/python -c 'import jax, moshijax; print("jax", jax.__version__, "is installed")'
}

mount() {
  if ! command -v gcsfuse > /dev/null; then
    local key=/usr/share/keyrings/cloud.google.asc
    curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" > /dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" \
      | sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
    sudo apt-get -qq update
    sudo apt-get -qq install --yes gcsfuse
  fi
  sudo mkdir -p /bucket
  sudo chown "$USER" /bucket
  # Checkpoints are renamed into place as folders, and what one host writes others read soon.
  mountpoint -q /bucket \
    || gcsfuse --implicit-dirs --rename-dir-limit=1000000 --metadata-cache-ttl-secs=5 "$1" /bucket
}

start() {
  if running; then
    echo "$(hostname): a command is running already: stop it first." >&2
    exit 1
  fi
  mkdir -p "$state"
  rm -f "$state/code" "$state/asked" "$state/command"
  [ ! -d .venv ] || export PATH="$PWD/.venv/bin:$PATH"
  # The shell that notes how the command ended ignores the signal that the command takes.
  # shellcheck disable=SC2016  # The inner shell expands it.
  setsid nohup bash -c '
    trap "" TERM
    (trap - TERM; echo "$BASHPID" > "$0/command"; exec "$@") &
    code=0
    wait $! || code=$?
    echo "$code" > "$0/code.new" && mv "$0/code.new" "$0/code"
  ' "$state" "$@" >> "$state/log" 2>&1 < /dev/null &
  echo $! > "$state/pid"
  # Before it is known by number it could not be asked to stop.
  while running && [ ! -s "$state/command" ]; do sleep 0.02; done
  echo "$(hostname): started"
}

stop() {
  running || { echo "$(hostname): nothing is running"; return; }
  touch "$state/asked"
  kill -TERM "$(cat "$state/command")"
  echo "$(hostname): asked to stop"
}

status() {
  local what=ended code=76 # A host that was switched off left no code: a lost run.
  [ ! -f "$state/asked" ] || what=stopped
  [ ! -f "$state/code" ] || code=$(cat "$state/code")
  if running; then
    if [ $what = stopped ]; then what=stopping; else what=running; fi
    echo "$(hostname): $what"
  elif [ -f "$state/pid" ]; then
    echo "$(hostname): $what $code"
  else
    echo "$(hostname): none"
  fi
}

case ${1-} in
  install | mount | start | stop | status) "$@" ;;
  -h | --help) awk '/^#!/ { next } { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0" ;;
  *)
    echo "host.sh: '${1-}' is nothing that it does; --help lists what is." >&2
    exit 2
    ;;
esac
