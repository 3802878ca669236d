"""Recordings are decoded to their end, whatever their header says; what disagrees is named."""

import io
import os
import re

import numpy as np
import pytest
import soundfile

from speech_jax.audio.folders import describe_others, list_recordings
from speech_jax.audio.io import decode, probe, read_audio
from speech_jax.core.errors import UserError
from tests.support.sounds import FORMATS, encode, mutate, signal

RATE = 16_000


def wav(samples: np.ndarray, length: int | None = None, **options) -> bytes:
    """WAV bytes whose header states another length of the samples."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", **options)
    data = bytearray(buffer.getvalue())
    if length is not None:
        at = data.index(b"data") + 4
        data[at : at + 4] = length.to_bytes(4, "little")
    return bytes(data)


def mp3(seconds: float, *, header: bool = True, bit_rate: int = 64_000) -> bytes:
    """MP3 bytes, with a Xing or Info frame or without one."""
    return encode(signal(seconds, RATE), RATE, "mp3", "mp3", {} if header else {"write_xing": "0"}, bit_rate)


def sound(kind: str, subtype: str, seconds: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, signal(seconds, RATE), RATE, format=kind, subtype=subtype)
    return buffer.getvalue()


def seconds_and_kinds(data: bytes, folder) -> tuple[float, set[str]]:
    """Decode a file and the same bytes, and check that both and the probe agree."""
    path = folder / "x"
    path.write_bytes(data)
    recording = decode(path, RATE)
    np.testing.assert_array_equal(decode(io.BytesIO(data), RATE).samples, recording.samples)
    seconds = len(recording.samples) / RATE
    assert probe(path).seconds == pytest.approx(seconds, abs=0.12)
    return seconds, {finding.kind for finding in recording.findings}


@pytest.mark.parametrize(
    "length,kinds",
    [
        (0, {"length"}), (0xFFFFFFFF, set()), (0x7FFFFFF0, set()), (32_000 + 16, {"length"}), (32_000 + 44, {"length"}),
        (16_000, {"length"}), (32_000 - 10, {"length"}),
    ],
)  # fmt: skip
def test_a_wav_of_a_wrong_length_is_read_to_its_end(tmp_path, length, kinds):
    samples = signal(1.0, RATE)
    data = wav(samples, length)
    assert seconds_and_kinds(data, tmp_path) == (1.0, kinds)
    np.testing.assert_allclose(read_audio(tmp_path / "x", RATE), samples, atol=1e-4)


def test_chunks_and_tags_after_the_samples_are_no_samples(tmp_path):
    chunk = b"LIST" + (10).to_bytes(4, "little") + b"INFOISFT\0\0"
    tag = b"ID3\x03" + bytes(5) + bytes([22]) + b"TIT2\0\0\0\x0b\0\0\0hello there"
    for tail in (chunk, chunk + b"TAG" + bytes(125), bytes(64), tag, tag + chunk):
        assert seconds_and_kinds(wav(signal(1.0, RATE)) + tail, tmp_path) == (1.0, set())


JOINED = {
    "mp3": mp3(1.0) + mp3(1.5),
    "mp3 without a header": mp3(1.0, header=False) + mp3(1.5, header=False),
    "vorbis": sound("OGG", "VORBIS") + sound("OGG", "VORBIS", 1.5),
    "opus": sound("OGG", "OPUS") + sound("OGG", "OPUS", 1.5),
    "flac": sound("FLAC", "PCM_16") + sound("FLAC", "PCM_16", 1.5),
    "wav": wav(signal(1.0, RATE)) + wav(signal(1.5, RATE)),
    "wav and mp3": wav(signal(1.0, RATE)) + mp3(1.5),
    "wav and flac": wav(signal(1.0, RATE)) + sound("FLAC", "PCM_16", 1.5),
    "aiff": sound("AIFF", "PCM_16") + sound("AIFF", "PCM_16", 1.5),
}


@pytest.mark.parametrize("name", JOINED)
def test_recordings_joined_byte_by_byte_are_read_one_after_the_other(tmp_path, name):
    seconds, kinds = seconds_and_kinds(JOINED[name], tmp_path)
    assert seconds == pytest.approx(2.5, abs=0.2)  # encoders pad
    assert kinds == (set() if "without" in name else {"length"})


def test_joined_recordings_whose_header_has_no_length_promise_none():
    amr = encode(signal(1.0, 8000), 8000, "amr", "libopencore_amrnb", {}, 12_200)
    (finding,) = decode(io.BytesIO(2 * amr), 8000).findings
    assert re.fullmatch(r"it holds 2 recordings, 2\.0\d\d s", finding.text)


@pytest.mark.parametrize("first,kind", [("FLAC", "length"), ("OGG", "damaged")])
def test_a_recording_of_another_format_behind_is_named(tmp_path, first, kind):
    data = sound(first, "PCM_16" if first == "FLAC" else "OPUS")
    assert seconds_and_kinds(data + mp3(1.5), tmp_path) == (1.0, {kind})
    assert seconds_and_kinds(data + b"TAG" + bytes(125), tmp_path) == (1.0, set())


def test_an_m4a_with_a_wav_behind_is_named(tmp_path):
    data = encode(signal(1.0, RATE), RATE, "ipod", "aac", {})
    assert seconds_and_kinds(data, tmp_path)[1] == set()
    assert seconds_and_kinds(data + wav(signal(1.5, RATE)), tmp_path)[1] == {"length"}


@pytest.mark.parametrize(
    "kind,codec,options",
    [
        ("asf", "pcm_s16le", {}), ("avi", "pcm_s16le", {}), ("caf", "pcm_s16le", {}), ("aiff", "pcm_s16be", {}),
        ("wav", "pcm_s16le", {"rf64": "always"}), ("flac", "flac", {}), ("matroska", "pcm_s16le", {}),
    ],
)  # fmt: skip
def test_a_file_written_to_a_pipe_states_no_length(tmp_path, kind, codec, options):
    """The program could not go back to write it: nothing is wrong with such a file."""
    data = encode(signal(1.0, RATE), RATE, kind, codec, options, pipe=True)
    assert seconds_and_kinds(data, tmp_path) == (1.0, set())


def test_an_mp3_whose_first_frames_are_of_another_bit_rate_is_read_to_its_end(tmp_path):
    """Without a header the length is guessed by the first frame's bit rate."""
    for parts in ((320_000, 8_000), (8_000, 160_000)):
        data = b"".join(mp3(1.0, header=False, bit_rate=rate) for rate in parts)
        seconds, _ = seconds_and_kinds(data, tmp_path)
        assert seconds == pytest.approx(2.0, abs=0.2)


