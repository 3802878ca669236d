"""Score random pairs with NIST's sclite (Debian's sctk) for tests/evaluation/test_wer.py.

    python experiments/parity/sclite.py --out tests/evaluation/sclite_1000.json.gz

Half of the pairs are noisy copies of each other, as recognition makes them; half are unrelated, so that sclite's costs
(substitution 4, insertion and deletion 3) and its choice between equal alignments show.
"""

import argparse
import gzip
import json
import random
import re
import subprocess
import tempfile
from pathlib import Path


def pairs(number: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    found = []
    for i in range(number):
        vocabulary = [f"w{n}" for n in range(draw.choice((3, 8, 40, 200)))]
        reference = draw.choices(vocabulary, k=draw.randint(1, 40))
        if i % 2:
            hypothesis = draw.choices(vocabulary, k=draw.randint(0, 40))
        else:
            hypothesis = []
            for word in reference:
                kind = draw.random()
                hypothesis += [] if kind < 0.1 else [draw.choice(vocabulary)] if kind < 0.3 else [word]
                hypothesis += [draw.choice(vocabulary)] if draw.random() < 0.1 else []
        found.append((" ".join(reference), " ".join(hypothesis)))
    return found


def sclite(texts: list[tuple[str, str]]) -> list[tuple[int, int, int]]:
    """(substitutions, deletions, insertions) of each pair."""
    with tempfile.TemporaryDirectory() as folder:
        for name, side in (("ref", 0), ("hyp", 1)):
            lines = [f"{pair[side]} (s_{i:05d})\n" for i, pair in enumerate(texts)]
            Path(folder, name).write_text("".join(lines))
        command = ["sctk", "sclite", "-r", f"{folder}/ref", "trn", "-h", f"{folder}/hyp", "trn", "-i", "spu_id"]
        subprocess.run([*command, "-s", "-o", "pralign", "-O", folder], check=True, capture_output=True)
        report = Path(folder, "hyp.pra").read_text()
    pattern = r"id: \(s[_-](\d+)\)\nScores: \(#C #S #D #I\) \d+ (\d+) (\d+) (\d+)"
    found = {int(m[0]): (int(m[1]), int(m[2]), int(m[3])) for m in re.findall(pattern, report)}
    return [found[i] for i in range(len(texts))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=1000)
    arguments = parser.parse_args()
    texts = pairs(arguments.number, arguments.seed)
    rows = [
        {"reference": r, "hypothesis": h, "sdi": counts} for (r, h), counts in zip(texts, sclite(texts), strict=True)
    ]
    content = json.dumps({"tool": "sclite 2.10, -s", "seed": arguments.seed, "pairs": rows})
    arguments.out.write_bytes(gzip.compress(content.encode(), mtime=0))
    print(f"{len(rows)} pairs, {sum(map(sum, (row['sdi'] for row in rows)))} errors")


if __name__ == "__main__":
    main()
