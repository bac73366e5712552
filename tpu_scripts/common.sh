# Sourced by the scripts beside it: options, and commands that are run or printed.
#
#   tpu_scripts/create.sh --help     and so for each of them
#
# Every option --some-name VALUE may come from the environment as TPU_SOME_NAME.

# shellcheck shell=bash
# shellcheck disable=SC2088  # A host's own home, where the code lies.
SOURCE='~/moshijax'
# shellcheck disable=SC2034  # Read by the scripts.
COMMAND=() # What stands after --.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

fail() {
  echo "${0##*/}: $1" >&2
  exit 2
}

# The comment at the top of the script that runs is its help.
usage() {
  awk '/^#!/ { next } { if (!/^#/) exit; sub(/^# ?/, ""); print }' "tpu_scripts/${0##*/}"
}

variable() {
  printf 'TPU_%s' "$(printf '%s' "$1" | tr 'a-z-' 'A-Z_')"
}

# parse "NAME SWITCH! LIST+" "$@": --NAME VALUE, --SWITCH alone, --LIST VALUE many times (joined
# by newlines). TPU_<NAME> is set for each of them, empty if it was not given.
parse() {
  local known=" $1 project zone dry-run! help! " option name value
  shift
  for name in $(printf '%s' "$known" | tr 'a-z-' 'A-Z_'); do
    name=TPU_${name%[+!]}
    printf -v "$name" '%s' "${!name-}"
  done
  while [ $# -gt 0 ]; do
    case $1 in
      --)
        shift
        # shellcheck disable=SC2034
        COMMAND=("$@")
        break
        ;;
      -h) TPU_HELP=yes; break ;;
      --*) ;;
      *) fail "surplus argument '$1': options begin with --, a command stands after --." ;;
    esac
    option=${1#--}
    case $option in
      *=*) value=${option#*=}; option=${option%%=*}; shift; set -- "--$option" "$value" "$@" ;;
    esac
    name=$(variable "$option")
    case $known in
      *" $option! "*) printf -v "$name" yes; shift; continue ;;
      *" $option "*) [ $# -gt 1 ] || fail "--$option needs a value."; printf -v "$name" '%s' "$2" ;;
      *" $option+ "*) [ $# -gt 1 ] || fail "--$option needs a value."
        printf -v "$name" '%s%s\n' "${!name}" "$2" ;;
      *) fail "unknown option --$option; --help lists them." ;;
    esac
    shift 2
  done
  if [ -n "$TPU_HELP" ]; then
    usage
    exit 0
  fi
}

# need NAME...: refuses to go on without these options.
need() {
  local option name
  for option in "$@"; do
    name=$(variable "$option")
    [ -n "${!name}" ] || fail "give --$option (or set $name)."
  done
}

# need_named "$@": what deletes wants its name on the command line, not from an environment that
# was set for something else.
need_named() {
  local argument
  for argument in "$@"; do
    case $argument in
      --) break ;;
      --name | --name=?*) return ;;
    esac
  done
  fail "give --name on the command line: it is not taken from the environment for this."
}

# A word as a shell would have to be given it.
quoted() {
  case $1 in
    *\'*) printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")" ;;
    '' | *[!A-Za-z0-9_./:=,@%+-]*) printf "'%s'" "$1" ;;
    *) printf '%s' "$1" ;;
  esac
}

line() {
  local separator=''
  while [ $# -gt 0 ]; do
    printf '%s' "$separator"
    quoted "$1"
    separator=' '
    shift
  done
}

# Runs a command, or prints it as it could be pasted.
run() {
  if [ -n "$TPU_DRY_RUN" ]; then
    line "$@"
    echo
  else
    "$@"
  fi
}

queue() {
  run gcloud compute tpus queued-resources "$@" "--project=$TPU_PROJECT" "--zone=$TPU_ZONE"
}

# on WORKER COMMAND: a shell line on one host (a number) or on all.
on() {
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "--project=$TPU_PROJECT" "--zone=$TPU_ZONE" \
    "--worker=$1" "--command=$2"
}

# Copies the code as it is here, without what git ignores, to every host.
ship() {
  local there=/tmp/moshijax.tar.gz
  local here=${TMPDIR:-/tmp}
  here=${here%/}/moshijax.tar.gz
  local pack="git ls-files -z --cached --others --exclude-standard | xargs -0 ls -d 2>/dev/null"
  pack+=" | COPYFILE_DISABLE=1 tar -czf $(quoted "$here") -T -"
  if [ -n "$TPU_DRY_RUN" ]; then
    echo "$pack"
  else
    bash -c "$pack"
  fi
  run gcloud compute tpus tpu-vm scp "$here" "$TPU_NAME:$there" \
    "--project=$TPU_PROJECT" "--zone=$TPU_ZONE" --worker=all
  on all "mkdir -p $SOURCE && tar -xzf $there -C $SOURCE"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  usage
fi
