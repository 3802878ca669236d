#!/usr/bin/env bats
# create → wait → setup → launch → supervise → delete, from one end to the other.
# shellcheck disable=SC2016,SC2154 # words for other shells; what common.bash sets
load common

@test "one slice from beginning to end" {
  "$SCRIPTS/create.sh" "${one[@]}" --accelerator v5e-4 --spot
  [ "$(cat "$CLOUD/requests/my-tpu/type")" = v5litepod-4 ]
  run "$SCRIPTS/wait.sh" "${one[@]}"
  [ "$status" -eq 0 ]
  [[ "$output" == *WAITING_FOR_RESOURCES*PROVISIONING*ACTIVE* ]]
  "$SCRIPTS/setup.sh" "${one[@]}"
  home=$CLOUD/nodes/my-tpu/home-0
  grep -q 'pip install --quiet .*source\\\[tpu\\\]' "$home/python-calls"
  [ -f "$home/speech_jax/source/setup.py" ] # the package's commit is there
  run "$SCRIPTS/setup.sh" "${one[@]}"
  [[ "$output" == *"installed already"* ]]
  [ "$(grep -c 'pip install' "$home/python-calls")" -eq 1 ]

  "$SCRIPTS/launch.sh" "${one[@]}" --run first --config configs/quickstart/pretrain.py -- --trainer.steps 7 --text "it's \$HOME; ok"
  eventually grep -q 'speech_jax.train' "$home/python-calls"
  # Every word arrives as it was, through two shells.
  grep -qF -- "$(printf '%q ' --trainer.steps 7 --text "it's \$HOME; ok")" "$home/python-calls"
  grep -qF -- "--out-dir $home/speech_jax/runs/first" "$home/python-calls"
  run "$SCRIPTS/status.sh" "${one[@]}" --run first
  [[ "$output" == *ACTIVE*running* ]]
  run "$SCRIPTS/launch.sh" "${one[@]}" --run first --config configs/quickstart/pretrain.py
  [[ "$output" == *"runs already"* ]]

  run "$SCRIPTS/stop.sh" "${one[@]}" --run first
  [ "$status" -eq 0 ]
  [[ "$output" == *stopped* ]]
  grep -q 'saved step' "$home/speech_jax/jobs/first/log.txt"
  "$SCRIPTS/logs.sh" "${one[@]}" --run first --out logs
  grep -q 'resuming at step 0' logs/my-tpu-0.txt

  echo 0 >"$CLOUD/finish"
  "$SCRIPTS/launch.sh" "${one[@]}" --run first --config configs/quickstart/pretrain.py
  eventually grep -q 'exit 0' "$home/speech_jax/jobs/first/ended"
  run ! grep -q 'resuming at step 0' <(tail -n 3 "$home/speech_jax/jobs/first/log.txt")

  run "$SCRIPTS/delete.sh" "${one[@]}" </dev/null
  [ "$status" -eq 2 ]
  [[ "$output" == *"expected --yes"* ]]
  TPU_SCRIPTS_ASK=1 run "$SCRIPTS/delete.sh" "${one[@]}" <<<"n"
  [ "$status" -eq 1 ]
  [ -d "$CLOUD/requests/my-tpu" ]
  TPU_SCRIPTS_ASK=1 "$SCRIPTS/delete.sh" "${one[@]}" <<<"y"
  [ ! -d "$CLOUD/requests/my-tpu" ]
  [ ! -d "$CLOUD/nodes/my-tpu" ]
  "$SCRIPTS/delete.sh" "${one[@]}" --yes # there is none: that is what was wanted
}

@test "the log shows a command without its passwords, and the trainer gets them" {
  worker=$HOME/speech_jax/worker.sh
  mkdir -p "$HOME/speech_jax"
  cp "$SCRIPTS/worker.sh" "$worker"
  "$worker" start r "" -- bash -c 'echo "${@: -1}" | sha256sum' x --mlflow postgresql://me:hunter2@h/db \
    --data sqlite:///a@b.db https://ghp_abc@h/x "postgresql://h/db?user=me&password=hunter2"
  log=$HOME/speech_jax/jobs/r/log.txt
  eventually grep -q 'exit 0' "$HOME/speech_jax/jobs/r/ended"
  grep -qF -- '--mlflow postgresql://me:***@h/db --data sqlite:///a@b.db https://***@h/x postgresql://h/db?user=me&password=***' "$log"
  grep -qF -- "$(echo 'postgresql://h/db?user=me&password=hunter2' | sha256sum)" "$log"
  run ! grep -q 'hunter2\|ghp_abc' "$log"
}

