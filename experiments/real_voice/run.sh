#!/usr/bin/env bash
# The whole experiment after prepare.py: Joe's voice, then Asterisk's from it with α = 0 and α > 0, then both voices of each
# model on held-out sentences, and the hard sentences. A stopped training resumes; finished measurements are skipped.
# Usage: experiments/real_voice/run.sh [ALPHA]
#
# RECOGNIZER: the run whose recognizer transcribes the speech (experiments/real_speech/run.sh makes it).
# PEERS: a Python that has whisper (experiments/real_speech/baselines.py says what it needs); without it whisper's column
# stays empty.
set -euo pipefail
cd "$(dirname "$0")/../.."
trap 'exit 130' INT TERM # a stopped training saves and exits 0: do not start the rest

alpha=${1:-0.3}
python=${PYTHON:-python}
recognizer=${RECOGNIZER:-runs/real_speech/pretrain_longer}
data=data/real_voice
runs=runs/real_voice
reports=$runs/reports
ends=(--decode.frames-per-symbol 10) # length limit of an utterance that does not end; frames of 16 ms
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/xla}
mkdir -p "$runs" "$reports"

whisper() { # NAME FOLDER MANIFEST: transcribe the recordings of the manifest, if PEERS is set
  if [[ -n ${PEERS:-} && ! -f $2/whisper.jsonl ]]; then
    "$PEERS" experiments/real_speech/baselines.py --peer whisper-tiny.en --manifest "$3" --out "$2/whisper.jsonl"
    "$python" -m speech_jax.evaluate --hypotheses "$2/whisper.jsonl" --language en --manifest "$3" --name "$1" \
      --out "$2/whisper" >/dev/null
  fi
}

speak() { # NAME RUN SPEAKER SET: synthesize the set's test sentences, compare them with the recordings
  local name=$1 run=$2 speaker=$3 set=$4
  local folder=$runs/spoken/$name/$set out=$reports/$name/$set
  mkdir -p "$folder" "$out"
  if [[ ! -f $out/alignments.jsonl ]]; then
    "$python" -m experiments.real_voice.lists texts "$data/$set/test.jsonl" "$folder/texts.txt"
    # 2 says that some sentences failed: they are in the report
    "$python" -m speech_jax.synthesize "${ends[@]}" --checkpoint "$run" --speaker "$speaker" \
      --file "$folder/texts.txt" --out "$folder" --report "$folder/alignments.jsonl" 2>"$folder/log.txt" || [[ $? == 2 ]]
    "$python" -m experiments.real_voice.lists manifest "$data/$set/test.jsonl" "$folder" "$folder/manifest.jsonl"
    cp "$folder/alignments.jsonl" "$folder/log.txt" "$out"
  fi
  if [[ ! -f $out/report.json ]]; then
    "$python" -m speech_jax.evaluate --speech "$folder/manifest.jsonl" --manifest "$data/$set/test.jsonl" \
      ${recognizer:+--checkpoint "$recognizer"} --name "$name" --out "$out" >/dev/null || [[ $? == 2 ]]
  fi
  whisper "$name" "$out" "$folder/manifest.jsonl"
}

hard() { # NAME RUN SPEAKER
  local folder=$runs/spoken/$1/hard out=$reports/$1/hard
  if [[ ! -f $out/alignments.jsonl ]]; then
    mkdir -p "$folder" "$out"
    "$python" -m speech_jax.synthesize "${ends[@]}" --checkpoint "$2" --speaker "$3" --out "$folder" \
      --file experiments/real_voice/hard_sentences.txt --report "$folder/alignments.jsonl" 2>"$folder/log.txt" ||
      [[ $? == 2 ]]
    cp "$folder/log.txt" "$folder/alignments.jsonl" "$out"
  fi
}

train() { # RUN CONFIG [FLAG…]
  "$python" -m speech_jax.train --config "configs/real_voice/$2.py" --out-dir "$runs/$1" "${@:3}"
}

train joe joe
train joe_longer joe_longer
speak joe_longer "$runs/joe_longer" joe joe
hard joe_longer "$runs/joe_longer" joe
for weight in 0.0 "$alpha"; do
  name=alpha_$weight
  train "$name" finetune --alpha.start "$weight"
  for speaker in asterisk-en joe; do
    speak "$name" "$runs/$name" "$speaker" "${speaker%-en}"
  done
  hard "$name" "$runs/$name" asterisk-en
done
# The recognizer's error rate on the recordings themselves, for comparison.
for set in joe asterisk; do
  mkdir -p "$reports/recordings/$set"
  whisper recordings "$reports/recordings/$set" "$data/$set/test.jsonl"
done
"$python" -m experiments.real_voice.summary --runs "$runs"
