"""Recordings in the formats that ffmpeg writes, and damage to them."""

import io

import av
import numpy as np

FORMATS = {  # ffmpeg's format and codec, sample rate, bit rate
    "m4a": ("ipod", "aac", 44_100, 96_000),
    "alac": ("ipod", "alac", 16_000, 96_000),
    "mp4": ("mp4", "mp3", 44_100, 96_000),
    "3gp": ("3gp", "libopencore_amrnb", 8_000, 12_200),
    "webm": ("webm", "libopus", 48_000, 64_000),
    "wma": ("asf", "wmav2", 44_100, 96_000),
    "avi": ("avi", "mp3", 44_100, 96_000),
    "aac": ("adts", "aac", 44_100, 96_000),
    "amr": ("amr", "libopencore_amrnb", 8_000, 12_200),
    "ac3": ("ac3", "ac3", 48_000, 96_000),
    "ts": ("mpegts", "aac", 44_100, 96_000),
    "mp3 in wav": ("wav", "mp3", 44_100, 96_000),
}


def signal(seconds: float, rate: int) -> np.ndarray:
    """Return a swept tone with noise."""
    time = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * 300 * time + 120 * np.sin(2 * np.pi * 0.7 * time)) * (0.6 + 0.4 * np.sin(20 * time))
    return (0.3 * tone + 0.03 * np.random.default_rng(0).standard_normal(len(time))).astype(np.float32)


class _Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


def encode(
    samples: np.ndarray,
    rate: int,
    kind: str,
    codec: str,
    options: dict[str, str],
    bit_rate: int = 64_000,
    *,
    pipe: bool = False,
) -> bytes:
    """Return a recording in a format of ffmpeg, on request as it is written to a pipe."""
    buffer = _Pipe() if pipe else io.BytesIO()
    with av.open(buffer, "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = bit_rate
        resampler = av.AudioResampler(format=stream.codec_context.codec.audio_formats[0].name, layout="mono", rate=rate)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        fifo = av.AudioFifo()
        for piece in resampler.resample(frame) + resampler.resample(None):
            fifo.write(piece)
        stream.codec_context.open()
        while piece := fifo.read(stream.codec_context.frame_size or 1024, partial=True):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def mutate(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Return damaged bytes: truncate, join, insert, swap, zeros, flip or header."""
    size = len(data)
    if kind == "truncate":
        return data[: int(rng.integers(1, size))]
    if kind == "join":
        return data + (data if rng.random() < 0.5 else data[: int(rng.integers(1, size))])
    if kind == "insert":
        at = int(rng.integers(0, size))
        return data[:at] + rng.bytes(int(rng.integers(1, 5000))) + data[at:]
    if kind == "swap":
        length = int(rng.integers(1, max(2, size // 4)))
        a, b = sorted(int(rng.integers(0, size - length)) for _ in range(2))
        if b - a < length:
            return data[:a] + data[b:] + data[a:b]
        return data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]
    damaged = bytearray(data)
    if kind == "zeros":
        at, length = int(rng.integers(0, size)), int(rng.integers(1, size // 4))
        damaged[at : at + length] = bytes(len(damaged[at : at + length]))
    else:
        reach = min(size, 128) if kind == "header" else size
        for at in rng.integers(0, reach, int(rng.integers(1, 20))):
            damaged[at] = int(rng.choice([0, 255, 1, 128, int(rng.integers(256))]))
    return bytes(damaged)
