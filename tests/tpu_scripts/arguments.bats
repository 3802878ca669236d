#!/usr/bin/env bats
# Bad arguments, dry runs, help, the cost guard.
# shellcheck disable=SC2016,SC2154 # words for other shells; what common.bash sets
load common

refused() { # SCRIPT FLAGS…: exit 2, one line, and nothing was called
  run "$SCRIPTS/$1" "${@:2}"
  echo "$*: $status: $output"
  [ "$status" -eq 2 ]
  [ "${#lines[@]}" -eq 1 ]
  [[ "$output" == error:*expected* ]]
  [ ! -s "$CLOUD/calls" ]
}

@test "bad names are refused before anything runs" {
  for bad in 'A' '1x' 'x_y' '-x' 'x-' 'a b' 'x;reboot' '$(reboot)' '`id`' "x'y" '../x' $'x\ny' "$(printf 'a%.0s' {1..41})" ''; do
    refused create.sh --name "$bad" "${zone[@]}" --accelerator v5e-4
  done
  for script in wait setup delete status; do refused "$script.sh" --name 'x;reboot' "${zone[@]}"; done
  for script in launch stop logs profile supervise; do
    flags=(--run r)
    [[ "$script" != launch && "$script" != supervise ]] || flags+=(--config c.py)
    [[ "$script" != logs && "$script" != profile ]] || flags+=(--out o)
    [[ "$script" != supervise ]] || flags+=(--accelerator v5e-4)
    refused "$script.sh" --name '$(reboot)' "${zone[@]}" "${flags[@]}"
    refused "$script.sh" --name x "${zone[@]}" "${flags[@]}" --run 'r;reboot'
  done
}

@test "bad values of the other flags are refused" {
  refused create.sh --name x --zone us --accelerator v5e-4
  refused create.sh --name x "${zone[@]}" --project 'A;b' --accelerator v5e-4
  for type in v5e-5 v5e v3-8 v4-7 'v5e-4;id' v6e-512; do refused create.sh --name x "${zone[@]}" --accelerator "$type"; done
  refused create.sh --name x "${zone[@]}" --accelerator v5e-4 --slices 0
  refused create.sh --name x "${zone[@]}" --accelerator v5e-4 --slices '1+1'
  refused create.sh --name x "${zone[@]}" --accelerator v5e-4 --spot --reserved
  refused create.sh --name x "${zone[@]}" --accelerator v5e-4 --valid-for soon
  for flag in --out-dir --out-dir=x --out_dir --config --config=x; do
    refused launch.sh --name x "${zone[@]}" --run r --config c.py -- --trainer.steps 3 "$flag" x
  done
  refused launch.sh --name x "${zone[@]}" --run r --config c.py --mounted -- --hosts.launcher none
  refused supervise.sh --name x "${zone[@]}" --accelerator v5e-4 --run r --config c.py -- --out-dir x
  refused create.sh --name x "${zone[@]}"
  refused create.sh --name x "${zone[@]}" --accelerator
  refused create.sh --name x "${zone[@]}" --acelerator v5e-4
  refused create.sh x
  refused wait.sh --name x "${zone[@]}" --deadline 5
  refused launch.sh --name x "${zone[@]}" --run 'r r' --config c.py
  refused launch.sh --name x "${zone[@]}" --run r --config '../../etc/passwd'
  refused launch.sh --name x "${zone[@]}" --run r --config c.py --sync s3://b
  refused launch.sh --name x "${zone[@]}" --run r --config c.py --sync gs://b/../c
  refused setup.sh --name x "${zone[@]}" --commit ../x
  refused setup.sh --name x "${zone[@]}" --mount gs://bucket/folder
  refused sync_checkpoints.sh --run r --bucket gs://bucket/runs
  refused sync_checkpoints.sh --run r --bucket gs://bucket/runs --up --down
  refused stage_data.sh --data nowhere --bucket gs://bucket/x
  refused profile.sh --run r --out 'a b'
  refused cost_guard.sh --zone us-central2-b --grace 1
  refused supervise.sh --name x "${zone[@]}" --accelerator v5e-4 --run r --config c.py --every 0
}

@test "every script shows its help" {
  for script in "$SCRIPTS"/*.sh; do
    [[ "$script" != */lib.sh && "$script" != */worker.sh ]] || continue
    run "$script" --help
    [ "$status" -eq 0 ]
    [[ "$output" == *"$(basename "$script") "* && "$output" == *--dry-run* ]]
    [ ! -s "$CLOUD/calls" ]
  done
}

