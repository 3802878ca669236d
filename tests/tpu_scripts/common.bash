# What every bats file here begins with: a cloud of its own, and the fake tools in front of the real ones.
# shellcheck shell=bash disable=SC2034
bats_require_minimum_version 1.5.0 # run !

setup() {
  ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
  SCRIPTS=$ROOT/tpu_scripts
  export FAKE=$BATS_TEST_DIRNAME/fake CLOUD=$BATS_TEST_TMPDIR/cloud
  mkdir -p "$CLOUD"/{requests,nodes,buckets,fail,at}
  : >"$CLOUD/pauses"
  : >"$CLOUD/calls"
  export PATH=$FAKE:$PATH HOME=$BATS_TEST_TMPDIR SPEECH_JAX_SYNC_SECONDS=0
  unset TPU_NAME TPU_ZONE TPU_PROJECT
  zone=(--zone us-central2-b)
  one=(--name my-tpu "${zone[@]}")
  cd "$BATS_TEST_TMPDIR" || exit
  TINY=$BATS_TEST_TMPDIR/tiny # something to install that is quick to pack
  mkdir tiny
  echo tiny >tiny/setup.py
  git -C tiny init -q
  git -C tiny add .
  git -C tiny -c user.name=test -c user.email=test@localhost commit -qm tiny
}

teardown() {
  local node
  echo 0 >"$CLOUD/finish"
  for node in "$CLOUD"/nodes/*/; do [[ ! -d "$node" ]] || "$FAKE/lose" "$(basename "$node")"; done
}

# there TYPE SLICES: slices that are set up, without the way there.
there() {
  "$SCRIPTS/create.sh" "${one[@]}" --accelerator "$1" --slices "$2" --spot
  "$SCRIPTS/wait.sh" "${one[@]}" --every 1
}

# eventually COMMAND…: it comes true within ten seconds.
eventually() {
  local try
  for try in {1..200}; do
    if "$@"; then return 0; fi
    /bin/sleep 0.05
  done
  echo "not within ${try} tries: $*" >&2
  return 1
}

calls() { grep -c -- "$1" "$CLOUD/calls" || true; }
