#!/usr/bin/env bats
# The supervisor: preemptions, stock-outs, crashes, and that it always ends.
# shellcheck disable=SC2016,SC2154 # words for other shells; what common.bash sets
load common

watch=(--accelerator v5e-4 --spot --run r --config configs/X.py --every 10 --backoff 10)

supervise() { timeout 200 "$SCRIPTS/supervise.sh" "${one[@]}" "${watch[@]}" --source "$TINY" "$@"; }

at() { cat >"$CLOUD/at/$1"; } # TICK: what happens then

@test "a run that is preempted twice goes on with its checkpoint and comes to its end" {
  at 6 <<<'"$FAKE/preempt" my-tpu'
  at 14 <<<'"$FAKE/preempt" my-tpu'
  at 24 <<<'echo 0 >"$CLOUD/finish"'
  run supervise --sync gs://my-bucket/runs --delete
  echo "$output"
  [ "$status" -eq 0 ]
  [[ "$output" == *"r has come to its end"* ]]
  [ "$(calls 'queued-resources create')" -eq 3 ]
  [ ! -d "$CLOUD/requests/my-tpu" ] # --delete
  [ "$(cat "$CLOUD/buckets/my-bucket/runs/r/step")" -gt 0 ]
}

@test "what was saved before a preemption is where the next start goes on" {
  mkdir -p "$CLOUD/buckets/my-bucket/runs/r"
  echo 41 >"$CLOUD/buckets/my-bucket/runs/r/step"
  at 6 <<<'echo 0 >"$CLOUD/finish"'
  run supervise --sync gs://my-bucket/runs
  [ "$status" -eq 0 ]
  grep -q 'resuming at step 41' "$CLOUD/nodes/my-tpu/home-0/speech_jax/jobs/r/log.txt"
}

@test "stock-outs: the pause doubles, and there is a limit" {
  echo always >"$CLOUD/fail/stockout"
  run supervise --max-relaunches 5
  echo "$output"
  [ "$status" -eq 4 ]
  [ "$(calls 'queued-resources create')" -eq 6 ]
  [ "$(tr '\n' ' ' <"$CLOUD/pauses")" = "10 20 40 80 160 " ]
}

@test "a request that fails in the queue is asked for again" {
  echo 2 >"$CLOUD/fail/never"
  at 8 <<<'echo 0 >"$CLOUD/finish"'
  run supervise
  echo "$output"
  [ "$status" -eq 0 ]
  [ "$(calls 'queued-resources create')" -eq 3 ]
}

@test "missing rights end it at once" {
  echo always >"$CLOUD/fail/denied"
  run supervise
  [ "$status" -eq 3 ]
  [ ! -s "$CLOUD/pauses" ]
}

@test "bad input of the trainer ends it at once, and the trainer's line is shown" {
  echo 2 >"$CLOUD/finish"
  run supervise
  echo "$output"
  [ "$status" -eq 2 ]
  [ "$(calls 'queued-resources create')" -eq 1 ]
  [[ "$output" == *"the trainer refuses its input"* ]]
}

@test "a trainer that crashes is started again on the same slice, three times" {
  echo 2 >"$CLOUD/crash"
  at 12 <<<'echo 0 >"$CLOUD/finish"'
  run supervise
  echo "$output"
  [ "$status" -eq 0 ]
  [ "$(calls 'queued-resources create')" -eq 1 ]
  [ "$(grep -c boom "$CLOUD/nodes/my-tpu/home-0/speech_jax/jobs/r/log.txt")" -eq 2 ]
}

@test "a trainer that always crashes is given up" {
  echo 99 >"$CLOUD/crash"
  run supervise
  [ "$status" -eq 1 ]
  [[ "$output" == *"gave up after 3 crashes"* ]]
  [[ "$output" == *"Traceback: boom"* ]]
}

@test "one slice of two is taken away: both are made anew" {
  watch=(--accelerator v5e-16 --slices 2 --spot --run r --config configs/X.py --every 10 --backoff 10 --mount gs://my-bucket)
  PATH=$BATS_TEST_TMPDIR/bin:$PATH # the bucket is a folder of each worker here
  mkdir bin
  printf '#!/bin/sh\nexit 0\n' >bin/mountpoint
  chmod +x bin/mountpoint
  at 6 <<<'echo PREEMPTED >"$CLOUD/nodes/my-tpu-1/state"'
  at 16 <<<'echo 0 >"$CLOUD/finish"'
  run supervise
  echo "$output"
  [ "$status" -eq 0 ]
  [ "$(calls 'queued-resources create')" -eq 2 ]
}

@test "workers that do not answer for long are given up and made anew" {
  at 5 <<<'echo always >"$CLOUD/fail/unreachable-my-tpu-0"'
  at 12 <<<'rm "$CLOUD/fail/unreachable-my-tpu-0"'
  at 20 <<<'echo 0 >"$CLOUD/finish"'
  run supervise
  echo "$output"
  [ "$status" -eq 0 ]
  [ "$(calls 'queued-resources create')" -eq 2 ]
}

@test "no answer from the service deletes nothing" {
  at 6 <<<'echo 12 >"$CLOUD/fail/silent"'
  at 24 <<<'echo 0 >"$CLOUD/finish"'
  run supervise
  echo "$output"
  [ "$status" -eq 0 ]
  [ "$(calls 'queued-resources create')" -eq 1 ]
  [ "$(calls 'queued-resources delete')" -eq 0 ]
}

@test "a slice that is still being made is not deleted" {
  echo 30 >"$CLOUD/fail/slow"
  at 40 <<<'echo 0 >"$CLOUD/finish"'
  run supervise
  [ "$status" -eq 0 ]
  [ "$(calls 'queued-resources delete')" -eq 0 ]
}

@test "it takes up a slice that is there, and a run that goes on" {
  there v5e-4 1
  "$SCRIPTS/setup.sh" "${one[@]}" --source "$TINY"
  "$SCRIPTS/launch.sh" "${one[@]}" --run r --config configs/X.py
  at 6 <<<'echo 0 >"$CLOUD/finish"'
  run supervise
  echo "$output"
  [ "$status" -eq 0 ]
  [ "$(calls 'queued-resources create')" -eq 1 ]
  [ "$(grep -c 'resuming at' "$CLOUD/nodes/my-tpu/home-0/speech_jax/jobs/r/log.txt")" -eq 1 ]
}

@test "somebody else's slice of that name is left alone" {
  there v5e-4 1
  echo other >"$CLOUD/requests/my-tpu/label"
  run supervise
  [ "$status" -eq 2 ]
  [ "$(calls 'queued-resources delete')" -eq 0 ]
}
