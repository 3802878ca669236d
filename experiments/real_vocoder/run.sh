#!/usr/bin/env bash
# A WaveNet of one real voice, and held-out recordings made again from their own mel frames by it and by Griffin-Lim. After
# experiments/real_voice/prepare.py. A training goes on where it was stopped; what is measured is not measured again.
# Usage: experiments/real_vocoder/run.sh [FLAGS of the training…]
set -euo pipefail
cd "$(dirname "$0")/../.."
trap 'exit 130' INT TERM # a training that is stopped saves and leaves 0: the rest must not begin then

python=${PYTHON:-python}
config=configs/real_voice/wavenet.py
run=runs/real_vocoder/joe
test=data/real_voice/joe/test.jsonl
made=runs/real_vocoder/made
results=experiments/real_vocoder/results
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-runs/real_vocoder/xla}
mkdir -p "$results"

again() { # NAME FLAGS…: the test recordings made again, and compared with what they were made from
  local name=$1
  shift
  if [[ ! -f $made/$name/manifest.jsonl ]]; then
    "$python" -m speech_jax.synthesize --checkpoint "$run" --resynthesize "$test" --out "$made/$name" "$@" \
      2>"$results/$name.log"
  fi
  [[ -f $results/$name/report.json ]] ||
    "$python" -m speech_jax.evaluate --speech "$made/$name/manifest.jsonl" --manifest "$test" --name "$name" \
      --measures.dnsmos --out "$results/$name" >/dev/null
}

# A device for each of two cores, with a crop each, made 1.2 to 1.4 times the steps of one device with both.
XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=2" \
  "$python" -m speech_jax.train --config "$config" --out-dir "$run" "$@"
cp "$run/metrics.jsonl" "$results/metrics.jsonl"
again griffin_lim --vocoder griffin-lim
for weights in float32 bfloat16 int8; do
  again "wavenet_$weights" --vocoder "$run" --engine native --weights "$weights"
done
again wavenet_temperature_0.7 --vocoder "$run" --engine native --temperature 0.7
"$python" -m experiments.real_vocoder.summary "$run" "$test" "$made" "$results" | tee "$results/summary.md"
