"""Hours of synthetic English for pre-training: flite's voices, and Piper's joe, read fortunes and telephone prompts.

    python experiments/real_speech/synthesize.py --out DIR --fortunes ROOT/usr/share/games/fortunes \\
        --held-out queen/{test,dev}.jsonl asterisk/{test,dev}.jsonl --flite-hours 6 \\
        --piper-hours 2.5 --piper-python ENV/bin/python

Needs Debian's flite; Piper lives in an environment of its own (piper_worker.py). Writes DIR/{flite,piper}.jsonl as it
goes and DIR/train.jsonl, both together, at the end of each; resumable. One process; the order of sentences is fixed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import soundfile
from sentences import sentences
from tqdm import tqdm

from speech_jax.audio.io import read_audio
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.data.manifest import read_manifest, write_manifest
from speech_jax.data.recipes.clips import write_flac
from speech_jax.data.utterances import Utterance

RATE = 16_000
SHORTEST, LONGEST = 1.0, 10.0


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fortunes", type=Path, required=True, help="folder of Debian's fortunes")
    parser.add_argument(
        "--held-out", type=Path, nargs="+", required=True, help="manifests whose sentences are not read"
    )
    parser.add_argument("--flite-hours", type=float, default=6.0)
    parser.add_argument("--piper-hours", type=float, default=0.0)
    parser.add_argument("--piper-python", default="python", help="the interpreter that has piper-tts and the voice")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.flite_hours:
        texts = sentences(args.fortunes, args.held_out, prompt_share=0.3, seed=1)
        _speak("flite", texts, args.flite_hours, args.out, _flite)
    if args.piper_hours:
        texts = sentences(args.fortunes, args.held_out, prompt_share=0.3, seed=2)
        command = [args.piper_python, str(Path(__file__).with_name("piper_worker.py"))]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
            _speak("piper", texts, args.piper_hours, args.out, lambda *request: _piper(worker, *request))
            worker.stdin.close()


def _speak(engine: str, texts: list[str], hours: float, out: Path, speak: Callable) -> None:
    """Reads texts in their order until `hours` are there. A file that is there is not made again."""
    utterances, seconds = [], 0.0
    folder = out / engine
    folder.mkdir(exist_ok=True)
    with tqdm(total=round(hours * 3600), desc=engine, unit="s", disable=None) as bar:
        for number, text in enumerate(texts):
            if seconds >= hours * 3600:
                break
            path = folder / f"{engine}-{number:06d}.flac"
            speaker, speed = _manner(engine, number)
            if not path.exists():
                wav = folder / "now.wav"
                wav.unlink(missing_ok=True)
                speak(text, speaker, speed, wav)
                write_flac(path, read_audio(wav, RATE), RATE)
            info = soundfile.info(path)
            length = info.frames / info.samplerate
            if SHORTEST <= length <= LONGEST:
                utterances.append(
                    Utterance(path.stem, str(path), 0.0, None, text, f"{engine}-{speaker}", "synthetic", length)
                )
                seconds += length
                bar.update(round(length))
            if number % 500 == 499:
                _write(out, engine, utterances)
    if seconds < hours * 3600:
        print(f"{engine}: the texts gave only {seconds / 3600:.2f} h")
    _write(out, engine, utterances)


def _write(out: Path, engine: str, utterances: list[Utterance]) -> None:
    write_manifest(out / f"{engine}.jsonl", utterances)
    parts = [read_manifest(p) for p in (out / "flite.jsonl", out / "piper.jsonl") if p.exists()]
    write_manifest(out / "train.jsonl", [u for part in parts for u in part])


def _manner(engine: str, number: int) -> tuple[str, float]:
    """Voice and duration factor of a sentence."""
    generator = random.Random(f"{engine}{number}")
    voice = generator.choice(("rms", "slt", "awb", "slt", "rms")) if engine == "flite" else "joe"
    return voice, round(generator.uniform(0.8, 1.2), 3)


def _flite(text: str, voice: str, speed: float, path: Path) -> None:
    command = ["flite", "-voice", voice, "--setf", f"duration_stretch={speed}", "-t", text, "-o", str(path)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"flite: {error.strerror}, expected the Debian package flite") from error
    if result.returncode or not path.exists():
        raise UserError(f"flite: found {result.stderr.strip()[:80]!r} for {text!r}, expected speech")


def _piper(worker: subprocess.Popen, text: str, voice: str, speed: float, path: Path) -> None:
    worker.stdin.write(json.dumps({"text": text, "path": str(path), "length_scale": speed}) + "\n")
    worker.stdin.flush()
    if worker.stdout.readline() != "done\n":
        raise UserError(f"piper: stopped at {text!r}, expected speech")


if __name__ == "__main__":
    run_front_door(main)
