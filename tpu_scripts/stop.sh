#!/usr/bin/env bash
# Ends a run on all workers: SIGTERM, on which the trainer finishes its step, saves and leaves. launch.sh goes on with it.
#
#   stop.sh --name NAME --zone ZONE --run RUN [--seconds 120]
#
#   --project ID, --dry-run, --help
source "$(dirname "$0")/lib.sh"

run='' seconds=120
parse "run seconds" "" "$@"
need name zone run
check name --run "$run"
check number --seconds "$seconds"
on_workers all "bash ~/speech_jax/worker.sh stop $run $seconds"
