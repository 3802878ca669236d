#!/usr/bin/env bash
# Sees a run through to its end: asks for the slices, waits, sets up, launches, watches; after a preemption it deletes what is
# left and begins again, and the trainer goes on with its last checkpoint. Run it where it stays alive (tmux, a small VM).
#
#   supervise.sh --name NAME --zone ZONE --accelerator v5e-4 --spot --run RUN --config configs/X.py --sync gs://BUCKET/runs
#   supervise.sh … --slices 4 --mount gs://BUCKET -- --trainer.steps 100000
#
#   the flags of create.sh, setup.sh (--mount, --commit, --source, --extra) and launch.sh (--sync; --mounted comes with --mount), and:
#   --max-relaunches N     give up after so many slices that were lost or never came; default 20
#   --max-crashes N        give up after so many crashes of the trainer in a row; default 3
#   --every SECONDS        between two looks; default 60
#   --backoff SECONDS      before the second attempt; doubles up to an hour, and starts over once a run lasted --steady
#   --steady DURATION      default 30m
#   --deadline DURATION    give up after so long in a queue; default 24h
#   --delete               delete the slices when the run has ended, also with an error
#   --project ID, --dry-run, --help
#
# Ends with 0 when the trainer has come to its end, with 2 when the trainer said that its input is wrong (trying again does
# not mend that), with 3 where the rights are missing, 5 after a deadline, 1 or 4 when there were too many attempts.
# A slice that is still being made is never deleted.
#
# Docs: https://cloud.google.com/tpu/docs/queued-resources, https://cloud.google.com/tpu/docs/spot
source "$(dirname "$0")/lib.sh"

# shellcheck disable=SC2034 # used by name
accelerator='' slices=1 runtime='' service_account='' network='' subnetwork='' valid_for='' spot='' reserved='' internal_ips=''
mount='' commit=HEAD source=$here/.. extra=tpu run='' config='' sync='' max_relaunches=20 max_crashes=3 every=60 backoff=60 steady=30m
deadline=24h delete=''
parse "accelerator slices runtime service-account network subnetwork valid-for mount commit source extra run config sync \
  max-relaunches max-crashes every backoff steady deadline" "spot reserved internal-ips delete" "$@"
need name zone accelerator run config
check name --run "$run"
mounted=$mount check_rest
for flag in max_relaunches max_crashes every backoff; do check number "--${flag//_/-}" "${!flag}"; done
((every > 0)) || die 2 "--every: found 0, expected at least 1"
check duration --steady "$steady"
check duration --deadline "$deadline"

# The words for the scripts that this one runs.
same=(--name "$name" --zone "$zone")
[[ -z "$project" ]] || same+=(--project "$project")
[[ -z "$dry_run" ]] || same+=(--dry-run)
create_words=("${same[@]}" --accelerator "$accelerator" --slices "$slices")
for flag in runtime service_account network subnetwork valid_for; do
  [[ -z "${!flag}" ]] || create_words+=("--${flag//_/-}" "${!flag}")
done
for flag in spot reserved internal_ips; do [[ -z "${!flag}" ]] || create_words+=("--${flag//_/-}"); done
setup_words=("${same[@]}" --commit "$commit" --source "$source" --extra "$extra")
launch_words=("${same[@]}" --run "$run" --config "$config")
[[ -z "$sync" ]] || launch_words+=(--sync "$sync")
if [[ -n "$mount" ]]; then setup_words+=(--mount "$mount") launch_words+=(--mounted); fi
launch_words+=(-- "${rest[@]}")

if [[ -n "$dry_run" ]]; then
  "$here/create.sh" "${create_words[@]}"
  "$here/wait.sh" "${same[@]}" --deadline "$deadline"
  "$here/setup.sh" "${setup_words[@]}"
  "$here/launch.sh" "${launch_words[@]}"
  on_workers all "bash ~/speech_jax/worker.sh status $run"
  "$here/delete.sh" "${same[@]}"
  exit
fi
# Bad arguments of the other scripts show now and not in the night.
for script in create setup launch; do
  words="${script}_words[@]"
  "$here/$script.sh" --dry-run "${!words}" >"$scratch/plan" || exit $?
done

finish() { # CODE WORDS…
  local code=$1
  shift
  say "$name: $*"
  if [[ -n "$delete" ]]; then "$here/delete.sh" "${same[@]}" --yes || say "$name: NOT deleted"; fi
  exit "$code"
}

attempt=0 crashes=0 unanswered=0 unreachable=0 next=$backoff

