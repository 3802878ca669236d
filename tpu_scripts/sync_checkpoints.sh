#!/usr/bin/env bash
# Copies a run's folder between a machine and a bucket, either way. Only what differs is copied; a checkpoint that is only half
# there is noticed by its SHA-256 manifest, and the one before it is used.
#
#   sync_checkpoints.sh --run RUN --bucket gs://BUCKET/runs --up                          this machine's runs/RUN to the bucket
#   sync_checkpoints.sh --run RUN --bucket gs://BUCKET/runs --down                        the bucket's to this machine
#   sync_checkpoints.sh --run RUN --bucket gs://BUCKET/runs --up --name NAME --zone ZONE  from the first worker
#   sync_checkpoints.sh … --down --name NAME --zone ZONE                                  to every worker
#
# With --name, not with TPU_NAME alone, the other end is the workers.
#
#   --runs FOLDER   where this machine keeps its runs; default runs
#   --mirror        also delete at the goal what is not at the source: old checkpoints that the trainer has dropped
#   --project ID, --dry-run, --help
#
# Docs: https://cloud.google.com/sdk/gcloud/reference/storage/rsync
source "$(dirname "$0")/lib.sh"

run='' bucket='' runs=runs up='' down='' mirror='' name='' # TPU_NAME must not turn this machine into the workers
parse "run bucket runs" "up down mirror" "$@"
need run bucket
check name --run "$run"
check bucket --bucket "$bucket"
check local --runs "$runs"
[[ -n "$up$down" && "$up$down" != 11 ]] || die 2 "--up: found ${up:+both}${down:-neither}, expected one of --up and --down"
flags=(--recursive --checksums-only)
[[ -z "$mirror" ]] || flags+=(--delete-unmatched-destination-objects)

if [[ -n "$name" ]]; then
  need zone
  flags+=(--quiet)
  folder="\$HOME/speech_jax/runs/$run"
  if [[ -n "$up" ]]; then
    on_workers 0 "gcloud storage rsync $folder $bucket/$run $(remote "${flags[@]}")"
  else
    on_workers all "mkdir -p $folder && gcloud storage rsync $bucket/$run $folder $(remote "${flags[@]}")"
  fi
elif [[ -n "$up" ]]; then
  [[ -n "$dry_run" || -d "$runs/$run" ]] || die 2 "--run: found no folder $runs/$run, expected one"
  cloud storage rsync "$runs/$run" "$bucket/$run" "${flags[@]}"
else
  run mkdir -p "$runs/$run"
  cloud storage rsync "$bucket/$run" "$runs/$run" "${flags[@]}"
fi
