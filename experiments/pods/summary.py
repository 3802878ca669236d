"""The table of experiments/pods: `python -m experiments.pods.summary RESULTS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

GIB = 2**30


def main(results: str) -> None:
    print("| row | chips | batch | GiB a chip | collectives, MB | roofline ms | model FLOPs of peak | compiled |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for path in sorted(Path(results).glob("*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        chips = f"{facts['slices']} × {facts['topology']} ({facts['chips']})"
        rows, samples, _ = (
            facts["buckets"][-1] if isinstance(facts["buckets"][-1], list) else facts["buckets"][-1]["task"]
        )
        of = f"of {facts['chip_bytes'] / GIB:.0f}"
        if "allocations" in facts:
            print(f"| {path.stem} | {chips} | {rows} | more than {of[3:]} | | | | |")
            continue
        wire = sum(kind["bytes"] for p in facts["programs"] for kind in p["collectives"].values())
        share, took = f"{100 * facts['utilization']:.1f} %", f"{facts['compile_seconds']:.0f} s"
        print(
            f"| {path.stem} | {chips} | {rows} | {facts['bytes_per_chip'] / GIB:.1f} {of} | {wire / 1e6:.0f} | "
            f"{1e3 * facts['step_seconds']:.1f} | {share} | {took} |"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
