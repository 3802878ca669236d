#!/usr/bin/env bash
# What there is: the request, its slices, and what the run does on each worker.
#
#   status.sh --zone ZONE                             all requests and slices of the zone
#   status.sh --zone ZONE --name NAME [--run RUN]     one; with --run also what its workers say
#
#   --project ID, --dry-run, --help
#
# Docs: https://cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources/list
source "$(dirname "$0")/lib.sh"

run=''
parse "run" "" "$@"
need zone
if [[ -z "$name" ]]; then
  cloud compute tpus queued-resources list "${where[@]}" \
    --format='table(name.basename(),state.state,createTime,tpu.nodeSpec[0].node.acceleratorType,tpu.nodeSpec[0].node.labels.speech_jax)'
  cloud compute tpus tpu-vm list "${where[@]}" --format='table(name.basename(),state,health,createTime,acceleratorType,labels.speech_jax)'
  exit
fi
state=$(request_state) || exit $?
if [[ -n "$dry_run" ]]; then printf '%s\n' "$state"; else printf '%s\t%s\n' "$name" "$state"; fi
nodes
if [[ -n "$run" ]]; then
  check name --run "$run"
  on_workers all "echo \"\$(hostname) \$(bash ~/speech_jax/worker.sh status $run)\""
  on_workers 0 "tail -n 1 ~/speech_jax/jobs/$run/log.txt"
fi
