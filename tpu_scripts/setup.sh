#!/usr/bin/env bash
# Installs the package on every worker of every slice: this working tree's last commit, in an environment of its own.
# A second time it does nothing.
#
#   setup.sh --name NAME --zone ZONE
#   setup.sh --name NAME --zone ZONE --mount gs://BUCKET     also mounts the bucket, for checkpoints that all workers share
#
#   --commit REF   another commit, branch or tag
#   --source DIR   another repository
#   --extra NAME   the package's extra with JAX for the chip; default tpu
#   --project ID, --dry-run, --help
#
# Docs: https://cloud.google.com/tpu/docs/jax-pods (the same command on every worker),
# https://cloud.google.com/sdk/gcloud/reference/compute/tpus/tpu-vm/scp
source "$(dirname "$0")/lib.sh"

commit=HEAD source=$here/.. extra=tpu mount=''
parse "commit source extra mount" "" "$@"
need name zone
check path --commit "$commit"
check name --extra "$extra"
if [[ -n "$mount" ]]; then
  check bucket --mount "$mount"
  [[ "$mount" != gs://*/* ]] || die 2 "--mount: found $mount, expected a bucket without a folder"
fi

archive=$scratch/source.tar.gz
check local --source "$source"
run git -C "$source" archive --format=tar.gz --output="$archive" "$commit" || die 2 "--commit: found $commit, expected a commit"
at=(--worker=all --quiet "${where[@]}")
on_workers all 'mkdir -p ~/speech_jax/jobs ~/speech_jax/runs'
if [[ -n "$dry_run" ]]; then
  run gcloud compute tpus tpu-vm scp "$archive" "$here/worker.sh" "$name:speech_jax/" "${at[@]}"
else
  list=$(nodes)
  while IFS=, read -r node _; do
    cloud compute tpus tpu-vm scp "$archive" "$here/worker.sh" "$node:speech_jax/" "${at[@]}" </dev/null || exit $?
  done <<<"$list"
fi
on_workers all "bash ~/speech_jax/worker.sh install ~/speech_jax/source.tar.gz $extra"
[[ -z "$mount" ]] || on_workers all "bash ~/speech_jax/worker.sh mount $mount"
[[ -n "$dry_run" ]] || say "$name: set up"
