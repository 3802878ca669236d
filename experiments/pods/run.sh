#!/usr/bin/env bash
# Compile the training steps for TPU slices without having one: every line is one `python -m speech_jax.compile`. Finished
# lines are skipped. Needs the extra `tpu` and no TPU; some minutes of one core per line. Usage: experiments/pods/run.sh [REGEX]
set -euo pipefail
cd "$(dirname "$0")/../.."

only=${1:-.}
python=${PYTHON:-python}
runs=runs/pods
export JAX_PLATFORMS=cpu
mkdir -p "$runs"

# name, config, topology, slices, ROWSxSECONDSxLABELS of the global batch, and further flags
while read -r name config topology slices bucket flags; do
  [[ -n $name && $name =~ $only && ! -f $runs/$name.json ]] || continue
  echo "$name" >&2
  read -ra extra <<<"$flags"
  "$python" -m speech_jax.compile --config "configs/pods/$config.py" --topology "$topology" --slices "$slices" \
    --bucket "$bucket" --vocab-size 1024 --out "$runs/$name.json" "${extra[@]}" >"$runs/$name.md" ||
    [[ $? == 2 ]] # 2: it does not fit, which the table reports
done <<'LIST'
large_v5e-4_before conformer_large v5e:2x2 1 32x16x256 --task.model.no-attention-fused --task.model.no-remat --task.model.remat-keeps nothing
large_v5e-4_fused conformer_large v5e:2x2 1 32x16x256 --task.model.no-remat --task.model.remat-keeps nothing
large_v5e-4_32 conformer_large v5e:2x2 1 32x16x256
large_v5e-4_96 conformer_large v5e:2x2 1 96x16x256
large_v5e-4 conformer_large v5e:2x2 1 128x16x256
large_v5e-256 conformer_large v5e:16x16 1 8192x16x256
small_v5e-4 conformer_small v5e:2x2 1 256x16x256
small_v5e-256 conformer_small v5e:16x16 1 16384x16x256
medium_v5e-4 conformer_medium v5e:2x2 1 192x16x256
medium_v5e-256 conformer_medium v5e:16x16 1 12288x16x256
large_v4-128 conformer_large v4:4x4x4 1 2048x16x256
large_v5p-128 conformer_large v5p:4x4x4 1 2048x16x256
large_v6e-256 conformer_large v6e:16x16 1 8192x16x256
large_2x_v5e-16 conformer_large v5e:4x4 2 1024x16x256
fastconformer_v5e-4 fastconformer_large v5e:2x2 1 192x16x256
fastconformer_v5e-256 fastconformer_large v5e:16x16 1 12288x16x256
tacotron2_v5e-4 tacotron2 v5e:2x2 1 128x8x128
wavenet_v5e-4 wavenet v5e:2x2 1 64x8x128
LIST
"$python" -m experiments.pods.summary --runs "$runs"
