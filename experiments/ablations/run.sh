#!/usr/bin/env bash
# Ablations of fine-tuning on the quickstart's corpus, three seeds each, by the front door `sweep`. Makes corpus and start
# model if they are missing. Finished runs are skipped, a stopped one resumes.
# Usage: experiments/ablations/run.sh [STUDY…], of: alpha layers rows adapters.
set -euo pipefail
cd "$(dirname "$0")/../.."
trap 'exit 130' INT TERM # a stopped training saves and exits 0: do not start the rest

studies=("$@")
[[ $# -gt 0 ]] || studies=(alpha layers rows adapters)
python=${PYTHON:-python}
runs=runs/ablations
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/xla} # the trainings share their programs
steps=150
every=75 # steps between evaluations
kinds=(--alpha.start 0.6 --alpha.end 0 --alpha.kind)

[[ -f runs/quickstart/data/recipe.json ]] || "$python" -m speech_jax.prepare synthetic --out runs/quickstart/data
[[ -d runs/quickstart/pretrained/checkpoints/400 ]] || "$python" -m speech_jax.train --config configs/quickstart/pretrain.py

study() { # FOLDER FLAGS…
  local out=$runs/$1
  shift
  "$python" -m speech_jax.sweep --config configs/quickstart/finetune.py --old A/wer --new B/wer --seeds 3 --out "$out" \
    --trainer.steps $steps --trainer.eval-every "$every" --trainer.log-every 15 --trainer.checkpoint.every $steps \
    --trainer.checkpoint.keep-best 0 "$@"
}

alpha() { # constant, and from 0.6 to 0 or back: their mean over the steps is that of a constant 0.3
  every=25 study alpha/constant --grid alpha=0,0.3,0.1,0.6 # its curves are drawn
  study alpha/linear_down "${kinds[@]}" linear --alpha.steps $steps
  study alpha/linear_up --alpha.kind linear --alpha.start 0 --alpha.end 0.6 --alpha.steps $steps
  study alpha/sigmoid_down "${kinds[@]}" recadam --alpha.middle $((steps / 2)) --alpha.rate 0.1
}

layers() { # without replay; a group that is None is frozen
  frozen() { # NAME PATTERN
    study "layers/$1" --alpha.start 0 --optimizer.groups "$2" None '.*' 1.0
  }
  frozen subsampling_frozen '^encoder/subsampling/'
  frozen lower_half_frozen '^encoder/(subsampling|layers_[01])/'
  frozen upper_half_frozen '^encoder/layers_[23]/'
  frozen all_but_head_frozen '^encoder/'
  frozen all_but_norms_frozen '^(?!.*norm)'
}

rows() { # rows of old recordings against 16 of new ones; 16 is alpha/constant/alpha=0.3
  study rows --alpha.start 0.3 --pre.plan.row-multiple 4 --grid pre.plan.rows=4,8
}

adapters() { # the head is trained beside them
  for alpha in 0 0.3; do
    study "adapters/alpha_$alpha" --adapter.kind lora --optimizer.peak-lr 5e-3 --alpha.start "$alpha" --grid adapter.rank=2,8,32
  done
}

for name in "${studies[@]}"; do "$name"; done
