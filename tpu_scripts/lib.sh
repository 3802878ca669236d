#!/usr/bin/env bash
# Functions that all scripts here share. It is sourced, never run.
#
# Exit codes of every script: 0 done, 1 failed, 2 bad arguments (one line on stderr), 3 refused for good (rights, a request
# that can never work), 4 not now (no capacity, quota, a service that is down), 5 a deadline has passed.
#
# Cloud TPU: https://cloud.google.com/tpu/docs/queued-resources and
# https://cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources
set -euo pipefail

# shellcheck disable=SC2034 # for the scripts
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# What every script knows; the environment may hold defaults.
name=${TPU_NAME:-} zone=${TPU_ZONE:-} project=${TPU_PROJECT:-}
dry_run='' yes='' rest=()

# ---- Lines for people

# All on stderr: what is printed on stdout is for programs.
say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" >&2; }

die() { # CODE WORDS…
  local code=$1
  shift
  printf 'error: %s\n' "$*" >&2
  exit "$code"
}

# The comment at the head of the script is its help.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

confirm() { # QUESTION
  [[ -z "$yes" ]] || return 0
  [[ -t 0 || -n "${TPU_SCRIPTS_ASK:-}" ]] || die 2 "stdin: found nobody to answer, expected --yes"
  local answer
  read -r -p "$1 [y/N] " answer || answer=''
  [[ "$answer" == [yY] || "$answer" == [yY][eE][sS] ]]
}

# ---- Arguments

