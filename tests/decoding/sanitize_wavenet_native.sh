#!/usr/bin/env bash
# The native WaveNet step's tests with a library that stops at the first read or write out of bounds and at the first
# undefined operation: tests/decoding/sanitize_wavenet_native.sh [PYTHON]. Needs gcc; works in a copy of the sources.
set -euo pipefail
python=${1:-python}
here=$(cd "$(dirname "$0")/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$here/speech_jax" "$here/tests" "$here/setup.py" "$here/pyproject.toml" "$here/README.md" "$copy"
cd "$copy"
rm -f speech_jax/native/*.so
CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all" \
  LDFLAGS="-fsanitize=address,undefined" "$python" setup.py -q build_ext --inplace
# Python itself is not built with the sanitizer, so its runtime comes first by hand, and leaks of others are not looked for.
export LD_PRELOAD ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=$copy JAX_PLATFORMS=cpu
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
"$python" -m pytest -q -p no:cacheprovider tests/decoding/test_wavenet_native.py
