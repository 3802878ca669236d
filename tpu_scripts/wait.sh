#!/usr/bin/env bash
# Waits until every slice of a queued resource is there and READY. Deletes nothing.
#
#   wait.sh --name NAME --zone ZONE [--deadline 6h]
#
#   --deadline DURATION  exit 5 after so long; default 24h
#   --every SECONDS      between two looks; default 30
#   --project ID, --dry-run, --help
#
# Exit 4 if the request has ended without a slice (FAILED, SUSPENDED, a slice that was taken away), 6 if there is none.
#
# Docs: https://cloud.google.com/tpu/docs/queued-resources (the states)
source "$(dirname "$0")/lib.sh"

deadline=24h every=30
parse "deadline every" "" "$@"
need name zone
check duration --deadline "$deadline"
check number --every "$every"
((every > 0)) || die 2 "--every: found 0, expected at least 1"
if [[ -n "$dry_run" ]]; then
  request_state
  nodes
  exit
fi

limit=$(seconds "$deadline") waited=0 before=''
while true; do
  code=0
  state=$(request_state) || code=$?
  case $code in
    0 | 4) ;;
    *) exit $code ;;
  esac
  [[ "$state" == "$before" ]] || say "$name: ${state:-no answer}"
  before=$state
  case "$state" in
    ACTIVE)
      code=0
      all_ready || code=$?
      ((code != 0)) || exit 0
      ((code != 2)) || die 4 "$name: a slice was taken away again"
      ;;
    NONE) die 6 "$name: found no such queued resource in $zone, expected one" ;;
    FAILED | SUSPENDING | SUSPENDED) die 4 "$name: the request is $state" ;;
  esac
  ((waited < limit)) || die 5 "$name: still $state after $deadline"
  pause "$every"
  waited=$((waited + every))
done
