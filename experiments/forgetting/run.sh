#!/usr/bin/env bash
# Compare methods against forgetting: what each keeps of the old domain and what it costs on the new one. Run
# experiments/real_speech first, it provides start model, data and fine-tuning config. Finished steps are skipped, a stopped
# training resumes. Usage: experiments/forgetting/run.sh [SEED…]; ONLY=REGEX for some of the ways, `ONLY='^(lora|ewc_1e4)$'`.
set -euo pipefail
cd "$(dirname "$0")/../.."
trap 'exit 130' INT TERM # a stopped training saves and exits 0: do not start the rest

seeds=("${@:-0}")
[[ $# -gt 0 ]] || seeds=(0 1 2)
python=${PYTHON:-python}
runs=runs/forgetting
reports=$runs/reports
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-runs/real_speech/xla} # the trainings share their programs
start=runs/real_speech/pretrain_longer
tests=(data/real/queen/test.jsonl data/real/asterisk/test.jsonl)
adapted=(--alpha.start 0 --optimizer.peak-lr 2e-3 --adapter.rank 16)

evaluate() { # CHECKPOINT NAME
  "$python" -m speech_jax.evaluate --checkpoint "$1" --which last --name "$2" --manifest "${tests[@]}" \
    --out "$reports/$2" >/dev/null
}

method() { # NAME FLAGS…
  local name=$1 run
  shift
  [[ $name =~ ${ONLY:-.} ]] || return 0
  for seed in "${seeds[@]}"; do
    run="$runs/$name/seed_$seed"
    [[ -f $reports/$name/seed_$seed/report.json ]] && continue
    "$python" -m speech_jax.train --config configs/real_speech/finetune.py --out-dir "$run" "$@" \
      --seed "$seed" --data.seed "$seed" --pre.seed "$seed"
    evaluate "$run" "$name/seed_$seed"
  done
}

[[ -f $reports/before/report.json ]] || evaluate "$start" before
method plain --alpha.start 0
method scratch --alpha.start 0 --init-from ''
for alpha in 0.1 0.2 0.3 0.5 0.9; do
  method "alpha_$alpha" --alpha.start "$alpha"
done
for middle in 100 200; do
  method "annealed_$middle" --alpha.kind recadam --alpha.start 1 --alpha.end 0 --alpha.rate 0.02 --alpha.middle "$middle"
done
for strength in 0.001 0.01 0.1; do
  method "l2sp_$strength" --alpha.start 0 --optimizer.anchor "$strength"
done
for strength in 1e0 1e2 1e3 1e4; do
  method "ewc_$strength" --alpha.start 0 --optimizer.ewc "$strength"
done
method lwf --alpha.start 0 --teacher.checkpoint "$start" --teacher.weight 0.5
method lora "${adapted[@]}" --adapter.kind lora --adapter.targets 'self_attn/linear_.*kernel$' 'feed_forward./linear./kernel'
method adapters "${adapted[@]}" --adapter.kind bottleneck --adapter.targets 'linear_out/kernel' 'linear2/kernel'
for seed in "${seeds[@]}"; do # averaging trains nothing: it interpolates between the start and the plain runs
  for ratio in 0.25 0.5 0.75; do
    name="average_$ratio/seed_$seed"
    [[ -f $reports/$name/report.json ]] && continue
    "$python" -m speech_jax.average --start "$start" --end "$runs/plain/seed_$seed" --keep "$ratio" --out "$runs/$name"
    evaluate "$runs/$name/model" "$name"
  done
done
"$python" -m experiments.forgetting.summary --runs "$runs"
