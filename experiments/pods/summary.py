"""Table and plot of the compiled programs: `python -m experiments.pods.summary [--runs runs/pods]`."""

from __future__ import annotations

from pathlib import Path

from experiments.tables import Row, aggregate, markdown, png, publish, read_json

GIB = 2**30


def collect(runs: Path) -> list[Row]:
    """Aggregate the JSON files that `python -m speech_jax.compile --out` wrote."""
    rows: list[Row] = []
    for path in sorted(runs.glob("*.json")):
        facts = read_json(path)
        bucket = facts["buckets"][-1]
        row = {key: facts[key] for key in ("slices", "topology", "chips")}
        row |= {"batch": (bucket if isinstance(bucket, list) else bucket["task"])[0]}
        row |= {"chip_gib": facts["chip_bytes"] / GIB, "gib": "", "collective_mb": "", "step_ms": ""}
        row |= {"utilization": "", "compile_seconds": ""}
        if "allocations" not in facts:  # it fits
            wire = sum(kind["bytes"] for program in facts["programs"] for kind in program["collectives"].values())
            row |= {"gib": facts["bytes_per_chip"] / GIB, "collective_mb": wire / 1e6}
            row |= {"step_ms": 1e3 * facts["step_seconds"], "utilization": 100 * facts["utilization"]}
            row |= {"compile_seconds": facts["compile_seconds"]}
        rows.append({"row": path.stem, **row})
    return rows


def main() -> None:
    """Make the table and the plot."""
    from matplotlib.figure import Figure

    rows = aggregate("pods", __doc__, "runs/pods", collect)
    lines = []
    for row in rows:
        chips = f"{row['slices']:.0f} × {row['topology']} ({row['chips']:.0f})"
        memory = f"{row['chip_gib']:.0f}"
        if row["gib"] == "":
            cells = [f"more than {memory}", "", "", "", ""]
        else:
            cells = [f"{row['gib']:.1f} of {memory}", f"{row['collective_mb']:.0f}", f"{row['step_ms']:.1f}",
                     f"{row['utilization']:.1f} %", f"{row['compile_seconds']:.0f} s"]  # fmt: skip
        lines.append([str(row["row"]), chips, f"{row['batch']:.0f}", *cells])
    header = ["row", "chips", "batch", "GiB per chip", "collectives, MB", "roofline ms", "model FLOPs of peak"]
    table = markdown([*header, "compiled"], lines, left=2)

    fitting = [row for row in rows if row["gib"] != ""]
    figure = Figure(figsize=(7, 0.6 + 0.27 * len(fitting)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([str(row["row"]) for row in fitting], [row["utilization"] for row in fitting], color="#4477aa")
    axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    axes.axvline(50, color="0.5", ls="--", lw=0.8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 65), xlabel="model FLOPs of the chips' peak, %, by the roofline (goal: 50)")
    publish("pods", [table], {"utilization.png": png(figure)})


if __name__ == "__main__":
    main()
