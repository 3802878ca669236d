"""tensorflow-datasets without TensorFlow: a set of our own, and LibriSpeech under its own name."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")

from speech_jax.core.errors import UserError
from speech_jax.data.config import SourceConfig
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recordings import read_recording
from speech_jax.data.sources import load_source
from speech_jax.data.sources import tfds as tfds_source
from speech_jax.prepare import main


@pytest.fixture(scope="module")
def writable():
    """Writing a set needs a little more of TensorFlow than reading, which is what is tested: stand-ins for it."""
    from tensorflow_datasets.core.features import audio_feature, feature

    with pytest.raises(UserError):  # installs the stand-in that reading needs
        tfds_source._source("there_is_no_such_set", "train", "nowhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature, "tf", SimpleNamespace(dtypes=SimpleNamespace(as_dtype=np.dtype)))
        patch.setattr(audio_feature._LazyDecoder, "encode_audio", lambda self, file, file_format: file.read())
        yield


@pytest.fixture(scope="module")
def toy(tmp_path_factory, writable):
    from tests.data.builders.toy_speech import ToySpeech

    folder = tmp_path_factory.mktemp("tfds")
    ToySpeech(data_dir=folder, file_format="array_record").download_and_prepare(file_format="array_record")
    return folder


def test_reads_text_speaker_length_and_samples(toy):
    from tests.data.builders.toy_speech import samples

    utterances = load_source(SourceConfig(kind="tfds", name="toy_speech", split="train", path=str(toy)))
    assert sorted(u.id for u in utterances) == [f"utt{i}" for i in range(5)]
    for u in utterances:
        i = int(u.id[3:])
        assert (u.text, u.speaker) == (f"héllo {i}", str(i % 2))
        assert u.seconds == pytest.approx((4000 + 100 * i) / 8000)
        np.testing.assert_allclose(read_recording(u, 8000), samples(i) / 32768, atol=1e-7)
        assert abs(len(read_recording(u, 16000)) - 2 * (4000 + 100 * i)) <= 2
    assert "tensorflow" not in sys.modules


def test_a_slice_of_a_split(toy):
    utterances = load_source(SourceConfig(kind="tfds", name="toy_speech", split="train[:2]", path=str(toy)))
    assert len(utterances) == 2


@pytest.mark.parametrize("name,split,found", [("toy_speech", "dev", "no split 'dev'"), ("no_such", "train", "no_such")])
def test_what_is_not_there_is_one_clear_line(toy, name, split, found):
    with pytest.raises(UserError, match=found) as caught:
        load_source(SourceConfig(kind="tfds", name=name, split=split, path=str(toy)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", ["librispeech", "librispeech/lazy_decode"])
def test_librispeech_by_its_own_name(tmp_path, monkeypatch, writable, config):
    """The real builder class, with its features, on two utterances laid out as OpenSLR's tar files unpack."""
    import soundfile
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(3)
    texts = {"1-2-0000": "HELLO THERE", "1-2-0001": "GOOD DAY"}
    audio = {key: rng.integers(-9000, 9000, 16000 + 999 * i).astype(np.int16) for i, key in enumerate(texts)}

    builder = tfds.builder(config, data_dir=tmp_path)
    lazy = "lazy" in config

    def examples():
        for key, samples in audio.items():
            path = tmp_path / f"{key}.flac"
            soundfile.write(path, samples, 16000)
            speech = open(path, "rb") if lazy else samples
            yield key, {"id": key, "speaker_id": 1, "chapter_id": 2, "speech": speech, "text": texts[key]}

    monkeypatch.setattr(type(builder), "_split_generators", lambda self, dl: {"dev_clean": examples()})
    builder = tfds.builder(config, data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(file_format="array_record")
    utterances = load_source(SourceConfig(kind="tfds", name=config, split="dev_clean", path=str(tmp_path)))
    assert {u.id: u.text for u in utterances} == texts
    for u in utterances:
        np.testing.assert_allclose(read_recording(u, 16000), audio[u.id] / 32768, atol=1e-7)


def test_a_fresh_process_needs_only_the_folder(toy):
    """No builder class, no stand-ins of the tests, no TensorFlow: what a worker process has."""
    code = (
        "import sys; from speech_jax.data.config import SourceConfig; from speech_jax.data.sources import load_source;"
        "from speech_jax.data.recordings import read_recording;"
        "us = load_source(SourceConfig(kind='tfds', name='toy_speech', split='test', path=sys.argv[1]));"
        "print(len(us), sum(len(read_recording(u, 8000)) for u in us), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(toy)], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["2", "8100", "False"], done.stderr[-2000:]


def test_the_recipe_makes_manifests_and_shards(toy, tmp_path):
    main(["tfds", "--source", str(toy), "--name", "toy_speech", "--out", str(tmp_path), "--splits", "train", "test",
          "--shards", "2"])  # fmt: skip
    for split, count in (("train", 5), ("test", 2)):
        direct, sharded = (read_manifest(tmp_path / f"{split}{end}.jsonl") for end in ("", ".sharded"))
        assert {u.id: u.text for u in direct} == {u.id: u.text for u in sharded} and len(direct) == count
        by_id = {u.id: u for u in sharded}
        for u in direct:
            np.testing.assert_allclose(read_recording(u, 16000), read_recording(by_id[u.id], 16000), atol=1e-4)


def test_a_set_without_a_sample_rate_asks_for_it(toy, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(toy / "toy_speech", data / "rateless")  # another name, so that no class is used
    for path in list((data / "rateless" / "1.0.0").iterdir()):
        if path.suffix == ".json":
            path.write_text(path.read_text().replace("toy_speech", "rateless"))
        path.rename(path.with_name(path.name.replace("toy_speech", "rateless")))
    (features,) = data.rglob("features.json")
    description = json.loads(features.read_text())
    audio = description["featuresDict"]["features"]["speech"]["audio"]
    assert audio.pop("sampleRate") == "8000"
    features.write_text(json.dumps(description))
    argv = ["tfds", "--source", str(data), "--name", "rateless", "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="without a sample rate, expected --audio-rate"):
        main(argv)
    assert main([*argv, "--audio-rate", "8000"]) == 0
    rows = read_manifest(tmp_path / "out" / "train.jsonl")
    assert sorted(u.seconds for u in rows) == pytest.approx([(4000 + 100 * i) / 8000 for i in range(5)])
    source = SourceConfig(kind="tfds", name="rateless@8000", split="train", path=str(data))
    assert {u.id: u.seconds for u in load_source(source)} == pytest.approx({u.id: u.seconds for u in rows})
    with pytest.raises(UserError, match="sample rate '8k'"):
        load_source(SourceConfig(kind="tfds", name="rateless@8k", split="train", path=str(data)))
