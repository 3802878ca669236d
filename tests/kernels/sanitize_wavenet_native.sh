#!/usr/bin/env bash
# The native WaveNet step's tests with a library that stops at the first read or write out of bounds and at the first
# undefined operation; with "thread" instead those of two cores, with one that reports what they touch at the same time:
# tests/kernels/sanitize_wavenet_native.sh [PYTHON [address|thread]]. Needs gcc; works in a copy of the sources.
set -euo pipefail
python=${1:-python}
kind=${2:-address}
here=$(cd "$(dirname "$0")/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$here/speech_jax" "$here/tests" "$here/pyproject.toml" "$copy"
cd "$copy"

build() { # FLAGS…: in addition to those of setup.py
  local folder=speech_jax/kernels/wavenet/c
  gcc -O3 -fno-math-errno -fno-trapping-math -g -fno-omit-frame-pointer "$@" -shared -fPIC "$folder"/*.c -pthread \
    -o "$folder/_wavenet.so"
}

# Python itself is not built with the sanitizer, so its runtime comes first by hand.
tests() { # RUNTIMES FLAGS…
  LD_PRELOAD=$1 PYTHONPATH=$copy JAX_PLATFORMS=cpu \
    "$python" -m pytest -q -p no:cacheprovider tests/kernels/test_wavenet_native.py "${@:2}"
}

if [[ $kind == thread ]]; then
  build -fsanitize=thread
  TSAN_OPTIONS=exitcode=0 tests "$(gcc -print-file-name=libtsan.so)" -s -k two_cores >report 2>&1 ||
    { cat report && exit 1; }
  grep ' passed' report
  if grep -B2 -A20 'native/wavenet\.c' report; then # what other libraries do, it cannot judge
    exit 1
  fi
else
  build -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all
  # leaks of others are not looked for
  ASAN_OPTIONS=detect_leaks=0 tests "$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
fi
