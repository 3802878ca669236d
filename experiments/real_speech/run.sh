#!/usr/bin/env bash
# The whole experiment after prepare.sh: pre-training, fine-tuning with α = 0 and α > 0 over three seeds, evaluation of
# each on both test parts, and one table beside the peers. Every step goes on where it was stopped.
# Usage: experiments/real_speech/run.sh [ALPHA]
set -euo pipefail
cd "$(dirname "$0")/../.."
trap 'exit 130' INT TERM # a training that is stopped saves and leaves 0: the rest must not begin then

alpha=${1:-0.5}
python=${PYTHON:-python}
runs=runs/real_speech
results=experiments/real_speech/results
tests=(data/real/queen/test.jsonl data/real/asterisk/test.jsonl)

evaluate() { # RUN NAME
  "$python" -m speech_jax.evaluate --checkpoint "$runs/$1" --which last --name "$2" --manifest "${tests[@]}" \
    --out "$results/$1" >/dev/null
}

"$python" -m speech_jax.train --config configs/real_speech/pretrain.py
evaluate pretrain before
reports=("$results/pretrain/report.json")

for weight in 0.0 "$alpha"; do
  for seed in 0 1 2; do
    name="alpha_${weight}_seed_${seed}"
    "$python" -m speech_jax.train --config configs/real_speech/finetune.py \
      --out-dir "$runs/$name" --alpha.start "$weight" --seed "$seed" --data.seed "$seed" --pre.seed "$seed"
    evaluate "$name" "α = $weight, seed $seed"
    reports+=("$results/$name/report.json")
  done
done

for peer in pocketsphinx whisper-tiny.en; do # their transcripts are in baselines/; baselines.sh made them
  mkdir -p "$results/$peer"
  cat "experiments/real_speech/baselines/$peer".{queen,asterisk}.jsonl >"$results/$peer/transcripts.jsonl"
  "$python" -m speech_jax.evaluate --hypotheses "$results/$peer/transcripts.jsonl" --name "$peer" \
    --manifest "${tests[@]}" --out "$results/$peer" >/dev/null
  reports+=("$results/$peer/report.json")
done
"$python" -m speech_jax.evaluate --compare "${reports[@]}" --out "$results"