@test "two slices of four workers each: all of them are set up and started" {
  there v5e-16 2
  [ "$(ls "$CLOUD/nodes")" = $'my-tpu-0\nmy-tpu-1' ]
  "$SCRIPTS/setup.sh" "${one[@]}" --source "$TINY"
  run "$SCRIPTS/launch.sh" "${one[@]}" --run r --config configs/X.py
  [ "$status" -eq 2 ] # no folder that all of them share
  [[ "$output" == *"found 8 workers"* ]]
  "$SCRIPTS/launch.sh" "${one[@]}" --run r --config configs/X.py --mounted
  for home in "$CLOUD"/nodes/*/home-*; do
    eventually grep -qF -- "--out-dir $home/speech_jax/bucket/runs/r" "$home/python-calls"
  done
  run "$SCRIPTS/status.sh" "${one[@]}" --run r
  [ "$(grep -c running <<<"$output")" -eq 8 ]
  "$SCRIPTS/logs.sh" "${one[@]}" --run r --out logs
  [ "$(find logs -name '*.txt' | wc -l)" -eq 8 ]
  echo 0 >"$CLOUD/finish"
}

@test "one worker of many cannot be reached: setup fails and says which slice" {
  there v5e-16 2
  echo always >"$CLOUD/fail/unreachable-my-tpu-1-2"
  run "$SCRIPTS/setup.sh" "${one[@]}" --source "$TINY"
  [ "$status" -eq 4 ]
  [[ "$output" == *"my-tpu-1: "*"Connection refused"* ]]
  [[ "$output" == *"found 7 of 8"* ]]
}

@test "a stock-out is 4, missing rights 3, a type that the zone does not have 3, each with one line" {
  for case in stockout:4 denied:3 invalid:3; do
    echo 1 >"$CLOUD/fail/${case%:*}"
    run "$SCRIPTS/create.sh" "${one[@]}" --accelerator v6e-8
    [ "$status" -eq "${case#*:}" ]
    [ "${#lines[@]}" -eq 1 ]
    [[ "$output" == gcloud:* ]]
  done
}

@test "wait ends: with the deadline, without a request, with a request that failed" {
  run "$SCRIPTS/wait.sh" "${one[@]}"
  [ "$status" -eq 6 ]
  "$SCRIPTS/create.sh" "${one[@]}" --accelerator v5e-4
  echo always >"$CLOUD/fail/slow"
  run "$SCRIPTS/wait.sh" "${one[@]}" --deadline 5m --every 60
  [ "$status" -eq 5 ]
  [ "$(wc -l <"$CLOUD/pauses")" -eq 5 ]
  rm "$CLOUD/fail/slow"
  echo 1 >"$CLOUD/fail/never"
  run "$SCRIPTS/wait.sh" "${one[@]}" --every 1
  [ "$status" -eq 4 ]
  [[ "$output" == *"the request is FAILED"* ]]
}

@test "wait does not take a half-created slice for a whole one" {
  "$SCRIPTS/create.sh" "${one[@]}" --accelerator v5e-16 --slices 2
  echo 1 >"$CLOUD/fail/half"
  run "$SCRIPTS/wait.sh" "${one[@]}" --deadline 2m
  [ "$status" -eq 5 ]
  [[ "$output" == *"1 of 2 slices are READY"* ]]
}

@test "delete leaves alone what create did not make" {
  there v5e-4 1
  echo other >"$CLOUD/requests/my-tpu/label"
  run "$SCRIPTS/delete.sh" "${one[@]}" --yes
  [ "$status" -eq 2 ]
  [[ "$output" == *"without our label"* ]]
  [ -d "$CLOUD/requests/my-tpu" ]
  "$SCRIPTS/delete.sh" "${one[@]}" --yes --foreign
  [ ! -d "$CLOUD/requests/my-tpu" ]
}

@test "data and checkpoints go both ways" {
  mkdir -p data/x runs/r/checkpoints
  echo sound >data/x/a.wav
  echo weights >runs/r/checkpoints/1
  "$SCRIPTS/stage_data.sh" --data data/x --bucket gs://my-bucket/data/x
  [ "$(cat "$CLOUD/buckets/my-bucket/data/x/a.wav")" = sound ]
  there v5e-16 1
  "$SCRIPTS/stage_data.sh" --bucket gs://my-bucket/data/x "${one[@]}"
  for home in "$CLOUD"/nodes/my-tpu/home-*; do [ "$(cat "$home/speech_jax/data/x/a.wav")" = sound ]; done
  "$SCRIPTS/setup.sh" "${one[@]}" --source "$TINY"
  [ "$(cat "$CLOUD/nodes/my-tpu/home-3/speech_jax/source/data/x/a.wav")" = sound ] # where a config looks for it

  "$SCRIPTS/sync_checkpoints.sh" --run r --bucket gs://my-bucket/runs --up
  rm -r runs
  "$SCRIPTS/sync_checkpoints.sh" --run r --bucket gs://my-bucket/runs --down
  [ "$(cat runs/r/checkpoints/1)" = weights ]
  "$SCRIPTS/sync_checkpoints.sh" --run r --bucket gs://my-bucket/runs --down "${one[@]}"
  for home in "$CLOUD"/nodes/my-tpu/home-*; do [ "$(cat "$home/speech_jax/runs/r/checkpoints/1")" = weights ]; done
  echo more >"$CLOUD/nodes/my-tpu/home-0/speech_jax/runs/r/checkpoints/2"
  "$SCRIPTS/sync_checkpoints.sh" --run r --bucket gs://my-bucket/runs --up "${one[@]}"
  [ "$(cat "$CLOUD/buckets/my-bucket/runs/r/checkpoints/2")" = more ]

  mkdir -p "$CLOUD/nodes/my-tpu/home-0/speech_jax/runs/r/profile"
  echo trace >"$CLOUD/nodes/my-tpu/home-0/speech_jax/runs/r/profile/host.xplane.pb"
  "$SCRIPTS/profile.sh" "${one[@]}" --run r --out prof
  [ "$(cat prof/profile/host.xplane.pb)" = trace ]

  echo 1 >"$CLOUD/fail/forbidden"
  run "$SCRIPTS/stage_data.sh" --data data/x --bucket gs://my-bucket/data/x
  [ "$status" -eq 3 ]
  [ "${#lines[@]}" -eq 1 ]
}
