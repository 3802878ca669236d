#!/usr/bin/env bash
# Finds what costs money, or blocks a name, for nothing, and deletes it after asking. Looks only at what create.sh made.
#
#   cost_guard.sh --zone ZONE                        lists, and asks once
#   cost_guard.sh --zone ZONE --yes                  for cron: deletes without asking
#
#   --grace DURATION   what is younger is left alone; default 1h
#   --project ID, --dry-run (lists what it would look at), --help
#
# dead: the request is FAILED or SUSPENDED. orphaned: a slice without its request, or one that was taken away. idle: a slice
# on which no run of ours goes on. Whatever does not answer is reported and kept.
#
# Docs: https://cloud.google.com/tpu/docs/managing-tpus-tpu-vm (what is billed), `gcloud topic filters`
source "$(dirname "$0")/lib.sh"

grace=1h
parse "grace" "" "$@"
need zone
check duration --grace "$grace"

requests=$(cloud compute tpus queued-resources list "${where[@]}" --filter='tpu.nodeSpec[0].node.labels.speech_jax:*' \
  --format='value[separator=","](name.basename(),state.state,createTime)') || exit $?
slices=$(cloud compute tpus tpu-vm list "${where[@]}" --filter='labels.speech_jax:*' \
  --format='value[separator=","](name.basename(),state,createTime,queuedResource.basename())') || exit $?
if [[ -n "$dry_run" ]]; then
  printf '%s\n' "$requests" "$slices"
  exit
fi

old() { # TIME
  (($(date +%s) - $(date -d "$1" +%s) >= $(seconds "$grace")))
}

found=() # lines: kind of thing, its name
while IFS=, read -r request state created; do
  [[ -n "$request" ]] || continue
  old "$created" || continue
  case "$state" in
    FAILED | SUSPENDED)
      printf '%s\t%s\tdead: %s\n' "$request" "$created" "$state"
      found+=("queued-resources $request")
      ;;
    ACTIVE)
      name=$request code=0
      # shellcheck disable=SC2016 # for the remote shell
      said=$(on_workers all 'for job in ~/speech_jax/jobs/*/; do [ ! -d "$job" ] || bash ~/speech_jax/worker.sh status "$(basename "$job")"; done') || code=$?
      if ((code != 0)); then
        printf '%s\t%s\tdoes not answer: kept\n' "$request" "$created"
      elif grep -qx running <<<"$said"; then
        printf '%s\t%s\tat work\n' "$request" "$created"
      else
        printf '%s\t%s\tidle\n' "$request" "$created"
        found+=("queued-resources $request")
      fi
      ;;
    *) printf '%s\t%s\t%s\n' "$request" "$created" "$state" ;;
  esac
done <<<"$requests"
while IFS=, read -r node state created request; do
  [[ -n "$node" ]] || continue
  old "$created" || continue
  if [[ -z "$request" ]] || ! cut -d, -f1 <<<"$requests" | grep -qx "$request"; then
    printf '%s\t%s\torphaned: no request %s\n' "$node" "$created" "$request"
    found+=("tpu-vm $node")
  fi
done <<<"$slices"

((${#found[@]})) || exit 0
confirm "Delete these ${#found[@]}?" || die 1 "nothing deleted"
failed=0
for thing in "${found[@]}"; do
  read -r kind name <<<"$thing"
  force=()
  [[ "$kind" != queued-resources ]] || force=(--force)
  code=0
  cloud compute tpus "$kind" delete "$name" "${where[@]}" "${force[@]}" --quiet || code=$?
  if ((code == 0 || code == 6)); then say "$name: deleted"; else failed=$((failed + 1)); fi
done
((failed == 0)) || die 1 "$failed could not be deleted"
