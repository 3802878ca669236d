"""Plots of Tacotron 2 outputs: attention weights, mel frames, stop probability.

Each plot is an image [height, width, 3] of bytes with axes and color bars, for TensorBoard and PNG files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from speech_jax.evaluation.speech_plots import make_figure

_MAX_NAMES = 80  # most symbols that are written beside an alignment
Picture = UInt8[np.ndarray, "height width 3"]


def alignment_picture(weights: Float[np.ndarray, "steps symbols"], names: Sequence[str], title: str) -> Picture:
    """Plot attention weights over decoder steps.

    Args:
        weights: attention weights, 0 to 1.
        names: names of the symbols, shown where there are at most 80; may be empty.
        title: title of the plot.
    """
    symbols = weights.shape[1]
    figure = make_figure(9.0, min(max(3.0, 0.11 * symbols), 9.0))
    axes = figure.subplots()
    drawn = axes.imshow(weights.T, origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(drawn, ax=axes, label="weight")
    axes.set(xlabel="decoder step", ylabel="symbol")
    axes.set_title(title, fontsize=9)
    if len(names) == symbols <= _MAX_NAMES:
        axes.set_yticks(range(symbols), [name.lstrip("@") if len(name) > 1 else name for name in names], fontsize=6)
    return _pixels(figure)


def mel_picture(panels: Sequence[tuple[str, Float[np.ndarray, "frames mels"]]], hop_seconds: float) -> Picture:
    """Plot (title, log-mel frames) panels one above the other, with common color and time scales."""
    figure = make_figure(9.0, 2.4 * len(panels))
    low = min(float(np.nanmin(mel)) for _, mel in panels if mel.size)
    high = max(float(np.nanmax(mel)) for _, mel in panels if mel.size)
    for axes, (title, mel) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        drawn = axes.imshow(mel.T, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high,
                            extent=(0, len(mel) * hop_seconds, 0, mel.shape[1]))  # fmt: skip
        figure.colorbar(drawn, ax=axes, label="log energy")
        axes.set(xlabel="s", ylabel="mel band")
        axes.set_title(title, fontsize=9)
    return _pixels(figure)


def stop_picture(probability: Float[np.ndarray, " frames"], hop_seconds: float, threshold: float) -> Picture:
    """Plot the stop probability per frame; it should be 1 at the last frame only.

    Args:
        probability: stop probability, 0 to 1.
        hop_seconds: duration of a frame in seconds.
        threshold: probability above which a frame is the last one.
    """
    figure = make_figure(9.0, 2.2)
    axes = figure.subplots()
    seconds = np.arange(len(probability)) * hop_seconds
    axes.plot(seconds, probability, color="#4477aa", lw=1.5)
    axes.axhline(threshold, color="#888888", lw=0.8, ls="--")
    if len(seconds):
        axes.axvline(seconds[-1], color="#228833", lw=0.8)
    axes.set(xlabel="s", ylabel="probability of the end", ylim=(-0.02, 1.02))
    axes.set_title("stop token; the last frame in green, the threshold dashed", fontsize=9)
    return _pixels(figure)


def _pixels(figure) -> Picture:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