# lost WORDS…: what was there is deleted, with a pause that doubles; the end when it happens too often.
lost() {
  say "$name: $*"
  attempt=$((attempt + 1))
  ((attempt <= max_relaunches)) || finish 4 "gave up after $max_relaunches relaunches"
  local code=0
  "$here/delete.sh" "${same[@]}" --yes || code=$?
  ((code != 3)) || finish 3 "no right to delete"
  say "$name: attempt $((attempt + 1)) in $next s"
  pause "$next"
  next=$((next * 2 > 3600 ? 3600 : next * 2))
}

# The run's state over all workers: running as long as one runs; otherwise the worst.
run_state() {
  local said
  said=$(on_workers all "bash ~/speech_jax/worker.sh status $run") || return $?
  local state
  for state in 'exit [1-9][0-9]*' running gone stopped none 'exit 0'; do
    if grep -qx "$state" <<<"$said"; then
      grep -xm1 "$state" <<<"$said"
      return
    fi
  done
  return 4
}

# A queued resource of that name that somebody else made is not ours to delete.
code=0
ours || code=$?
((code == 0 || code == 6)) || exit $code

while true; do
  code=0
  state=$(request_state) || code=$?
  ((code != 3)) || finish 3 "no right to look"
  case "$code$state" in
    0NONE)
      code=0
      "$here/create.sh" "${create_words[@]}" || code=$?
      case $code in
        0) ;;
        2 | 3) finish $code "cannot be created" ;;
        *)
          lost "not created now"
          continue
          ;;
      esac
      ;;
    0FAILED | 0SUSPENDED)
      lost "the request is $state"
      continue
      ;;
    0*) ;;
    *) # no answer: wait and look again
      unanswered=$((unanswered + 1))
      ((unanswered < 30)) || finish 4 "no answer 30 times"
      pause "$every"
      continue
      ;;
  esac
  unanswered=0

  # ---- Wait, set up, launch. A slice that is SUSPENDING ends as SUSPENDED, which the next round sees.
  code=0
  "$here/wait.sh" "${same[@]}" --deadline "$deadline" --every "$every" || code=$?
  case $code in
    0) ;;
    4 | 6)
      lost "no slice"
      continue
      ;;
    *) finish $code "waiting failed" ;;
  esac
  code=0
  { "$here/setup.sh" "${setup_words[@]}" && "$here/launch.sh" "${launch_words[@]}"; } || code=$?
  case $code in
    0) ;;
    2 | 3) finish $code "cannot be set up" ;;
    *) # one worker that does not answer: often it is just not ready yet
      unreachable=$((unreachable + 1))
      if ((unreachable < 3)); then
        say "$name: not set up, trying again"
        pause "$every"
      else
        unreachable=0
        lost "not set up 3 times"
      fi
      continue
      ;;
  esac
  unreachable=0

  # ---- Watch.
  lasted=0 silent=0 unanswered=0 found=''
  while true; do
    pause "$every"
    lasted=$((lasted + every))
    if ((lasted >= $(seconds "$steady"))); then next=$backoff crashes=0; fi
    ready=0
    all_ready || ready=$?
    ((ready != 2)) || break
    code=0
    found=$(run_state) || code=$?
    if ((ready != 0 || code != 0)); then
      request=$(request_state) || { # perhaps it is us who are cut off: nothing is deleted for that
        unanswered=$((unanswered + 1))
        ((unanswered < 30)) || finish 4 "no answer 30 times"
        continue
      }
      silent=$((silent + 1))
      [[ "$request" != SUSPEND* && "$request" != FAILED && "$request" != NONE ]] || break
      ((silent < 5)) || break # ACTIVE, and yet its workers do not answer
      continue
    fi
    silent=0 unanswered=0
    [[ "$found" == running ]] || break
  done
  case "$found:$silent:$ready" in
    'exit 0':0:0) finish 0 "$run has come to its end" ;;
    'exit 2':0:0)
      on_workers 0 "tail -n 5 ~/speech_jax/jobs/$run/log.txt" >&2 || true
      finish 2 "$run: the trainer refuses its input"
      ;;
    'exit '*:0:0 | gone:0:0 | none:0:0 | stopped:0:0)
      crashes=$((crashes + 1))
      say "$name: $run ended with: $found"
      on_workers 0 "tail -n 20 ~/speech_jax/jobs/$run/log.txt" >&2 || true
      ((crashes < max_crashes)) || finish 1 "gave up after $crashes crashes in a row"
      # One worker of many may have ended and the others hang without it: all are stopped before all are started.
      on_workers all "bash ~/speech_jax/worker.sh stop $run 60" >&2 || true
      pause "$next"
      next=$((next * 2 > 3600 ? 3600 : next * 2))
      ;;
    *) lost "the slice was taken away, or does not answer" ;;
  esac
done
