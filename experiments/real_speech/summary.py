"""Mean and spread over the seeds: `python -m experiments.real_speech.summary RESULTS` prints a Markdown table."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path


def rates(results: Path, name: str) -> dict[str, float]:
    """Test set -> word error rate in %."""
    report = json.loads((results / name / "report.json").read_text(encoding="utf-8"))
    return {part.split("/")[0]: 100 * value["wer"] for part, value in report["set"].items()}


def main(folder: str) -> None:
    results = Path(folder)
    groups = {"after the first part of the pre-training": ["pretrain"], "before fine-tuning": ["pretrain_longer"]}
    for path in sorted(results.glob("alpha_*_seed_?")):
        weight = re.fullmatch(r"alpha_(.+)_seed_.", path.name)[1]
        groups.setdefault(f"α = {float(weight):g}", []).append(path.name)
    print("| WER % | Queen, best path | Asterisk, best path | Queen, LM | Asterisk, LM |")
    print("|---|---:|---:|---:|---:|")
    for group, names in groups.items():
        cells = []
        for ending in ("", "_lm"):
            found = [rates(results, name + ending) for name in names]
            for part in ("queen", "asterisk"):
                values = [rate[part] for rate in found]
                spread = f" ({min(values):.2f}–{max(values):.2f})" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.2f}{spread}")
        print(f"| {group}{f', {len(names)} seeds' if len(names) > 1 else ''} | {' | '.join(cells)} |")
    for peer in ("pocketsphinx", "whisper-tiny.en"):
        found = rates(results, peer)
        print(f"| {peer} | {found['queen']:.2f} | {found['asterisk']:.2f} | | |")


if __name__ == "__main__":
    main(*sys.argv[1:])
