"""Parquet sets of Hugging Face's datasets in `prepare folder`: recordings inside of the files, and beside them."""

import numpy as np
import pytest
import soundfile

from speech_jax.core.errors import UserError
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recordings import read_recording
from speech_jax.prepare import main

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RATE = 16000


@pytest.fixture(name="waves")
def make_waves(tmp_path):
    """Return the samples of two recordings by name; they lie in tmp_path/w."""
    (tmp_path / "w").mkdir()
    waves = {name: np.random.default_rng(i).uniform(-0.5, 0.5, RATE).astype(np.float32) for i, name in enumerate("ab")}
    for name, samples in waves.items():
        soundfile.write(tmp_path / "w" / f"{name}.flac", samples, RATE)
    return waves


def inside(tmp_path, name, path=None):
    return {"bytes": (tmp_path / "w" / f"{name}.flac").read_bytes(), "path": path}


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def prepare(source, out, *more):
    assert main(["folder", "--source", str(source), "--out", str(out), *more]) == 0
    return read_manifest(out / "train.jsonl")


def test_the_shards_of_a_set_are_read_by_one_of_them(tmp_path, waves, caplog):
    for number, name in enumerate(waves):
        shard = write(
            tmp_path / f"train.100-0000{number}-of-00002.parquet", file=[f"/gone/{name}.flac"],
            audio=[inside(tmp_path, name, f"{name}.flac")], text=[name], speaker_id=[7], chapter_id=[1],
        )  # fmt: skip
    rows = prepare(shard, tmp_path / "out")
    assert [(u.id, u.text, u.speaker) for u in rows] == [("train.100-000000", "a", "7"), ("train.100-000001", "b", "7")]
    assert {u.audio.rpartition("/")[0] for u in rows} == {str(tmp_path / "out" / "audio")}
    for row, samples in zip(rows, waves.values(), strict=True):
        np.testing.assert_allclose(read_recording(row, RATE), samples, atol=1e-4)
    assert "read as a Parquet set, 2 rows; fields that nothing reads: chapter_id" in caplog.text
    shard.unlink()
    with pytest.raises(UserError, match="found 1 files train.100-…, expected 2"):
        prepare(tmp_path, tmp_path / "other")


def test_rows_in_another_order_are_measured_again(tmp_path, waves, capsys):
    soundfile.write(tmp_path / "w" / "b.flac", waves["b"][: RATE // 2], RATE)
    audio = [inside(tmp_path, name) for name in waves]
    write(tmp_path / "s.parquet", audio=audio, text=["x", "y"])
    assert [u.seconds for u in prepare(tmp_path / "s.parquet", tmp_path / "out")] == [1.0, 0.5]
    write(tmp_path / "s.parquet", audio=audio[::-1], text=["y", "x"])
    assert [u.seconds for u in prepare(tmp_path / "s.parquet", tmp_path / "out")] == [0.5, 1.0]
    assert "s.parquet has changed since the recipe ran here" in capsys.readouterr().out


def test_times_of_the_recording_that_a_row_was_cut_from_are_not_those_in_it(tmp_path, waves, caplog):
    audio = [inside(tmp_path, name) for name in waves]
    source = write(
        tmp_path / "s.parquet", audio=audio, transcript=["x", "y"], begin_time=[100.0, 0.25], end_time=[101.0, 0.75]
    )
    rows = prepare(source, tmp_path / "out")
    assert [(u.start, u.end, u.seconds) for u in rows] == [(0.0, None, 1.0), (0.25, 0.75, 0.5)]
    assert "the times of 1 rows are as long as their recordings, which are taken whole" in caplog.text


def test_recordings_beside_a_parquet_file_and_rows_that_are_wrong(tmp_path, waves, capsys):
    names, sentences = ["w/a.flac", "w/b.flac", None, "w/c.flac"], ["x", None, "y", "z"]
    source = write(tmp_path / "metadata.parquet", file_name=names, sentence=sentences)
    (row,) = prepare(tmp_path, tmp_path / "out")
    assert (row.text, row.audio) == ("x", str(tmp_path / "out" / "../w/a.flac"))
    printed = capsys.readouterr().out
    for expected in ("parquet:2: found sentence = None", "parquet:3: found no recording", "c.flac: no such file"):
        assert expected in printed
    assert "3 recordings left out" in printed
    with pytest.raises(UserError, match="found a Parquet file, expected a list; `prepare folder` reads it"):
        read_manifest(source)


def test_several_sets_and_files_that_are_none_are_one_line(tmp_path):
    for name in ("train", "test"):
        write(tmp_path / f"{name}-00000-of-00001.parquet", audio=[b""], text=[""])
    with pytest.raises(UserError, match="found the Parquet sets test, train, expected one"):
        prepare(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"found columns \['clip', 'text'\], expected one of audio"):
        prepare(write(tmp_path / "x.parquet", clip=["a.flac"], text=[""]), tmp_path / "out")
    (tmp_path / "y.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="y.parquet: found no Parquet file that can be read"):
        prepare(tmp_path / "y.parquet", tmp_path / "out")
