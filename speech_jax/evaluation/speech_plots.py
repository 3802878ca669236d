"""Plots of a synthesized recording and its reference, and of the distribution of each measure."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from speech_jax.evaluation.cepstra import HOP_SECONDS, RANGE_DB
from speech_jax.evaluation.measures import MEASURES, Analysis
from speech_jax.evaluation.speech_report import SpeechEvaluation

_REFERENCE, _OTHER = "#4477aa", "#ee6677"  # Paul Tol's color-blind-safe palette


def pair_picture(reference: Analysis, other: Analysis, path: Int[np.ndarray, "steps 2"]) -> bytes:
    """Return a PNG with both log-mel spectrograms on one scale, both F0 tracks along the DTW path, and the path.

    Args:
        reference: analysis of the reference recording.
        other: analysis of the synthesized recording.
        path: as `measures.dtw_path` returns it.
    """
    figure = make_figure(11.0, 5.2)
    (left, right), (pitch, warping) = figure.subplots(2, 2, gridspec_kw={"height_ratios": (1.3, 1)})
    for axes, analysis, title in ((left, reference, "reference"), (right, other, "synthesized")):
        decibel = 10 / np.log(10) * (analysis.log_mel - analysis.log_mel.max()).T
        seconds = len(analysis.log_mel) * HOP_SECONDS
        axes.imshow(decibel, origin="lower", aspect="auto", cmap="magma", vmin=-RANGE_DB, vmax=0,
                    extent=(0, seconds, 0, decibel.shape[0]))  # fmt: skip
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("s", fontsize=8)
        axes.set_ylabel("mel band", fontsize=8)
    steps = np.arange(len(path)) * HOP_SECONDS
    for f0, label, color in (
        (reference.f0[path[:, 0]], "reference", _REFERENCE),
        (other.f0[path[:, 1]], "synthesized", _OTHER),
    ):
        pitch.plot(steps, np.where(f0 > 0, f0, np.nan), color=color, label=label, lw=1.5)
    pitch.set_title("F0 along the DTW path, Hz", fontsize=9)
    pitch.legend(frameon=False, fontsize=8)
    warping.plot(path[:, 0] * HOP_SECONDS, path[:, 1] * HOP_SECONDS, color="#228833", lw=1)
    warping.set_title("DTW path, s", fontsize=9)
    warping.set_xlabel("reference", fontsize=8)
    warping.set_ylabel("synthesized", fontsize=8)
    for axes in (left, right, pitch, warping):
        axes.tick_params(labelsize=7)
    return _png(figure)


def distributions(evaluation: SpeechEvaluation) -> bytes:
    """Return a PNG with a histogram of each measure over the utterances."""
    names = evaluation.measured()
    columns = 4
    rows = -(-len(names) // columns)
    figure = make_figure(11.0, 0.4 + 1.9 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axes, name in zip(panels, names, strict=False):
        values = [item.value(name) for item in evaluation.items]
        finite = _finite(values)
        spread = float(np.ptp(finite)) if len(finite) else 0.0
        scale = float(np.max(np.abs(finite), initial=1.0))
        axes.hist(finite, bins=20 if spread > 1e-6 * scale else 1, color=_REFERENCE)  # equal values: no room for 20
        axes.set_title(MEASURES[name].label.replace(" (", "\n("), fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    return _png(figure)


def _finite(values: Sequence[float]) -> np.ndarray:
    return np.array([value for value in values if np.isfinite(value)])


def make_figure(width: float, height: float):
    """Return a figure of the given size in inches that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure) -> bytes:
    """Return a PNG of 128 colors: a third of the size, which matters with twenty of them in one page."""
    from PIL import Image

    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    buffer = io.BytesIO()
    image.quantize(128).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
