#!/usr/bin/env bash
# Deletes a queued resource with its slices, after asking. What is only on their disks is lost: see sync_checkpoints.sh.
#
#   delete.sh --name NAME --zone ZONE [--yes]
#
#   --yes      do not ask
#   --foreign  also one that create.sh did not make
#   --project ID, --dry-run, --help
#
# Docs: https://cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.queuedResources/delete (why --force: otherwise
# an ACTIVE one is not deleted)
source "$(dirname "$0")/lib.sh"

foreign=''
parse "" "foreign" "$@"
need name zone
if [[ -z "$foreign" ]]; then
  code=0
  ours || code=$?
  if ((code == 6)); then
    say "$name: there is none"
    exit 0
  fi
  ((code == 0)) || exit $code
fi
[[ -n "$dry_run" ]] || confirm "Delete $name in $zone with all that is on its disks?" || die 1 "$name: kept"
code=0
cloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet || code=$?
((code == 0 || code == 6)) || exit $code
[[ -n "$dry_run" ]] || say "$name: deleted"
