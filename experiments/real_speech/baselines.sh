#!/bin/sh
# Whisper tiny.en and pocketsphinx on both test parts, and their error rates by our own `evaluate`.
#
#   PEERS=ENV/bin/python experiments/real_speech/baselines.sh data/real      (baselines.py says what ENV needs)
#
# Transcripts go to runs/real_speech/baselines/; those that are there are kept. Measured on 2 shared cores: about an hour.
set -eu

data=${1:?usage: baselines.sh DATA_FOLDER}
python=${PYTHON:-python}
here=$(dirname "$0")

for set in asterisk queen; do
    for peer in whisper-tiny.en pocketsphinx; do
        out="runs/real_speech/baselines/${peer}.${set}.jsonl"
        [ -f "${out}" ] || "${PEERS:?set PEERS to the Python that has the peers}" "${here}/baselines.py" \
            --peer "${peer}" --manifest "${data}/${set}/test.jsonl" --out "${out}"
        ${python} -m speech_jax.evaluate --hypotheses "${out}" --language en --manifest "${data}/${set}/test.jsonl"
    done
done
