#!/bin/sh
# All data of the experiment, from Debian packages: 2 minutes, and half an hour for the synthetic voices.
#
#   experiments/real_speech/prepare.sh data/real            (from the repository's root; needs apt and the program flite)
#   PACKAGES=FOLDER PIPER=ENV/bin/python FLITE_HOURS=4.65 PIPER_HOURS=1 experiments/real_speech/prepare.sh data/real
#
# No sentence of either test part, or dev part, is left in any training part, letters only. Asterisk is prepared twice,
# because each set is cleaned of the other's test sentences.
set -eu

data=${1:?usage: prepare.sh DATA_FOLDER}
python=${PYTHON:-python}
here=$(dirname "$0")

recipe() {
    name=$1
    folder=$2
    shift 2
    ${python} -m speech_jax.prepare "${name}" --out "${folder}" ${PACKAGES:+--packages "${PACKAGES}"} "$@"
}

recipe asterisk "${data}/asterisk_plain"
recipe queen "${data}/queen" --exclude "${data}/asterisk_plain/test.jsonl"
recipe asterisk "${data}/asterisk" --exclude "${data}/queen/test.jsonl"

texts="${data}/texts"
if [ ! -d "${texts}/usr/share/games/fortunes" ]; then
    mkdir -p "${texts}"
    if [ -n "${PACKAGES:-}" ]; then
        cp "${PACKAGES}"/fortunes_*.deb "${texts}"
    else
        (cd "${texts}" && apt-get download fortunes)
    fi
    dpkg-deb -x "${texts}"/fortunes_*.deb "${texts}"
fi

# The Piper voice is left out unless PIPER_HOURS says how much, and PIPER which Python has it (see piper_worker.py).
PYTHONPATH=. ${python} "${here}/synthesize.py" --out "${data}/synth" \
    --fortunes "${texts}/usr/share/games/fortunes" \
    --held-out "${data}/queen/test.jsonl" "${data}/queen/dev.jsonl" \
    "${data}/asterisk/test.jsonl" "${data}/asterisk/dev.jsonl" \
    --flite-hours "${FLITE_HOURS:-4.65}" \
    --piper-hours "${PIPER_HOURS:-0}" --piper-python "${PIPER:-python}"
