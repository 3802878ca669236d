#!/usr/bin/env bash
# Clip by clip against the same clips joined: gaps of 0, 0.5 and 1.5 s, without noise, with noise, and as MP3.
# Usage: experiments/long_recordings/run.sh NAME CHECKPOINT MANIFEST [CLIPS]; finished evaluations are skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=${1:?usage: run.sh NAME CHECKPOINT MANIFEST [CLIPS]}
checkpoint=$2
manifest=$3
clips=${4:-0}
python=${PYTHON:-python}
runs=${RUNS:-runs/long_recordings}
data=$runs/data/$name

[[ -f $data/joined_1.5_mp3.jsonl ]] || "$python" -m experiments.long_recordings.join \
  --manifest "$manifest" --clips "$clips" --out "$data"
for segment in none energy vad; do
  out=$runs/reports/$name/$segment
  [[ -f $out/report.json ]] || "$python" -m speech_jax.evaluate --checkpoint "$checkpoint" --which last \
    --manifest "$data"/*.jsonl --segment "$segment" --name "$name, $segment" --out "$out" >/dev/null
done
