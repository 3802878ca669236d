#!/usr/bin/env bash
# The whole experiment after prepare.sh: pre-training in two parts, fine-tuning with α = 0 and α > 0 over three seeds,
# evaluation of each on both test parts, and one table with the peers. A stopped training resumes; finished evaluations are
# skipped. Usage: experiments/real_speech/run.sh [ALPHA…]
set -euo pipefail
cd "$(dirname "$0")/../.."
trap 'exit 130' INT TERM # a stopped training saves and exits 0: do not start the rest

alphas=("${@:-0.3}")
python=${PYTHON:-python}
runs=runs/real_speech
reports=$runs/reports
lm=$runs/lm.arpa
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/xla} # the trainings share their programs
tests=(data/real/queen/test.jsonl data/real/asterisk/test.jsonl)
# Weight and bonus were chosen on the dev parts with the pre-trained model: tune_lm.py.
search=(--beam.width 32 --beam.lm "$lm" --beam.lm-weight 0.3 --beam.word-insertion-bonus 2.0)

evaluate() { # RUN NAME: by the best path, and with the language model
  "$python" -m speech_jax.evaluate --checkpoint "$runs/$1" --which last --name "$2" --manifest "${tests[@]}" \
    --out "$reports/$1" >/dev/null
  "$python" -m speech_jax.evaluate --checkpoint "$runs/$1" --which last --name "$2, LM" --manifest "${tests[@]}" \
    --out "$reports/${1}_lm" "${search[@]}" >/dev/null
}

# The language model of all systems of ours: trigrams of every training text, none of a test or dev part.
mkdir -p "$runs"
[[ -f $lm ]] || "$python" -m speech_jax.lm --language en --manifest data/real/{queen,synth,asterisk}/train.jsonl \
  --heldout data/real/{queen,asterisk}/dev.jsonl --out "$lm"

greedy=() with_lm=()
for part in pretrain pretrain_longer; do
  if [[ ! -f $reports/${part}_lm/report.json ]]; then
    "$python" -m speech_jax.train --config "configs/real_speech/$part.py"
    evaluate "$part" "$part"
  fi
  greedy+=("$reports/$part/report.json") with_lm+=("$reports/${part}_lm/report.json")
done

for seed in 0 1 2; do
  for alpha in 0.0 "${alphas[@]}"; do
    name="alpha_${alpha}_seed_${seed}"
    if [[ ! -f $reports/${name}_lm/report.json ]]; then
      "$python" -m speech_jax.train --config configs/real_speech/finetune.py \
        --out-dir "$runs/$name" --alpha.start "$alpha" --seed "$seed" --data.seed "$seed" --pre.seed "$seed"
      evaluate "$name" "α = $alpha, seed $seed"
    fi
    greedy+=("$reports/$name/report.json") with_lm+=("$reports/${name}_lm/report.json")
  done
done

peers=()
for peer in pocketsphinx whisper-tiny.en; do # only where baselines.sh has written their transcripts
  [[ -f $runs/baselines/$peer.queen.jsonl && -f $runs/baselines/$peer.asterisk.jsonl ]] || continue
  mkdir -p "$reports/$peer"
  cat "$runs/baselines/$peer".{queen,asterisk}.jsonl >"$reports/$peer/transcripts.jsonl"
  "$python" -m speech_jax.evaluate --hypotheses "$reports/$peer/transcripts.jsonl" --language en --name "$peer" \
    --manifest "${tests[@]}" --out "$reports/$peer" >/dev/null
  peers+=("$reports/$peer/report.json")
done
"$python" -m speech_jax.evaluate --compare "${greedy[@]}" "${peers[@]}" --out "$reports/compare"
"$python" -m speech_jax.evaluate --compare "${with_lm[@]}" "${peers[@]}" --out "$reports/compare_lm"
"$python" -m experiments.real_speech.summary --runs "$runs"
