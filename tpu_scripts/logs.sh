#!/usr/bin/env bash
# Fetches a run's log from every worker: OUT/NODE-WORKER.txt. Or follows the first worker's.
#
#   logs.sh --name NAME --zone ZONE --run RUN --out logs/
#   logs.sh --name NAME --zone ZONE --run RUN --follow
#
#   --project ID, --dry-run, --help
#
# Docs: https://cloud.google.com/sdk/gcloud/reference/compute/tpus/tpu-vm/scp
source "$(dirname "$0")/lib.sh"

run='' out='' follow=''
parse "run out" "follow" "$@"
need name zone run
check name --run "$run"
log="speech_jax/jobs/$run/log.txt"
if [[ -n "$dry_run" ]]; then
  nodes
  list="$name,READY,1,1"
else
  list=$(nodes) || exit $?
  [[ -n "$list" ]] || die 6 "$name: found no slice, expected one that is READY"
fi
if [[ -n "$follow" ]]; then
  node=${list%%,*}
  run gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker=0 --quiet --command="tail -n 20 -F $log"
  exit
fi
need out
check local --out "$out"
run mkdir -p "$out"
missing=0
while IFS=, read -r node _ workers _; do
  for ((worker = 0; worker < workers; worker++)); do
    cloud compute tpus tpu-vm scp "$node:$log" "$out/$node-$worker.txt" --worker="$worker" --quiet "${where[@]}" </dev/null ||
      missing=$((missing + 1))
  done
done <<<"$list"
((missing == 0)) || die 1 "$name: found no log on $missing workers, expected one on each"
