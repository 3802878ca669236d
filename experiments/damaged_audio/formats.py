"""Intact recordings, in memory, in every format that soundfile and PyAV write and speech_jax reads."""

from __future__ import annotations

import io

import soundfile

from tests.support.sounds import encode, signal

RATE = 16_000
SOUNDFILE = (  # ending, format, subtype
    ("wav", "WAV", "PCM_16"), ("u8.wav", "WAV", "PCM_U8"), ("24.wav", "WAV", "PCM_24"), ("float.wav", "WAV", "FLOAT"),
    ("ulaw.wav", "WAV", "ULAW"), ("ima.wav", "WAV", "IMA_ADPCM"), ("ms.wav", "WAV", "MS_ADPCM"),
    ("gsm.wav", "WAV", "GSM610"), ("ex.wav", "WAVEX", "PCM_16"), ("rf64", "RF64", "PCM_16"), ("w64", "W64", "PCM_16"),
    ("aiff", "AIFF", "PCM_16"), ("aifc", "AIFF", "FLOAT"), ("au", "AU", "PCM_16"), ("ulaw.au", "AU", "ULAW"),
    ("caf", "CAF", "PCM_16"), ("alac.caf", "CAF", "ALAC_16"), ("flac", "FLAC", "PCM_16"), ("24.flac", "FLAC", "PCM_24"),
    ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"), ("mp3", "MP3", "MPEG_LAYER_III"), ("sph", "NIST", "PCM_16"),
    ("voc", "VOC", "PCM_16"), ("8svx", "SVX", "PCM_16"), ("avr", "AVR", "PCM_16"), ("mat", "MAT5", "PCM_16"),
)  # fmt: skip
PYAV = (  # ending, format, codec, sample rate
    ("m4a", "ipod", "aac", 44_100), ("alac.m4a", "ipod", "alac", RATE), ("mp4", "mp4", "aac", RATE),
    ("mp3.mp4", "mp4", "mp3", 44_100), ("mov", "mov", "pcm_s16le", RATE), ("3gp", "3gp", "libopencore_amrnb", 8_000),
    ("webm", "webm", "libopus", 48_000), ("mka", "matroska", "flac", RATE),
    ("wma", "asf", "wmav2", 44_100), ("avi", "avi", "mp3", 44_100), ("flv", "flv", "aac", 44_100),
    ("aac", "adts", "aac", 44_100), ("amr", "amr", "libopencore_amrnb", 8_000), ("ac3", "ac3", "ac3", 48_000),
    ("eac3", "eac3", "eac3", 48_000), ("ts", "mpegts", "aac", 44_100), ("mp2", "mp2", "mp2", 44_100),
    ("nox.mp3", "mp3", "mp3", 44_100), ("tta", "tta", "tta", RATE), ("wv", "wv", "wavpack", RATE),
    ("mp3.wav", "wav", "mp3", 44_100),
)  # fmt: skip
STATES_NO_LENGTH = ("aac", "amr", "ac3", "eac3", "ts", "mp2", "nox.mp3", "mp3.wav")
"""Formats whose container says nothing of a length: a cut between two frames cannot be noticed."""


def intact(seconds: float = 2.0) -> dict[str, bytes]:
    """Return the bytes of one recording in each format, by file ending."""
    files = {}
    for ending, kind, subtype in SOUNDFILE:
        buffer = io.BytesIO()
        soundfile.write(buffer, signal(seconds, RATE), RATE, format=kind, subtype=subtype)
        files[ending] = buffer.getvalue()
    for ending, kind, codec, rate in PYAV:
        options = {"write_xing": "0"} if ending == "nox.mp3" else {}
        bit_rate = 12_200 if rate == 8_000 else 96_000
        files[ending] = encode(signal(seconds, rate), rate, kind, codec, options, bit_rate)
    return files
