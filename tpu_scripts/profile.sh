#!/usr/bin/env bash
# Fetches the trace that a run with `--trainer.watch.profile 10:20` has written, for XProf.
#
#   launch.sh … -- --trainer.watch.profile 10:20      (steps 11 to 20; they show once the last of them is done)
#   profile.sh --name NAME --zone ZONE --run RUN --out profile/
#   profile.sh --bucket gs://BUCKET/runs --run RUN --out profile/      of a run that went to a bucket
#
#   --project ID, --dry-run, --help
#
# Then: pip install xprof; xprof --logdir profile/ (https://openxla.org/xprof)
source "$(dirname "$0")/lib.sh"

run='' out='' bucket=''
parse "run out bucket" "" "$@"
need run out
check name --run "$run"
check local --out "$out"
run mkdir -p "$out"
if [[ -n "$bucket" ]]; then
  check bucket --bucket "$bucket"
  cloud storage rsync "$bucket/$run/profile" "$out" --recursive
else
  need name zone
  if [[ -n "$dry_run" ]]; then
    nodes
    node=$name
  else
    list=$(nodes) || exit $?
    [[ -n "$list" ]] || die 6 "$name: found no slice, expected one that is READY"
    node=${list%%,*}
  fi
  cloud compute tpus tpu-vm scp "$node:speech_jax/runs/$run/profile" "$out" --recurse --worker=0 --quiet "${where[@]}"
fi
[[ -n "$dry_run" ]] || say "now: xprof --logdir $out"