# parse "FLAGS WITH A VALUE" "SWITCHES" ARGUMENTS…: sets one variable a flag (--max-relaunches: max_relaunches; a switch is
# empty or 1), and `rest` to what follows `--`, where --dry-run is still ours. All scripts have --name, --zone, --project,
# --dry-run, --yes and --help.
parse() {
  local values=" name zone project $1 " switches=" dry-run yes $2 " flag variable
  shift 2
  while (($#)); do
    if [[ "$1" == --*=* ]]; then
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
    fi
    flag=${1#--} variable=${1#--}
    variable=${variable//-/_}
    case "$1" in
      --help | -h)
        usage
        exit 0
        ;;
      --)
        for flag in "${@:2}"; do
          if [[ "$flag" == --dry-run ]]; then dry_run=1; else rest+=("$flag"); fi
        done
        return
        ;;
      --*)
        if [[ "$values" == *" $flag "* ]]; then
          (($# > 1)) || die 2 "--$flag: found no value, expected one"
          printf -v "$variable" '%s' "$2"
          shift 2
        elif [[ "$switches" == *" $flag "* ]]; then
          printf -v "$variable" 1
          shift
        else
          die 2 "$1: found an unknown flag, expected one of --help"
        fi
        ;;
      *) die 2 "arguments: found ${1@Q}, expected flags" ;;
    esac
  done
}

# check KIND FLAG VALUE: the value is of that kind, or exit 2. Nothing that fails here ever reaches a shell, here or there.
# path: on the workers or in a bucket, never with ".."; local: on this machine.
check() {
  local pattern expected
  case "$1" in
    name) # RFC 1035, short enough for the number of a slice behind it
      pattern='[a-z]([-a-z0-9]{0,38}[a-z0-9])?' expected='small letters, digits and dashes, at most 40' ;;
    zone) pattern='[a-z]+-[a-z]+[0-9]+-[a-z]' expected='a zone such as us-central2-b' ;;
    project) pattern='([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]' expected="a project's id" ;;
    account) pattern='[-a-z0-9]+@[-a-z0-9.]+' expected='an e-mail address of a service account' ;;
    number) pattern='0|[1-9][0-9]{0,6}' expected='a whole number' ;;
    duration) pattern='[1-9][0-9]{0,5}[smhd]' expected='a duration such as 6h' ;;
    bucket) pattern='gs://[a-z0-9][-a-z0-9_.]{1,61}[a-z0-9](/[-A-Za-z0-9_.=]+)*' expected='a folder such as gs://my-bucket/runs' ;;
    path | local) pattern='[A-Za-z0-9_./][-A-Za-z0-9_./=]*' expected='a path of letters, digits and _ . / = -' ;;
    regex) pattern='[^[:cntrl:]]{1,200}' expected='a regular expression' ;; # is quoted wherever it goes
    *) die 1 "check: found the kind $1, expected a known one" ;;
  esac
  [[ "$3" =~ ^($pattern)$ && ( "$1" == regex || "$1" == local || "/$3/" != */../* ) ]] || die 2 "$2: found ${3@Q}, expected $expected"
}

# need FLAGS…: they are there, and --name, --zone and --project are in order.
need() {
  local flag variable
  for flag in "$@"; do
    variable=${flag//-/_}
    [[ -n "${!variable:-}" ]] || die 2 "--$flag: found none, expected one"
  done
  [[ -z "$name" ]] || check name --name "$name"
  [[ -z "$zone" ]] || check zone --zone "$zone"
  [[ -z "$project" ]] || check project --project "$project"
  where=()
  [[ -z "$zone" ]] || where+=("--zone=$zone")
  [[ -z "$project" ]] || where+=("--project=$project")
}

# ---- Running things

# A command as it could be pasted into a shell.
show() {
  local word line=''
  for word in "$@"; do
    [[ "$word" =~ ^[-A-Za-z0-9_./:=,@%+]+$ ]] || word=${word@Q}
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Runs a command, or only prints it.
run() {
  if [[ -n "$dry_run" ]]; then show "$@"; else "$@"; fi
}

# The words as one line for a remote shell; gcloud gives it to ssh, and that to the login shell, which splits it again.
remote() { local line && printf -v line '%q ' "$@" && printf '%s' "${line% }"; }

# Runs gcloud. What it says goes to $scratch/error and, when it fails, to stderr as one line; the exit code says whether there
# is sense in trying again: 3 no, 4 later, 1 unknown, 6 there is no such thing.
# The words are those of https://cloud.google.com/apis/design/errors and of the TPU service's own messages.
cloud() {
  if [[ -n "$dry_run" ]]; then
    show gcloud "$@"
    return
  fi
  gcloud "$@" 2>"$scratch/error" && return
  local code=1
  if grep -qiE 'PERMISSION_DENIED|does not have permission|permission denied|UNAUTHENTICATED|active account|Reauthentication|SERVICE_DISABLED|AccessDenied|HTTPError 40[13]' "$scratch/error"; then
    code=3
  elif grep -qiE 'RESOURCE_EXHAUSTED|no more capacity|insufficient capacity|stock-?out|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|code.?(429|50[0234])|timed? ?out|quota.*exceeded' "$scratch/error"; then
    code=4
  elif grep -qiE 'INVALID_ARGUMENT|ALREADY_EXISTS|invalid choice|unrecognized arguments' "$scratch/error"; then
    code=3
  elif grep -qiE 'NOT_FOUND|was not found|does not exist|could not be found' "$scratch/error"; then
    code=6
  fi
  [[ $code == 6 ]] || printf 'gcloud: %s\n' "$(tr '\n' ' ' <"$scratch/error" | cut -c1-400)" >&2
  return $code
}

# pause SECONDS
pause() { sleep "$1"; }

seconds() { # DURATION
  local number=${1%?}
  case "$1" in
    *s) echo "$number" ;;
    *m) echo $((number * 60)) ;;
    *h) echo $((number * 3600)) ;;
    *d) echo $((number * 86400)) ;;
  esac
}

# ---- Slices

# v5e-16 → v5litepod-16. What Cloud TPU calls a v5e: https://cloud.google.com/tpu/docs/v5e
accelerator_of() {
  local kind=${1%-*} size=${1##*-}
  [[ "$1" =~ ^(v4|v5p|v5e|v5litepod|v6e)-[1-9][0-9]{0,4}$ ]] ||
    die 2 "--accelerator: found ${1@Q}, expected v4-N, v5p-N (TensorCores), v5e-N or v6e-N (chips)"
  case "$kind" in
    v4 | v5p) # two TensorCores a chip, four chips a host
      ((size % 8 == 0)) || die 2 "--accelerator: found $1, expected a multiple of 8 TensorCores" ;;
    *)
      [[ " 1 4 8 16 32 64 128 256 " == *" $size "* ]] ||
        die 2 "--accelerator: found $1, expected 1, 4, 8, 16, 32, 64, 128 or 256 chips" ;;
  esac
  [[ "$kind" != v5e ]] || kind=v5litepod
  echo "$kind-$size"
}

# The machine image for JAX: https://cloud.google.com/tpu/docs/runtimes
runtime_of() {
  case "$1" in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

# The queued resource's state: CREATING, ACCEPTED, WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, SUSPENDING, SUSPENDED, FAILED,
# DELETING (https://cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.queuedResources#State), or NONE.
request_state() {
  local state code=0
  state=$(cloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)') || code=$?
  case $code in
    0) echo "$state" ;;
    6) echo NONE ;;
    *) return $code ;;
  esac
}

# One line for each slice, with commas: its name, its state, how many workers it has, how many slices were asked for. A slice says itself
# which queued resource made it, so slices that were left behind and those of others are told apart.
nodes() {
  cloud compute tpus tpu-vm list "${where[@]}" --filter="queuedResource~/queuedResources/$name\$" --sort-by=name \
    --format='value[separator=","](name.basename(),state,networkEndpoints.len(),labels.speech_jax_slices)'
}

# Exit 2 unless the queued resource was made here: its label says so.
ours() {
  local label code=0
  label=$(cloud compute tpus queued-resources describe "$name" "${where[@]}" \
    --format='value(tpu.nodeSpec[0].node.labels.speech_jax)') || code=$?
  [[ -z "$dry_run" ]] || {
    printf '%s\n' "$label"
    return
  }
  ((code == 0)) || return $code
  [[ "$label" == "$name" ]] || die 2 "--name: found $name without our label, expected a slice that create.sh made"
}

# Whether every slice that was asked for is READY; prints what is missing. 0 yes, 1 not yet, 2 never (one was taken away).
all_ready() {
  local list node state workers wanted ready=0 total=0 asked=1
  list=$(nodes) || return 1
  while IFS=, read -r node state workers wanted; do
    [[ -n "$node" ]] || continue
    total=$((total + 1)) asked=${wanted:-1}
    case "$state" in
      READY) ready=$((ready + 1)) ;;
      PREEMPTED | TERMINATED | STOPPED | STOPPING | DELETING | UNKNOWN)
        say "$node: $state, $workers workers"
        return 2
        ;;
    esac
  done <<<"$list"
  ((ready == asked)) || {
    say "$name: $ready of $asked slices are READY"
    return 1
  }
}

# on_workers WHICH COMMAND: one line for a shell, on the workers WHICH (all, or 0 for the first of every slice) of all slices
# at once. Prints what they say. Fails unless each says that it came to its end: gcloud's exit code alone does not tell
# (a node that cannot be prepared for ssh is a warning there), and one missing worker makes all others hang.
on_workers() {
  local which=$1 line=$2 list node state workers wanted expected=0 good=0 code=0
  local command="( $line ); code=\$?; echo \"worker-end \$code\"; exit \$code"
  if [[ -n "$dry_run" ]]; then
    show gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$which" --quiet --command="$command"
    return
  fi
  list=$(nodes) || return $?
  [[ -n "$list" ]] || return 6
  while IFS=, read -r node state workers wanted; do
    [[ "$which" == all ]] || workers=1
    expected=$((expected + workers))
    gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker="$which" --quiet --command="$command" \
      >"$scratch/said.$node" 2>"$scratch/error.$node" </dev/null &
  done <<<"$list"
  wait
  while IFS=, read -r node _; do
    grep -v '^worker-end' "$scratch/said.$node" || true
    good=$((good + $(grep -c '^worker-end 0$' "$scratch/said.$node" || true)))
    if grep -q '^worker-end [1-9]' "$scratch/said.$node"; then code=1; fi
  done <<<"$list"
  if ((good == expected)); then return; fi
  while IFS=, read -r node _; do
    [[ ! -s "$scratch/error.$node" ]] || printf '%s: %s\n' "$node" "$(tail -n 5 "$scratch/error.$node" | tr '\n' ' ')" >&2
  done <<<"$list"
  printf 'workers: found %s of %s that came to the end\n' "$good" "$expected" >&2
  if ((code)); then return 1; fi
  return 4 # somebody did not answer: ssh itself failed
}

check_rest() { # the trainer's flags behind --: those that launch.sh sets itself would be given twice
  local flag
  for flag in "${rest[@]}"; do
    case "$flag" in
      --out-dir* | --out_dir*) die 2 "--out-dir: found it behind --, expected --run, which names the run's folder" ;;
      --config | --config=*) die 2 "--config: found it behind --, expected it before" ;;
      --hosts.launcher*) [[ -z "$mounted" ]] || die 2 "--hosts.launcher: found it beside --mounted, which sets it; expected one of the two" ;;
    esac
  done
}
