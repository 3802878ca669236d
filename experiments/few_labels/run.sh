#!/usr/bin/env bash
# Does unsupervised pre-training help where labels are few? A recognizer of one voice (Asterisk, 14 minutes with texts), from
# random initialization and from an encoder pre-trained on 9.4 hours without texts: the same steps, three seeds. Finished steps
# are skipped. Usage: experiments/few_labels/run.sh [METHOD…], by default autoencoder; also best_rq, contrastive.
set -euo pipefail
cd "$(dirname "$0")/../.."
trap 'exit 130' INT TERM # a stopped training saves and exits 0: do not start the rest

methods=("${@:-autoencoder}")
python=${PYTHON:-python}
runs=runs/few_labels
reports=$runs/reports
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-runs/real_speech/xla}

tune() { # NAME START: fine-tune from START (empty: random initialization) with three seeds
  local name
  for seed in 0 1 2; do
    name="$1_seed_$seed"
    if [[ ! -f $reports/$name/report.json ]]; then
      "$python" -m speech_jax.train --config configs/real_speech/few_labels.py --init-from "$2" \
        --out-dir "$runs/$name" --seed "$seed" --data.seed "$seed"
      "$python" -m speech_jax.evaluate --checkpoint "$runs/$name" --which last --name "$1, seed $seed" \
        --manifest data/real/asterisk/test.jsonl --out "$reports/$name" >/dev/null
    fi
  done
}

tune scratch ''
for method in "${methods[@]}"; do
  "$python" -m speech_jax.train --config configs/real_speech/unsupervised.py --task.method "$method" \
    --out-dir "$runs/$method"
  tune "$method" "$runs/$method"
done
"$python" -m experiments.few_labels.summary --runs "$runs"
