#!/usr/bin/env bash
# Starts the trainer on every worker of every slice, in the background. It goes on with the run if there is one.
#
#   launch.sh --name NAME --zone ZONE --run RUN --config configs/X.py [--sync gs://BUCKET/runs] -- --trainer.steps 100000
#   launch.sh --name NAME --zone ZONE --run RUN --config configs/X.py --mounted
#
#   --run RUN       the run's name: its folder is RUN, its log is jobs/RUN/log.txt on each worker
#   --config NAME   the config: a name such as quickstart/pretrain, or a path in the repository
#   --sync FOLDER   one worker only: its folder goes to FOLDER/RUN in the bucket every five minutes and at the end, and comes
#                   from there on a new machine
#   --mounted       several workers: the run's folder is runs/RUN in the bucket that setup.sh mounted; all write checkpoints
#   -- FLAGS        go to the trainer
#   --project ID, --dry-run, --help
#
# With --mounted every process finds the others by the machines' metadata (--hosts.launcher tpu).
source "$(dirname "$0")/lib.sh"

run='' config='' sync='' mounted=''
parse "run config sync" "mounted" "$@"
need name zone run config
check name --run "$run"
check path --config "$config"
[[ -z "$sync" ]] || check bucket --sync "$sync"
check_rest
[[ -z "$sync" || -z "$mounted" ]] || die 2 "--sync: found it beside --mounted, expected one of the two"

if [[ -z "$dry_run" ]]; then
  list=$(nodes) || exit $?
  [[ -n "$list" ]] || die 6 "$name: found no slice, expected one that is READY"
  workers=0
  while IFS=, read -r _ _ count _; do workers=$((workers + count)); done <<<"$list"
  ((workers == 1)) || [[ -n "$mounted" ]] ||
    die 2 "--mounted: found $workers workers without it, expected a folder that all of them share: setup.sh --mount, then --mounted"
fi

# The remote shell expands $HOME; everything else is quoted for it.
folder="\$HOME/speech_jax/runs/$run"
[[ -z "$mounted" ]] || folder="\$HOME/speech_jax/bucket/runs/$run"
line="bash \$HOME/speech_jax/worker.sh start $run $(remote "$sync") -- \$HOME/speech_jax/env/bin/python -m speech_jax.train"
line+=" --config $(remote "$config") --out-dir $folder"
[[ -z "$mounted" ]] || line+=" --hosts.launcher tpu"
((${#rest[@]} == 0)) || line+=" $(remote "${rest[@]}")"
on_workers all "$line"
[[ -n "$dry_run" ]] || say "$name: $run runs"
