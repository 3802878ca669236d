#!/usr/bin/env bash
# Does unsupervised pre-training help where there are few labels? A recognizer of one voice (Asterisk, 14 minutes with texts)
# from nothing and from an encoder that has heard 9.4 hours without texts, the same steps, three seeds. What is finished is
# not done again. Usage: experiments/few_labels/run.sh [METHOD…], by default autoencoder; also best_rq, contrastive.
set -euo pipefail
cd "$(dirname "$0")/../.."
trap 'exit 130' INT TERM # a training that is stopped saves and leaves 0: the rest must not begin then

methods=("${@:-autoencoder}")
python=${PYTHON:-python}
runs=runs/few_labels
results=experiments/few_labels/results
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-runs/real_speech/xla}

tune() { # NAME START: fine-tunes from START (empty: from nothing) with three seeds
  local name
  for seed in 0 1 2; do
    name="$1_seed_$seed"
    if [[ ! -f $results/$name/report.json ]]; then
      "$python" -m speech_jax.train --config configs/real_speech/few_labels.py --init-from "$2" \
        --out-dir "$runs/$name" --seed "$seed" --data.seed "$seed"
      "$python" -m speech_jax.evaluate --checkpoint "$runs/$name" --which last --name "$1, seed $seed" \
        --manifest data/real/asterisk/test.jsonl --out "$results/$name" >/dev/null
      cp "$runs/$name/metrics.jsonl" "$results/$name/"
    fi
  done
}

tune scratch ''
for method in "${methods[@]}"; do
  "$python" -m speech_jax.train --config configs/real_speech/unsupervised.py --task.method "$method" \
    --out-dir "$runs/$method"
  mkdir -p "$results/$method" && cp "$runs/$method/metrics.jsonl" "$results/$method/"
  tune "$method" "$runs/$method"
done
"$python" -m experiments.few_labels.summary "$results" | tee "$results/summary.md"