@test "a dry run prints the commands and runs none" {
  all() {
    local at=("${one[@]}" --project my-project --dry-run)
    "$SCRIPTS/create.sh" "${at[@]}" --accelerator v5p-256 --slices 4 --reserved --network net --subnetwork sub --internal-ips \
      --service-account me@my-project.iam.gserviceaccount.com --valid-for 6h
    "$SCRIPTS/wait.sh" "${at[@]}"
    "$SCRIPTS/setup.sh" "${at[@]}" --mount gs://my-bucket
    "$SCRIPTS/launch.sh" "${at[@]}" --run r --config configs/X.py --mounted -- --note "it's"
    "$SCRIPTS/stop.sh" "${at[@]}" --run r
    "$SCRIPTS/status.sh" "${at[@]}" --run r
    "$SCRIPTS/status.sh" --zone us-central2-b --dry-run
    "$SCRIPTS/logs.sh" "${at[@]}" --run r --out logs
    "$SCRIPTS/logs.sh" "${at[@]}" --run r --follow
    "$SCRIPTS/profile.sh" "${at[@]}" --run r --out prof
    "$SCRIPTS/profile.sh" --bucket gs://my-bucket/runs --run r --out prof --dry-run
    "$SCRIPTS/stage_data.sh" --data data/x --bucket gs://my-bucket/x --dry-run
    "$SCRIPTS/stage_data.sh" --bucket gs://my-bucket/x "${at[@]}" --exclude '.*.tmp'
    "$SCRIPTS/sync_checkpoints.sh" --run r --bucket gs://my-bucket/runs --up --mirror --dry-run
    "$SCRIPTS/sync_checkpoints.sh" --run r --bucket gs://my-bucket/runs --down "${at[@]}"
    "$SCRIPTS/cost_guard.sh" --zone us-central2-b --dry-run
    "$SCRIPTS/delete.sh" "${at[@]}"
    "$SCRIPTS/supervise.sh" "${at[@]}" --accelerator v6e-16 --spot --run r --config configs/X.py --mount gs://my-bucket
  }
  all >"$BATS_TEST_TMPDIR/out"
  sed -E "s#$ROOT#ROOT#g; s#/tmp/tmp\.[A-Za-z0-9]+#TMP#g" "$BATS_TEST_TMPDIR/out" >"$BATS_TEST_TMPDIR/commands"
  if [[ -n "${UPDATE_GOLDEN:-}" ]]; then cp "$BATS_TEST_TMPDIR/commands" "$BATS_TEST_DIRNAME/dry_run.txt"; fi
  diff "$BATS_TEST_DIRNAME/dry_run.txt" "$BATS_TEST_TMPDIR/commands"
  [ ! -s "$CLOUD/calls" ]
  [ ! -s "$CLOUD/pauses" ]
  [ ! -e logs ]
}

@test "the cost guard names what is dead, orphaned and idle, and keeps what works or does not answer" {
  for tpu in works idle dead mute; do
    "$SCRIPTS/create.sh" --name "$tpu" "${zone[@]}" --accelerator v5e-4
    "$SCRIPTS/wait.sh" --name "$tpu" "${zone[@]}" --every 1
    "$SCRIPTS/setup.sh" --name "$tpu" "${zone[@]}" --source "$TINY"
  done
  "$SCRIPTS/launch.sh" --name works "${zone[@]}" --run r --config configs/X.py
  "$FAKE/preempt" dead
  echo SUSPENDED >"$CLOUD/requests/dead/state"
  echo always >"$CLOUD/fail/unreachable-mute-0"
  cp -r "$CLOUD/nodes/idle" "$CLOUD/nodes/stray"
  echo gone >"$CLOUD/nodes/stray/request"
  cp -r "$CLOUD/nodes/stray" "$CLOUD/nodes/foreign"
  : >"$CLOUD/nodes/foreign/label"

  run "$SCRIPTS/cost_guard.sh" "${zone[@]}" --yes # all of them are younger than an hour
  [ "$status" -eq 0 ]
  [ -z "$output" ]
  for created in "$CLOUD"/*/*/created; do date -u -d '2 hours ago' +%FT%TZ >"$created"; done
  run "$SCRIPTS/cost_guard.sh" "${zone[@]}" </dev/null
  [ "$status" -eq 2 ] # nobody to ask
  run "$SCRIPTS/cost_guard.sh" "${zone[@]}" --yes
  echo "$output"
  [ "$status" -eq 0 ]
  [[ "$output" == *$'dead: SUSPENDED'* && "$output" == *'orphaned: no request gone'* && "$output" == *'does not answer: kept'* ]]
  [ "$(ls "$CLOUD/requests")" = $'mute\nworks' ]
  [ "$(ls "$CLOUD/nodes")" = $'foreign\nmute\nworks' ]
  echo 0 >"$CLOUD/finish"
}
