#!/usr/bin/env bash
# Train a WaveNet on one real voice; resynthesize held-out recordings from their own mel frames with it and with Griffin-Lim.
# Run experiments/real_voice/prepare.py first. A stopped training resumes; finished measurements are skipped.
# Usage: experiments/real_vocoder/run.sh [FLAGS of the training…]
set -euo pipefail
cd "$(dirname "$0")/../.."
trap 'exit 130' INT TERM # a stopped training saves and exits 0: do not start the rest

python=${PYTHON:-python}
config=configs/real_voice/wavenet.py
run=runs/real_vocoder/joe
test=data/real_voice/joe/test.jsonl
first=data/real_voice/joe/first.jsonl
made=runs/real_vocoder/made
reports=runs/real_vocoder/reports
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-runs/real_vocoder/xla}
mkdir -p "$reports"

resynthesize() { # NAME FLAGS…: resynthesize the test recordings and compare them with the originals
  local name=$1
  shift
  if [[ ! -f $made/$name/manifest.jsonl ]]; then
    "$python" -m speech_jax.synthesize --checkpoint "$run" --resynthesize "$test" --out "$made/$name" "$@" \
      2>"$reports/$name.log"
  fi
  [[ -f $reports/$name/report.json ]] ||
    "$python" -m speech_jax.evaluate --speech "$made/$name/manifest.jsonl" --manifest "$test" --name "$name" \
      --out "$reports/$name" >/dev/null
}

dnsmos() { # NAME: DNSMOS takes minutes, so it is measured on the first 44 clips (FIRST in summary.py)
  head -44 "$test" >"$first"
  head -44 "$made/$1/manifest.jsonl" >"$made/$1/first.jsonl"
  [[ -f $reports/dnsmos/$1/report.json ]] ||
    "$python" -m speech_jax.evaluate --speech "$made/$1/first.jsonl" --manifest "$first" --name "$1" \
      --measures.dnsmos --out "$reports/dnsmos/$1" >/dev/null
}

# A device for each of two cores, with a crop each, made 1.2 to 1.4 times the steps of one device with both.
XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=2" \
  "$python" -m speech_jax.train --config "$config" --out-dir "$run" "$@"
resynthesize griffin_lim --vocoder griffin-lim
for weights in float32 bfloat16 int8; do
  resynthesize "wavenet_$weights" --vocoder "$run" --engine native --weights "$weights"
done
resynthesize wavenet_temperature_0.7 --vocoder "$run" --engine native --temperature 0.7
for name in griffin_lim wavenet_float32 wavenet_temperature_0.7; do
  dnsmos "$name"
done
"$python" -m experiments.real_vocoder.summary --runs runs/real_vocoder
