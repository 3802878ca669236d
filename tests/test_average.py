"""Averaging two checkpoints: the line between them, a changed vocabulary, and the front door on real checkpoints."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from speech_jax import average as front_door
from speech_jax.artifacts.recognizer import load_recognizer_parts, save_recognizer
from speech_jax.core.errors import UserError
from speech_jax.evaluation.pareto import Point, pareto_front, pareto_table, plot_pareto
from speech_jax.finetuning.average import convert_vocabulary, interpolate
from speech_jax.interop.nemo import read_nemo

GOLDEN = Path(__file__).parent / "interop" / "golden"


def tree(seed):
    rng = np.random.default_rng(seed)
    return {"encoder": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)},
            "head": {"kernel": rng.normal(size=(4, 3)).astype(np.float32)}}  # fmt: skip


def test_the_ends_are_the_trees_themselves_and_between_lies_the_line():
    a, b = tree(0), tree(1)
    for ratio, expected in ((0, a), (1, b)):
        jax.tree.map(np.testing.assert_array_equal, interpolate(a, b, ratio), expected)
    quarter = interpolate(a, b, 0.25)
    jax.tree.map(lambda q, x, y: np.testing.assert_allclose(q, 0.75 * x + 0.25 * y, rtol=1e-6), quarter, a, b)
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="expected 0 to 1"):
            interpolate(a, b, ratio)
    with pytest.raises(UserError, match="another model"):
        interpolate(a, {**b, "head": {"kernel": b["head"]["kernel"][:, :2]}}, 0.5)


def test_the_head_follows_its_tokens():
    a, b = tree(0), tree(1)
    moved = convert_vocabulary(a, b, ("-", "x", "y"), ("-", "y", "z"))
    np.testing.assert_array_equal(moved["head"]["kernel"][:, :2], a["head"]["kernel"][:, [0, 2]])
    np.testing.assert_array_equal(moved["head"]["kernel"][:, 2], b["head"]["kernel"][:, 2])
    np.testing.assert_array_equal(moved["encoder"]["kernel"], a["encoder"]["kernel"])


POINTS = [Point("0.1", "alpha", 0.10, 0.30), Point("0.1", "alpha", 0.12, 0.28), Point("0", "plain", 0.50, 0.27),
          Point("worse", "plain", 0.51, 0.27), Point("bad", "l2", 0.2, 0.4)]  # fmt: skip


def test_the_front_is_what_nothing_beats():
    assert [p.old for p in pareto_front(POINTS)] == [0.10, 0.12, 0.50]
    twins = [Point("alpha=0", "", 0.1, 0.2), Point("alpha=0.3", "", 0.1, 0.2)]  # neither beats the other
    assert pareto_front(twins) == twins
    table = pareto_table(POINTS, old="queen", new="asterisk")
    assert "11.00 ± 1.41 (10.00–12.00)" in table and "29.00 ± 1.41 (28.00–30.00)" in table
    starred = [line for line in table.splitlines() if line.rstrip().rstrip("|").rstrip().endswith("*")]
    assert len(starred) == 2
    assert plot_pareto(POINTS, before=0.1).startswith(b"\x89PNG")


def test_pareto_plot_of_many_long_names(monkeypatch):
    """The legend is below the axes; names that are long or would overlap are numbers with a line in the legend."""
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    plot_pareto([Point(f"r{n}", "a", n / 10, 1 - n / 10) for n in range(4)])
    plot_pareto([Point(f"a model with quite a long name {n}", f"$m_{n}", n / 10, 1 - n / 10) for n in range(12)])
    plot_pareto([Point(f"model {n}", "a", n / 1000, 1 - n / 1000) for n in range(9)] + [Point("far", "a", 1.0, 0.0)])
    shown = [[text.get_text() for text in figure.axes[0].texts] for figure in figures]
    assert shown == [["r0", "r1", "r2", "r3"], [str(n) for n in range(1, 13)], [str(n) for n in range(1, 11)]]
    (legend,) = figures[1].legends
    entries = [text.get_text() for text in legend.get_texts()]
    assert entries[11:14] == ["\\$m_11", "Pareto front", "1: a model with quite a long name 0"]
    for figure in figures:
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert not box.overlaps(figure.axes[0].get_tightbbox()) and figure.bbox.contains(*box.min)
    assert "In the plot, model 1 is שלום." in pareto_table([Point("שלום", "m", 0.1, 0.2)])


def test_the_legend_explains_every_mark(monkeypatch):
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    plot_pareto(POINTS, before=0.1, intermediate=POINTS)
    plot_pareto(POINTS[-1:])
    entries = [[text.get_text() for text in figure.legends[0].get_texts()] for figure in figures]
    marks = ["single runs; bars: one standard deviation", "earlier evaluations", "Pareto front", "before"]
    assert entries == [["alpha", "plain", "l2", *marks], ["l2"]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A converted checkpoint, the same moved a little, and two manifests of noise."""
    folder = tmp_path_factory.mktemp("runs")
    parts = read_nemo(GOLDEN / "fastconformer.nemo").parts
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda a: (a + 0.2 * rng.normal(size=a.shape)).astype(np.float32), parts.params)
    save_recognizer(folder / "start", parts)
    save_recognizer(folder / "end", parts._replace(params=moved))
    for name in ("old", "new"):
        rows = []
        for i in range(3):
            soundfile.write(folder / f"{name}{i}.wav", 0.1 * rng.normal(size=16000), 16000)
            rows.append({"id": f"{name}{i}", "audio": f"{name}{i}.wav", "text": "a b", "seconds": 1.0})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_front_door(runs, tmp_path, capsys):
    arguments = ["--start", str(runs / "start"), "--end", str(runs / "end"), "--out", str(tmp_path)]
    manifests = ["--manifest", str(runs / "old.jsonl"), str(runs / "new.jsonl")]
    assert front_door.main([*arguments, *manifests, "--ratio", "0", "0.5", "1", "--keep", "0.5"]) == 0
    assert "ratio 0.5" in capsys.readouterr().out
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "pareto.json").read_text())) == 3
    start, end, kept = (load_recognizer_parts(p) for p in (runs / "start", runs / "end", tmp_path / "model"))
    expected = interpolate(start.params, end.params, 0.5)
    jax.tree.map(np.testing.assert_array_equal, kept.params, expected)


def test_bad_input(runs, tmp_path):
    arguments = ["--start", str(runs / "start"), "--end", str(runs / "end"), "--out", str(tmp_path)]
    with pytest.raises(UserError, match="expected something to do"):
        front_door.main(arguments)
    save_recognizer(tmp_path / "other", read_nemo(GOLDEN / "conformer.nemo").parts)
    arguments[3] = str(tmp_path / "other")
    found = r"--start and --end: found task.model.\w+: .+ and .+, expected the same network"
    with pytest.raises(UserError, match=found):
        front_door.main([*arguments, "--keep", "0.5"])
