"""Tables and plot of the vocoder: `python -m experiments.real_vocoder.summary [--runs runs/real_vocoder]`.

For every way to resynthesize the test recordings from their own mel frames: what `evaluate --speech` measured, the mean
distance of the log-mel frames (nats of magnitude, frame by frame, no warping), and the likelihood of the recordings
under each kind of weights of the native step. --runs needs the trained vocoder and the recordings.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from experiments.tables import Row, aggregate, markdown, pick, png, publish, read_json, span

MEASURES = {"mcd": "MCD, dB", "f0_cents": "F0, cents", "f0_correlation": "F0 correlation",
            "voicing_error": "voicing error, %", "stoi": "STOI", "dnsmos": "DNSMOS (proxy)",
            "dnsmos_reference": "DNSMOS of the recordings"}  # fmt: skip
TEST = "data/real_voice/joe/test.jsonl"
FIRST = 44  # clips of which DNSMOS was measured


def collect(runs: Path) -> list[Row]:
    """Aggregate the reports of `run.sh`; compute mel distances and likelihoods."""
    from experiments.real_vocoder.likelihood import CLIPS, mel_distance, nats_a_sample
    from speech_jax.artifacts.vocoder import load_vocoder_parts
    from speech_jax.data.manifest import read_manifest
    from speech_jax.data.recordings import read_recording
    from speech_jax.inference.vocoder import WaveNetVocoder
    from speech_jax.kernels.wavenet import native

    vocoder = WaveNetVocoder(load_vocoder_parts(runs / "joe"), "native")
    audio, recordings = vocoder.audio, {u.id: u for u in read_manifest(TEST)}
    rows: list[Row] = []

    def add(way: str, clips: int, measure: str, mean: float, low: float | str = "", high: float | str = "") -> None:
        rows.append({"way": way, "clips": clips, "measure": measure, "mean": mean, "low": low, "high": high})

    def add_report(way: str, folder: Path, clips: int) -> None:
        for measure, value in read_json(folder / "report.json")["all"].items():
            if measure in MEASURES:
                add(way, clips, measure, *(value[key] for key in ("mean", "low", "high")))

    def wave(utterance):
        return read_recording(utterance, audio.sample_rate)

    for path in sorted((runs / "made").glob("*/manifest.jsonl")):
        way, made = path.parent.name, {u.id: u for u in read_manifest(path)}
        distances = [mel_distance(wave(recordings[key]), wave(row), audio) for key, row in made.items()]
        add(way, len(made), "mel_distance", sum(distances) / len(distances))
        add_report(way, runs / "reports" / way, len(made))
        if (runs / "reports/dnsmos" / way).exists():
            add_report(way, runs / "reports/dnsmos" / way, FIRST)
    nats: dict[str, float] = {}
    for dtype in native.DTYPES:
        pairs = [nats_a_sample(vocoder, wave(u), dtype) for u in list(recordings.values())[:CLIPS]]
        nats[dtype] = sum(total for total, _ in pairs) / sum(size for _, size in pairs)
        add(dtype, len(pairs), "nats", nats[dtype])
        add(dtype, len(pairs), "nats_above_float32", nats[dtype] - nats["float32"])
    return rows


def main() -> None:
    """Make the tables and the plot."""
    from matplotlib.figure import Figure

    rows = aggregate("real_vocoder", __doc__, "runs/real_vocoder", collect)
    ways = sorted({str(row["way"]) for row in pick(rows, measure="mel_distance")})
    three = "{:.3f}".format

    def cells(way: str, clips: float, measures: Iterable[str]) -> list[str]:
        found = {row["measure"]: row for row in pick(rows, way=way, clips=clips)}
        return [span(m["mean"], m["low"], m["high"], form=three) if (m := found.get(k)) else "" for k in measures]

    whole, first = ([k for k in MEASURES if k.startswith("dnsmos") == part] for part in (False, True))
    lines = []
    for way in ways:
        (distance,) = pick(rows, way=way, measure="mel_distance")
        lines.append([way, f"{distance['clips']:.0f}", three(distance["mean"]), *cells(way, distance["clips"], whole)])
    tables = [markdown(["way", "clips", "mel distance", *(MEASURES[k] for k in whole)], lines)]
    first.append("mcd")
    lines = [[way, *cells(way, FIRST, first)] for way in ways if pick(rows, way=way, clips=FIRST)]
    tables.append(markdown([f"way, the first {FIRST} clips", *(MEASURES[k] for k in first)], lines))
    both = zip(pick(rows, measure="nats"), pick(rows, measure="nats_above_float32"), strict=True)
    lines = [[str(nats["way"]), f"{nats['mean']:.4f}", f"{above['mean']:+.4f}"] for nats, above in both]
    tables.append(markdown(["weights", "nats per sample", "more than float32"], lines))

    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 3, sharey=True), ("mcd", "voicing_error", "stoi"), strict=True):
        for way in ways:
            for row in pick(rows, way=way, measure=measure)[:1]:
                bounds = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
                axes.errorbar(row["mean"], way, xerr=bounds, fmt="o", color="#4477aa", capsize=3)
        axes.margins(x=0.15, y=0.15)
        axes.set(xlabel=MEASURES[measure], xlim=(0, None))
        axes.grid(alpha=0.3)
    publish("real_vocoder", tables, {"measures.png": png(figure)})


if __name__ == "__main__":
    main()