def test_an_info_frame_that_promises_more_is_named(tmp_path):
    data = bytearray(mp3(1.0))
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") * 3).to_bytes(4, "big")
    assert decode(io.BytesIO(data), RATE).findings[0].kind == "length"


def test_flac_without_a_length_or_with_a_short_one_is_read_to_its_end(tmp_path):
    data = bytearray(sound("FLAC", "PCM_16"))
    samples = signal(1.0, RATE)
    for total, kinds in ((0, set()), (4000, {"length"})):
        data[21] &= 0xF0
        data[22:26] = total.to_bytes(4, "big")
        assert seconds_and_kinds(bytes(data), tmp_path) == (1.0, kinds)
        np.testing.assert_allclose(read_audio(tmp_path / "x", RATE), samples, atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_formats_that_libsndfile_does_not_read(tmp_path, name):
    kind, codec, rate, bit_rate = FORMATS[name]
    seconds, kinds = seconds_and_kinds(encode(signal(1.0, rate), rate, kind, codec, {}, bit_rate), tmp_path)
    assert seconds == pytest.approx(1.0, abs=0.12) and kinds == set()


@pytest.mark.parametrize("name", ["x.mp3", "x.wav", "x.flac", "x.raw", "x.txt"])
def test_a_recording_under_the_ending_of_another_format_is_read(tmp_path, name):
    m4a = encode(signal(1.0, 44_100), 44_100, "ipod", "aac", {}, 96_000)
    for data, error in ((m4a, 0.12), (wav(signal(1.0, RATE)), 0), (sound("FLAC", "PCM_16"), 0)):
        (tmp_path / name).write_bytes(data)
        assert len(read_audio(tmp_path / name, RATE)) / RATE == pytest.approx(1.0, abs=error)


@pytest.mark.parametrize("name", ["m4a", "webm", "wma"])
def test_a_segment_of_a_long_file_is_the_slice(tmp_path, name):
    """It is found by the container's index, where there is one, to a millisecond."""
    kind, codec, rate, bit_rate = FORMATS[name]
    data = encode(signal(15.0, rate), rate, kind, codec, {}, bit_rate)
    whole = decode(io.BytesIO(data), None).samples
    part = decode(io.BytesIO(data), None, start=12.5, end=13.5).samples
    assert len(part) == rate
    begin = round(12.5 * rate)
    errors = [np.abs(part - whole[begin + shift : begin + shift + rate]).max() for shift in (0, -rate // 1000)]
    assert min(errors) < 1e-3


@pytest.mark.parametrize("name", ["x.au", "x.snd", "x.raw", "x.gsm", "x.mp3", "x.wav", "x.m4a"])
def test_text_and_headerless_bytes_are_no_sound(tmp_path, name):
    for data in (b"good morning\n" * 300, "Größe\n".encode() * 500, bytes(np.arange(3000, dtype=np.uint8))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match="not readable as audio|found no header"):
            decode(tmp_path / name, RATE)


def test_gsm_without_a_header_is_known_by_its_frames(tmp_path):
    soundfile.write(tmp_path / "x.gsm", signal(1.0, 8000), 8000, format="RAW", subtype="GSM610")
    assert len(read_audio(tmp_path / "x.gsm", 8000)) == pytest.approx(8000, abs=320)


def test_a_playlist_opens_no_other_file(tmp_path):
    (tmp_path / "secret.wav").write_bytes(wav(signal(1.0, RATE)))
    for text in ("#EXTM3U\n#EXTINF:1,\nsecret.wav\n", "ffconcat version 1.0\nfile secret.wav\n"):
        (tmp_path / "list.m4a").write_text(text)
        with pytest.raises(UserError, match="it is text"):
            decode(tmp_path / "list.m4a", RATE)


def test_one_channel_of_several(tmp_path):
    left, right = signal(1.0, RATE), 0.5 * signal(1.0, RATE)[::-1]
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack([left, right], 1), RATE, subtype="FLOAT")
    for channel, expected in (("left", left), ("2", right), ("right", right), ("mean", (left + right) / 2)):
        np.testing.assert_allclose(read_audio(path, RATE, channel=channel), expected, atol=1e-6)
    for channel, message in (("3", "found 2 channels, expected --channel 3"), ("both", "--channel: found 'both'")):
        with pytest.raises(UserError, match=message):
            read_audio(path, RATE, channel=channel)


def test_channels_in_opposite_phase_are_named(tmp_path):
    samples, path = signal(1.0, RATE), tmp_path / "x.wav"
    for other, kinds in ((-samples, {"opposite phase"}), (samples[::-1], set()), (0 * samples, set())):
        soundfile.write(path, np.stack([samples, other], 1), RATE, subtype="FLOAT")
        assert {finding.kind for finding in decode(path, RATE).findings} == kinds
        assert not decode(path, RATE, channel="left").findings


def test_a_segment_that_ends_shortly_after_its_recording_is_clipped(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, signal(1.0, RATE), RATE)
    recording = decode(path, RATE, start=0.2, end=1.3)
    assert len(recording.samples) == 0.8 * RATE and [f.kind for f in recording.findings] == ["clipped segment"]
    for start, end in ((0.2, 1.6), (0.9, 1.3)):  # too far, or little of it is there
        with pytest.raises(UserError, match="expected at least"):
            decode(path, RATE, start=start, end=end)


def test_a_pipe_is_read_to_its_end():
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(mp3(1.0))
    with os.fdopen(reader, "rb") as file:
        assert len(decode(file, RATE, name="standard input").samples) == pytest.approx(RATE, abs=0.1 * RATE)


def test_links_are_followed_once_and_other_files_are_named(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("in/a.wav", "in/sub/b.M4A", "elsewhere/c.webm", "in/notes.txt", "in/d.xyz", "in/.hidden"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "sub" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "sub")
    folder = str(tmp_path / "in")
    recordings, others = list_recordings(folder)
    assert recordings == [f"{folder}/a.wav", f"{folder}/link/c.webm", f"{folder}/sub/b.M4A"]
    assert others == [f"{folder}/d.xyz", f"{folder}/notes.txt"]
    assert "2 other files are not read (.xyz 1, .txt 1)" in describe_others(folder, others)


STATED = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "aiff": ("AIFF", "PCM_16"), "au": ("AU", "PCM_16"),
          "sph": ("NIST", "PCM_16"), "w64": ("W64", "PCM_16"), "caf": ("CAF", "PCM_16"), "ogg": ("OGG", "VORBIS"),
          "mp3": ("MP3", "MPEG_LAYER_III")}  # fmt: skip


def test_damaged_files_are_an_error_or_named():
    """A small part of experiments/damaged_audio: cut off and joined files of formats that state a length."""
    rng = np.random.default_rng(0)
    files = {name: sound(*format) for name, format in STATED.items()}
    files |= {name: encode(signal(1.0, v[2]), v[2], *v[:2], {}, v[3]) for name, v in FORMATS.items() if v[2] != 8_000}
    silent = []
    for name, data in files.items():
        for kind in ("truncate", "truncate", "truncate", "flip", "header", "swap", "join"):
            damaged = mutate(data, kind, rng)
            try:
                recording = decode(io.BytesIO(damaged), RATE, name=name)
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 400
                continue
            seconds = len(recording.samples) / RATE
            if kind in ("truncate", "join") and abs(seconds - 1.0) > 0.15 and not recording.findings:
                if name not in ("aac", "ac3", "ts"):  # which state no length
                    silent.append((name, kind, seconds))
    assert silent == []
