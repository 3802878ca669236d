"""Recordings of every kind come out as mono float32 in [-1, 1] at the wanted rate; all else is one clear line."""

import io
import itertools
import math
import struct
import tracemalloc

import av
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speech_jax.audio.containers import survey
from speech_jax.audio.io import _collect, decode, decode_array, probe, read_audio
from speech_jax.core.errors import UserError
from tests.support.sounds import signal

RATE = 16_000


def tone(seconds=0.5, rate=RATE, frequency=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noise(n, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, n).astype(np.float32)


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


@pytest.mark.parametrize(
    "ending,subtype,tolerance",
    [
        ("wav", "PCM_U8", 1 / 64),
        ("wav", "PCM_16", 1e-4),
        ("wav", "PCM_24", 1e-6),
        ("wav", "PCM_32", 1e-6),
        ("wav", "FLOAT", 0),
        ("wav", "DOUBLE", 1e-7),
        ("wav", "ULAW", 0.05),
        ("wav", "ALAW", 0.05),
        ("flac", "PCM_16", 1e-4),
        ("flac", "PCM_24", 1e-6),
    ],
)
def test_every_sample_format_is_scaled_alike(tmp_path, ending, subtype, tolerance):
    path, audio = tmp_path / f"x.{ending}", noise(5000)
    soundfile.write(path, audio, RATE, subtype=subtype)
    found = read_audio(path, RATE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, audio, atol=tolerance)
    assert probe(path) == (5000 / RATE, RATE, 1)


@pytest.mark.parametrize("ending", ["ogg", "mp3"])
def test_lossy_formats(tmp_path, ending):
    path, audio = tmp_path / f"x.{ending}", tone(1.0)
    soundfile.write(path, audio, RATE)
    found = read_audio(path, RATE)
    assert abs(len(found) - len(audio)) < 0.1 * RATE  # MP3 pads
    spectrum = np.abs(np.fft.rfft(found[:RATE] * np.hanning(len(found[:RATE]))))
    assert abs(np.argmax(spectrum) * RATE / len(found[:RATE]) - 440) < 2
    assert abs(probe(path).seconds - 1) < 0.1


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_resampling_keeps_a_tone_and_does_not_depend_on_blocks(tmp_path, rate):
    path, audio = tmp_path / "x.wav", tone(3.0, rate)
    soundfile.write(path, audio, rate, subtype="FLOAT")
    found = read_audio(path, RATE)
    assert abs(len(found) - 3 * RATE) <= 1
    middle = slice(RATE // 4, -RATE // 4)
    np.testing.assert_allclose(found[middle], tone(3.0)[middle][: len(found[middle])], atol=2e-4)
    np.testing.assert_allclose(found, np.clip(soxr.resample(audio, rate, RATE), -1, 1)[: len(found)], atol=1e-6)


def test_stereo_is_mixed_down(tmp_path):
    path, left, right = tmp_path / "x.wav", noise(3000, 1), noise(3000, 2)
    soundfile.write(path, np.stack([left, right], 1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path, RATE), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_a_segment_is_the_slice(tmp_path, ending):
    path, audio = tmp_path / f"x.{ending}", noise(50_000)
    soundfile.write(path, audio, RATE, subtype="PCM_16")
    whole = read_audio(path, RATE)
    np.testing.assert_array_equal(read_audio(path, RATE, start=0.5, end=1.25), whole[8000:20000])
    np.testing.assert_array_equal(read_audio(path, RATE, start=3.0), whole[48000:])


def test_a_segment_is_decoded_in_many_blocks_as_in_one(tmp_path, monkeypatch):
    path, audio = tmp_path / "x.flac", noise(50_000)
    soundfile.write(path, np.stack([audio, audio], 1), 22_050)
    whole = read_audio(path, RATE, start=0.3, end=2.0)
    monkeypatch.setattr("speech_jax.audio.io._BLOCK", 1000)
    np.testing.assert_allclose(read_audio(path, RATE, start=0.3, end=2.0), whole, atol=1e-6)


def test_overshoot_is_clipped(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.array([0.5, 1.5, -1.2], np.float32), RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, RATE), np.float32([0.5, 1.0, -1.0]))


def test_g722(tmp_path):
    av = pytest.importorskip("av")
    path, audio = tmp_path / "x.g722", tone(1.0, frequency=1000)
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((audio * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert path.stat().st_size == 8000
    assert probe(path) == (1.0, RATE, 1)
    found = read_audio(path, RATE)
    assert len(found) == RATE
    # The codec's filters delay by a few samples: the best of them must fit well.
    errors = [np.abs(found[4000 + d : 8000 + d] - audio[4000:8000]).max() for d in range(60)]
    assert min(errors) < 0.05
    np.testing.assert_array_equal(read_audio(path, RATE, start=0.25, end=0.5), found[4000:8000])
    (tmp_path / "empty.g722").write_bytes(b"")
    with pytest.raises(UserError, match="empty.g722"):
        read_audio(tmp_path / "empty.g722", RATE)


def test_one_sample(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.float32([0.25]), RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, RATE), np.float32([0.25]))
    assert 1 <= len(read_audio(path, 48_000)) <= 4
    with pytest.raises(UserError, match="1 samples at 16000 Hz, too few for one sample at 4000 Hz"):
        read_audio(path, 4_000)


def _wav(rate=RATE, channels=1, bits=16, samples=b"\1\2" * 400, data_size=None, form=1):
    size = len(samples) if data_size is None else data_size
    align = channels * bits // 8
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, form, channels, rate, (rate * align) % 2**32, align % 2**16, bits)
    body = b"WAVE" + head + struct.pack("<4sI", b"data", size) + samples
    return b"RIFF" + struct.pack("<I", (len(body)) % 2**32) + body


def _flac(audio, total=None, rate=RATE):
    """FLAC bytes, with STREAMINFO's total_samples overwritten."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, format="FLAC")
    data = bytearray(buffer.getvalue())
    if total is not None:  # 36 bits in bytes 21 to 25
        data[21] = (data[21] & 0xF0) | (total >> 32)
        data[22:26] = (total & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def _float_wav(values):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.float32(values), RATE, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


BAD = {
    "empty.wav": (b"", "empty"),
    "text.wav": (b"hello, this is no audio" * 10, "not readable as audio"),
    "no_samples.wav": (_wav(samples=b""), "no samples"),
    "zero_rate.wav": (_wav(rate=0), "rate|not readable"),
    "one_hertz.wav": (_wav(rate=1), "rate of 1"),
    "gigahertz.wav": (_wav(rate=2_000_000_000), "rate"),
    "channels.wav": (_wav(channels=65535, samples=b"\1" * 200_000), "channels|not readable"),
    "many_channels.wav": (_wav(channels=128, samples=b"\1" * 51_200), "128 channels"),
    "cut.wav": (_wav(samples=b"\1\2" * 4000)[:3000], "cut off"),
    "lying_size.wav": (_wav(data_size=2**30), "cut off"),
    "nan.wav": (_float_wav([0.1, np.nan, 0.2]), "NaN"),
    "all_nan.wav": (_float_wav([np.nan] * 1000), "NaN"),
    "inf.wav": (_float_wav([0.1, -np.inf, 0.2]), "infinite"),
    "int16_scale.wav": (_float_wav([0.0, 12000.0, -9000.0]), "12000"),
    "cut.flac": (_flac(noise(40_000))[:30_000], "cut off|damaged"),
    "lying_long.flac": (_flac(noise(4000), total=6 * 10**10), "cut off"),
    "lying_longer.flac": (_flac(noise(4000), total=100_000), "cut off|damaged"),
    "garbage.flac": (_flac(noise(4000))[:200] + bytes(range(256)) * 30, "damaged|cut off|not readable"),
    "half.ogg": (b"OggS" + bytes(200), "not readable"),
    "noise.mp3": (bytes(np.random.default_rng(0).integers(0, 256, 3000, np.uint8)), "not readable|damaged|no samples"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_recordings_are_one_clear_line(tmp_path, name):
    data, expected = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=expected) as caught:
        read_audio(tmp_path / name, RATE)
    assert one_line(caught).startswith(str(tmp_path / name))


def test_missing_file_folder_and_nul(tmp_path):
    cases = ((tmp_path / "none.wav", "no such file"), (tmp_path, "folder"), ("a\0b.wav", "null|NUL|file"))
    for path, expected in cases:
        for function in (lambda p: read_audio(p, RATE), probe):
            with pytest.raises(UserError, match=expected) as caught:
                function(path)
            one_line(caught)


def test_a_stream_of_unknown_length_is_read_to_its_end(tmp_path):
    """What sox and ffmpeg write to a pipe: they do not know the size yet."""
    for size in (0xFFFFFFFF, 0x7FFFFFFF):
        (tmp_path / "x.wav").write_bytes(_wav(samples=b"\1\2" * 4000, data_size=size))
        assert len(read_audio(tmp_path / "x.wav", RATE)) == 4000


def test_ten_hours_are_refused_by_the_header_and_read_by_segment(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, noise(8000), 8000, subtype="PCM_U8")
    data = bytearray(path.read_bytes())
    size = 8000 * 36_000
    data[4:8], data[40:44] = (size + 36).to_bytes(4, "little"), size.to_bytes(4, "little")
    with open(path, "wb") as file:  # sparse: takes no disk
        file.write(data)
        file.truncate(44 + size)
    with pytest.raises(UserError, match=r"36000\.0 s .* at most 3600 s"):
        read_audio(path, RATE)
    assert len(read_audio(path, 8000, start=35_999, end=36_000)) == 8000


def test_a_bomb_costs_no_more_than_the_cap(tmp_path):
    """10 minutes of silence in a few KB, whose header claims nothing (0), as much as it can, or the truth."""
    silence = np.zeros(600 * RATE, np.int16)
    for total, expected in ((0, "more than 10 s"), (2**36 - 1, "more than 10 s"), (None, "600.0 s")):
        path = tmp_path / f"bomb{total}.flac"
        path.write_bytes(_flac(silence, total=total))
        assert path.stat().st_size < 100_000
        tracemalloc.start()
        try:
            with pytest.raises(UserError, match=expected):
                read_audio(path, RATE, max_seconds=10)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 20e6  # 10 s are 0.6 MB, a block 2 MB; all of it is 38 MB


@pytest.mark.parametrize("rate", [RATE, 4000])
def test_the_cap_holds_for_a_decoder_that_never_ends(rate):
    """The last line of defense; G.722, for one, has no header to ask."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="endless: found more than 10 s"):
            zeros = itertools.repeat(np.zeros(1000, np.float32))
            _collect("endless", zeros, rate, RATE, start=0.0, end=None, max_seconds=10.0, findings=[])
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_a_segment_beyond_the_end(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(RATE), RATE)
    with pytest.raises(UserError, match="found 1.000 s of audio, expected at least 2.000 s"):
        read_audio(path, RATE, start=0.5, end=2.0)
    with pytest.raises(UserError, match="no samples after 1.500 s"):
        read_audio(path, RATE, start=1.5)


_SEEDS = [_wav(samples=noise(600).tobytes()), _flac(noise(2000)), _float_wav(noise(500))]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.sampled_from(_SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    keep=st.floats(0, 1),
)
def test_damaged_files_give_audio_or_a_user_error(tmp_path, seed, edits, keep):
    data = bytearray(seed)
    for at, value in edits:
        data[at % len(data)] = value
    path = tmp_path / "fuzz.wav"
    path.write_bytes(data[: int(len(data) * keep) + 1])
    try:
        audio = read_audio(path, RATE, max_seconds=60)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert 0 < len(audio) <= 61 * RATE and np.abs(audio).max() <= 1


def _av_file(path, kind, tracks, codec="aac", default=None):
    """Write tracks of sound, float32 [channels, time] each, of which one may be marked as the default."""
    layouts = {1: "mono", 2: "stereo", 8: "7.1"}
    with av.open(str(path), "w", format=kind) as container:
        streams = [container.add_stream(codec, rate=48_000, layout=layouts[len(track)]) for track in tracks]
        for number, stream in enumerate(streams):
            stream.bit_rate = 64_000 * len(tracks[number])
            if default is not None:
                stream.disposition = av.stream.Disposition(1 if number == default else 0)
        for stream, track in zip(streams, tracks, strict=True):
            for begin in range(0, track.shape[1] - 1023, 1024):
                packed = np.ascontiguousarray(track[:, begin : begin + 1024].T, np.float32).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=stream.layout.name)
                frame.sample_rate, frame.pts = 48_000, begin
                for planar in av.AudioResampler(format="fltp", layout=stream.layout.name, rate=48_000).resample(frame):
                    container.mux(stream.encode(planar))
            container.mux(stream.encode(None))


@pytest.mark.parametrize("channels", [2, 8])
def test_channels_of_planar_samples(tmp_path, channels):
    """PyAV's own array of eight planes reads beyond them, and crashes."""
    path = tmp_path / "x.m4a"
    tones = np.stack([0.1 * (n + 1) / channels * signal(2.0, 48_000) for n in range(channels)])
    _av_file(path, "ipod", [tones])
    decoded = decode(path, 48_000)
    assert decoded.channels == channels and not decoded.findings
    expected = tones.mean(axis=0)
    got = decoded.samples[: len(expected)]
    lag = np.argmax([np.vdot(got[2048 + d : 60_000 + d], expected[2048:60_000]) for d in range(-1500, 1500)]) - 1500
    assert np.corrcoef(got[2048 + lag : 60_000 + lag], expected[2048:60_000])[0, 1] > 0.95


def test_the_default_track_is_read_and_the_others_are_said(tmp_path):
    tone = 0.3 * np.sin(np.arange(96_000) * 0.1)[None].astype(np.float32)
    speech = signal(2.0, 48_000)[None]
    for default in (0, 1):
        path = tmp_path / f"{default}.mkv"
        _av_file(path, "matroska", [tone, speech], default=default)
        decoded = decode(path, 48_000)
        expected = (tone, speech)[default][0]
        spectrum, wanted = (np.abs(np.fft.rfft(x[:90_000])) for x in (decoded.samples, expected))
        assert np.corrcoef(spectrum, wanted)[0, 1] > 0.8
        assert [finding.kind for finding in decoded.findings] == ["tracks"] and "2 tracks" in decoded.findings[0].text


def test_a_flac_that_was_cut_out_of_another_begins_at_its_first_sample(tmp_path):
    """ffmpeg -ss 1 -c copy: the numbers of the frames, and the header's length, are those of the whole."""
    whole = signal(3.0, RATE)
    soundfile.write(tmp_path / "whole.flac", whole, RATE)
    with av.open(str(tmp_path / "whole.flac")) as source, av.open(str(tmp_path / "cut.flac"), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.pts is not None and packet.pts >= RATE and packet.size:
                packet.stream = stream
                target.mux(packet)
    first = -(-RATE // 4096) * 4096
    decoded = decode(tmp_path / "cut.flac", RATE)
    np.testing.assert_allclose(decoded.samples, whole[first:], atol=1e-4)
    assert probe(tmp_path / "cut.flac").seconds == pytest.approx((len(whole) - first) / RATE)
    part = read_audio(tmp_path / "cut.flac", RATE, start=0.5, end=1.0)
    np.testing.assert_array_equal(part, decoded.samples[RATE // 2 : RATE])


def test_a_flac_whose_frames_have_another_rate_is_refused(tmp_path):
    soundfile.write(tmp_path / "x.flac", noise(RATE), RATE)
    data = bytearray((tmp_path / "x.flac").read_bytes())
    data[18:21] = (44_100 << 4 | data[20] & 0x0F).to_bytes(3, "big")
    (tmp_path / "x.flac").write_bytes(data)
    with pytest.raises(UserError, match="sample rate of 44100 in its header and of 16000 in its frames"):
        read_audio(tmp_path / "x.flac", RATE)


@pytest.mark.parametrize("content", ["wav", "flac", "text"])
def test_a_name_that_ends_in_g722_does_not_make_it_one(tmp_path, content):
    path = tmp_path / "x.g722"
    if content == "text":
        path.write_text("good morning\n" * 50)
        with pytest.raises(UserError, match="it is text"):
            read_audio(path, RATE)
        return
    soundfile.write(path, noise(RATE), RATE, format=content)
    np.testing.assert_allclose(read_audio(path, RATE), np.clip(noise(RATE), -1, 1), atol=1e-3)


def test_what_follows_the_samples_of_a_w64_is_no_sound(tmp_path):
    path = tmp_path / "x.w64"
    soundfile.write(path, noise(RATE), RATE, format="W64")
    data = path.read_bytes()
    junk = b"bext" + bytes(12) + (24 + 800).to_bytes(8, "little") + b"\x7f" * 800
    path.write_bytes(data + junk)
    decoded = decode(path, RATE)
    assert len(decoded.samples) == RATE and not decoded.findings
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError) as error:
        found = decode(path, RATE)
        raise UserError("; ".join(finding.text for finding in found.findings))
    assert "header" in str(error.value)


def test_of_a_container_of_empty_chunks_few_are_read():
    class Counting(io.BytesIO):
        reads = 0

        def read(self, size=-1):
            self.reads += 1
            return super().read(size)

    for head, chunk in (
        (b"riff\x2e\x91\xcf\x11" + bytes(32), b"fact" + bytes(12) + (24).to_bytes(8, "little")),
        (b"caff\0\1\0\0", b"free" + bytes(8)),
        (b"\0\0\0\x18ftypM4A " + bytes(12), (8).to_bytes(4, "big") + b"free"),
    ):
        file = Counting(head + chunk * 200_000)
        survey(file, len(file.getvalue()))
        assert file.reads < 40_000


def test_opposite_phase_in_a_part_and_behind_an_offset():
    left = noise(4 * RATE) * 0.1
    half = np.stack([left, np.where(np.arange(len(left)) < len(left) // 2, left, -left)], axis=1)
    offset = np.stack([left, -left], axis=1) + 0.2
    same = np.stack([left, left * 0.5], axis=1)
    half_text, whole_text = "in opposite phase in 49 % of it", "are in opposite phase:"
    for samples, expected in ((half, [half_text]), (offset, [whole_text]), (same, [])):
        recording = decode_array(samples, RATE, RATE, max_seconds=60, channel="mean", name="x")
        texts = [finding.text for finding in recording.findings]
        assert len(texts) == len(expected) and all(want in text for want, text in zip(expected, texts, strict=True))


@pytest.mark.parametrize(
    ("start", "end"), [(5.0, 4.0), (0.0, 0.0), (-1.0, None), (math.nan, None), (0.0, math.inf), (math.inf, None)]
)
def test_impossible_times_are_refused(tmp_path, start, end):
    soundfile.write(tmp_path / "x.wav", noise(RATE), RATE)
    with pytest.raises(UserError, match=r"x.wav: found start .* and end .*, expected 0 or more seconds"):
        read_audio(tmp_path / "x.wav", RATE, start=start, end=end)
