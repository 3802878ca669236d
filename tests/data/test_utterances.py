"""Rows in columns are the same as a plain list of rows, whatever is done to them."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_jax.data.utterances import SharedRows, Utterance, Utterances, real_path

TEXT = st.text(st.characters(exclude_categories=[]), max_size=12)  # half surrogate pairs too
NAME = st.sampled_from(
    ["", "amy", "bob", "é", "m.jsonl:3", "m.jsonl:03", "s#17", "x:0", "9", "/", "a/b/", "a//b", "tfds:x/y|z#4"]
)
SECONDS = st.floats(0, 1e6, allow_subnormal=False)
ROWS = st.lists(
    st.builds(
        Utterance,
        id=TEXT,
        audio=NAME | TEXT,
        start=SECONDS,
        end=st.none() | SECONDS,
        text=TEXT,
        speaker=NAME,
        domain=NAME,
        seconds=SECONDS | st.just(math.nan),
        where=NAME | TEXT,
        mel=NAME | TEXT,
        language=st.sampled_from(["", "de", "en"]),
    ),
    max_size=9,
)


def plain(rows):
    """Rows as a list in which NaN equals NaN."""
    return [row._replace(seconds=None if math.isnan(row.seconds) else row.seconds) for row in rows]


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, others=ROWS, data=st.data())
def test_columns_are_a_list(rows, others, data):
    columns = Utterances.of(rows)
    assert len(columns) == len(rows) and plain(columns) == plain(rows)
    assert plain(columns[i] for i in range(-len(rows), len(rows))) == plain(rows + rows)
    bounds = st.none() | st.integers(-10, 10)
    index = slice(data.draw(bounds), data.draw(bounds), data.draw(st.sampled_from([None, 1, 2, -1, -3])))
    assert plain(columns[index]) == plain(rows[index])
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12)) if rows else []
    assert plain(columns.take(np.array(chosen, np.int64))) == plain(rows[i] for i in chosen)
    assert plain(columns + Utterances.of(others)) == plain(columns + others) == plain(rows + others)
    assert plain(rows + columns) == plain(rows + rows)
    assert plain(columns.with_language("d")) == plain(row._replace(language=row.language or "d") for row in rows)
    assert plain(columns.with_domain("d")) == plain(row._replace(domain=row.domain or "d") for row in rows)
    assert columns.speakers.used() == list(dict.fromkeys(row.speaker for row in rows))
    assert (columns == Utterances.of(others)) == (plain(rows) == plain(others))
    assert plain(Utterances.from_arrays(columns.arrays())) == plain(rows)
    assert plain(pickle.loads(pickle.dumps(columns))) == plain(rows)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, first=ROWS, data=st.data())
def test_equality_is_of_content(rows, first, data):
    """However rows were put together, and whatever is left over in the tables."""
    whole = Utterances.of(first + rows)
    cut = len(first)
    same = whole[cut:]
    assert same == Utterances.of(rows) and same.digest() == Utterances.of(rows).digest()
    assert whole[:cut] + whole[cut:] == whole
    if rows:
        row = data.draw(st.integers(0, len(rows) - 1))
        field = data.draw(st.sampled_from(["id", "audio", "text", "speaker", "domain", "where", "mel"]))
        changed = [*rows]
        changed[row] = rows[row]._replace(**{field: getattr(rows[row], field) + "x"})
        assert Utterances.of(changed) != Utterances.of(rows)


def test_segment_hashes_find_equal_stretches():
    rows = [
        Utterance("a", "d/x.wav", 0.0, 2.0),
        Utterance("b", "d/x.wav", 0.0, None),
        Utterance("c", "e/x.wav", 0.0, 2.0),
    ]
    hashes = Utterances.of([*rows, rows[0]._replace(id="d")]).segment_hashes()
    assert hashes[0] == hashes[3] and len(set(hashes.tolist())) == 3


def test_segment_hashes_are_those_of_the_real_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    files = ["d/x.wav", f"{tmp_path}/d/x.wav", "./d//x.wav", "d/../link/x.wav"]
    hashes = Utterances.of(Utterance(f"u{i}", file) for i, file in enumerate(files)).segment_hashes()
    assert len(set(hashes.tolist())) == 1
    others = ["x.wav", "", "cat d/x.wav |", "cat ./d/x.wav |", "d/x.array_record#1", "d/x.array_record#2", "tfds:d/x"]
    rows = Utterances.of(Utterance(f"u{i}", file) for i, file in enumerate([*files[:1], *others]))
    assert len(set(rows.file_hashes.tolist())) == len({real_path(row.audio) for row in rows}) == len(rows)


def test_indexes_of_numpy_and_wrong_ones():
    rows = Utterances.of([Utterance("a", "a.wav"), Utterance("b", "b.wav")])
    assert rows[np.int64(1)].id == "b"
    for index in (2, -3):
        with pytest.raises(IndexError):
            rows[index]
    with pytest.raises(TypeError):
        rows["a"]


def test_damaged_arrays_are_refused():
    good = Utterances.of([Utterance("a", "d/a.wav", text="x", speaker="s")] * 3).arrays()
    wrong = {
        "speakers.codes": np.array([0, 5, 0], np.int32),
        "ids.offsets": np.array([0, 1, 99, 3]),
        "texts.offsets": np.array([0, 2, 1, 3]),
        "seconds": np.zeros(2),
        "starts": np.zeros(3, np.int64),
        "mels.names.data": np.zeros(4, np.uint8),
    }
    for name, array in wrong.items():
        with pytest.raises(ValueError, match=name.rpartition(".")[0] or name):
            Utterances.from_arrays(good | {name: array})
    with pytest.raises(KeyError):
        Utterances.from_arrays({k: v for k, v in good.items() if k != "ends"})


def test_a_pickle_of_shared_rows_is_small(tmp_path):
    rows = Utterances.of(
        [Utterance(f"u{i}", f"wav/{i}.flac", text="good morning " * 9, seconds=1.0) for i in range(5000)]
    )
    shared = SharedRows(rows, tmp_path)
    data = pickle.dumps(shared)
    assert len(data) < 4096 and shared[7] == rows[7]
    assert pickle.loads(data) == rows
    shared.close()
    assert not list(tmp_path.iterdir())
