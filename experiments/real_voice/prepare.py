"""Select the experiment's recordings from prepared manifests: one speaker's, trimmed, with a report of what was cut.

    python -m experiments.real_voice.prepare --data data/real --out data/real_voice

Writes {joe,asterisk}/{train,dev,test}.jsonl and {split}.trim.json next to each. The recordings are not copied.
Joe is the speaker of that name in Amazon Queen's manifests; of Asterisk's training part as many clips are kept, in an
order that a checksum of their ids makes, as fit into ten minutes. Texts that the voice's front end does not accept are
named and left out. Run experiments/real_speech/prepare.sh first.
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path

from speech_jax.audio.config import TrimConfig
from speech_jax.audio.trim import cut_report, cut_text
from speech_jax.core.errors import UserError
from speech_jax.core.files import write_file
from speech_jax.data.manifest import read_manifest, write_manifest
from speech_jax.data.preparing import verify
from speech_jax.data.utterances import Utterance
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.frontend import FrontEnd, make_front_end

RATE = 16_000
TRIM = TrimConfig(by="energy", below_peak=40.0, margin=0.05)
SETS = {"joe": ("queen", "joe"), "asterisk": ("asterisk", "asterisk-en")}
MOST = {("asterisk", "train"): 600.0}  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    front_end = make_front_end(FrontEndConfig(units="arpabet"))
    for name, (folder, speaker) in SETS.items():
        for split in ("train", "dev", "test"):
            path = args.out / name / f"{split}.jsonl"
            if path.with_suffix(".trim.json").exists():
                continue
            rows = [u for u in read_manifest(args.data / folder / f"{split}.jsonl") if u.speaker == speaker]
            rows = [u for u in rows if accepts(front_end, u)]
            write_manifest(path, rows)
            problems, cuts = verify(path, RATE, 2, TRIM)
            for line in problems:
                print(f"left out: {line}")
            if (name, split) in MOST:
                write_manifest(path, draw(read_manifest(path), MOST[name, split]))
            report = cut_report(cuts, TRIM)
            print(cut_text(f"{name}/{split}", report))
            kept = read_manifest(path)
            print(f"{name}/{split}: {len(kept)} clips, {sum(u.seconds for u in kept) / 60:.1f} minutes")
            write_file(path.with_suffix(".trim.json"), json.dumps(report, indent=1) + "\n")


def accepts(front_end: FrontEnd, utterance: Utterance) -> bool:
    """Return True if the voice's front end accepts the text; otherwise print the utterance."""
    try:
        front_end.encode(utterance.text, source=utterance.where)
    except UserError as error:
        print(f"left out: {utterance.id}: {error}")
        return False
    return True


def draw(utterances: list[Utterance], seconds: float) -> list[Utterance]:
    """Return as many utterances as fit into `seconds`, drawn by a checksum of their ids, in their original order."""
    kept, total = set(), 0.0
    for utterance in sorted(utterances, key=lambda u: zlib.crc32(u.id.encode())):
        if total + utterance.seconds <= seconds:
            kept.add(utterance.id)
            total += utterance.seconds
    return [u for u in utterances if u.id in kept]


if __name__ == "__main__":
    main()
