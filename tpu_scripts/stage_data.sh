#!/usr/bin/env bash
# Copies a folder of recordings (or shards) to a bucket, or from a bucket to every worker.
#
#   stage_data.sh --data data/librispeech --bucket gs://BUCKET/data/librispeech               from here to the bucket
#   stage_data.sh --bucket gs://BUCKET/data/librispeech --name NAME --zone ZONE               from there to the workers,
#                                                                                             as data/librispeech;
#                                                                                             only with the flag --name
#
#   --exclude REGEX   files that stay
#   --project ID, --dry-run, --help
#
# Only what differs is copied, checksums are compared, nothing is deleted. The manifests name recordings relative to
# themselves, so a folder works wherever it lies.
# Docs: https://cloud.google.com/sdk/gcloud/reference/storage/rsync
source "$(dirname "$0")/lib.sh"

data='' bucket='' exclude='' name='' # the environment's TPU_NAME must not turn a copy to the bucket into one to the workers
parse "data bucket exclude" "" "$@"
need bucket
check bucket --bucket "$bucket"
[[ -z "$data" ]] || check local --data "$data"
flags=(--recursive --checksums-only)
if [[ -n "$exclude" ]]; then
  check regex --exclude "$exclude"
  flags+=(--exclude="$exclude")
fi
if [[ -n "$name" ]]; then
  need zone
  [[ -z "$data" ]] || die 2 "--data: found it beside --name, expected one of the two"
  [[ "$bucket" == gs://*/* ]] || die 2 "--bucket: found $bucket, expected a folder in it"
  folder=speech_jax/data/${bucket##*/}
  on_workers all "mkdir -p $folder && gcloud storage rsync $bucket $folder $(remote "${flags[@]}" --quiet)"
else
  need data
  [[ -n "$dry_run" || -d "$data" ]] || die 2 "--data: found no folder $data, expected one"
  cloud storage rsync "$data" "$bucket" "${flags[@]}" ${project:+--project="$project"}
fi
