"""Decode with ffmpeg's libraries (PyAV): formats that libsndfile does not read, and files whose header is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from speech_jax.audio.containers import was_piped
from speech_jax.core.errors import UserError

if TYPE_CHECKING:
    from typing import BinaryIO
else:  # a checker at run time would refuse what only behaves as one, such as a BytesIO
    BinaryIO = Any

# Demuxers that read one file of sound and open no other: not playlists, not addresses, not pictures or subtitles.
_FORMATS = (
    "aac,ac3,eac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,flac,flv,g722,iff,ircam,loas,"
    "matroska,webm,mov,mp4,m4a,mp3,mpc,mpc8,mpeg,mpegts,nistsphere,ogg,oma,rm,sds,tak,tta,voc,w64,wav,wv,xwma"
)
# Their length is the header's; the others' is a guess by the bit rate.
_STATED = {
    "flv",
    "nistsphere",
    "mov",
    "matroska",
    "asf",
    "avi",
    "flac",
    "wav",
    "w64",
    "aiff",
    "au",
    "caf",
    "tta",
    "wv",
    "ape",
    "ogg",
}
_INDEXED = {"mov", "matroska"}  # a place is found without reading what is before it
_SEEK_SECONDS = 10.0  # a place before that is reached by decoding
_PREROLL = 1.0  # seconds that are decoded before the place: frames depend on those before them
_DEFAULT = 1  # AV_DISPOSITION_DEFAULT: the track that is played if none is chosen
_CHECKED = {"wavpack", "tta"}  # have checksums, which ffmpeg compares only if asked
_KINDS = {"u8p": "u1", "s16p": "i2", "s32p": "i4", "s64p": "i8", "fltp": "f4", "dblp": "f8"}  # of planar samples
_SCALES = {"u1": 1 / 128, "i2": 1 / 32768, "i4": 1 / 2147483648, "i8": 1 / 9223372036854775808}


class AvFile:
    """An open recording, decoded by ffmpeg.

    Attributes:
        rate: samples per second.
        channels: number of channels.
        promised: seconds that the header states, or None.
        failed: packets that could not be decoded so far.
        decoded: packets that were.
        others: number of other tracks with sound, which are not read.
    """

    def __init__(self, file: BinaryIO, *, format: str = "", ignore_length: bool = False):
        import av  # a large library, which ordinary files do not need
        from av.error import FFmpegError

        file.seek(0)
        guessed = was_piped(file.read(4096))
        file.seek(0)
        options = {"format_whitelist": _FORMATS} | ({"ignore_length": "1"} if ignore_length else {})
        self._errors = FFmpegError, OSError, ValueError, EOFError, IndexError  # the last: of tracks that appear later
        try:
            self._container: Any = av.open(file, format=format or None, options=options, metadata_errors="ignore")
        except self._errors as error:
            raise UserError(reason(error)) from error
        streams = [stream for stream in self._container.streams.audio if stream.codec_context is not None]
        if not streams:
            self._container.close()
            raise UserError("found no sound in it that can be decoded")
        self._stream: Any = next((stream for stream in streams if stream.disposition & _DEFAULT), streams[0])
        self.others = len(streams) - 1
        self._alone = len(self._container.streams) == 1
        context = self._stream.codec_context
        if context.name in _CHECKED:
            context.options = {"err_detect": "crccheck+explode"}
        self.rate, self.channels = int(context.sample_rate or 0), int(context.channels or 0)
        self.failed = self.decoded = 0
        self._ahead: list[Any] = []  # frames that `seek` has decoded
        names = set(self._container.format.name.split(","))
        self.promised = self._duration() if names & _STATED and not (ignore_length or guessed) else None

    def _duration(self) -> float | None:
        if self._stream.duration and self._stream.time_base:
            return float(self._stream.duration * self._stream.time_base)
        return self._container.duration / 1e6 if self._container.duration and self._alone else None

    def seek(self, seconds: float) -> float:
        """Go to a place before `seconds` in containers with an index. Return the seconds that `blocks` leaves out."""
        if seconds < _SEEK_SECONDS or not _INDEXED & set(self._container.format.name.split(",")):
            return 0.0
        begin = (self._stream.start_time or 0) * self._stream.time_base
        try:
            self._container.seek(int((seconds - _PREROLL + begin) * 1_000_000))
            for packet in self._container.demux(self._stream):
                self._ahead = list(filter(None, packet.decode()))
                if self._ahead:
                    first = self._ahead[0]
                    if first.pts is not None:
                        return max(0.0, float(first.pts * first.time_base - begin))
                    break
        except self._errors:
            pass
        self._ahead = []
        self._container.seek(0)
        return 0.0

    def blocks(self) -> Iterator[tuple[int, Float[np.ndarray, "time channels"]]]:
        """Yield (sample rate, samples) to the end. A packet that cannot be decoded is counted and left out."""
        for frame in self._ahead:
            yield frame.sample_rate, _samples(frame)
        packets = iter(self._container.demux(self._stream))
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._errors:
                self.failed += 1  # the rest cannot be reached
                return
            try:
                frames = packet.decode()
            except self._errors:
                self.failed += packet.size > 0
                continue
            self.decoded += packet.size > 0
            for frame in filter(None, frames):
                self.rate = frame.sample_rate
                self.failed += frame.is_corrupt
                yield frame.sample_rate, _samples(frame)

    def close(self) -> None:
        """Close the container, not the file."""
        self._container.close()


def _samples(frame: Any) -> Float[np.ndarray, "time channels"]:
    """Return the samples of a frame, scaled to [-1, 1]."""
    channels = len(frame.layout.channels) or 1
    if frame.format.is_planar:  # `to_ndarray` reads a plane too many from 8 channels on, and crashes
        kind = _KINDS[frame.format.name]
        planes = [np.frombuffer(plane, kind, frame.samples) for plane in frame.planes[:channels]]
        values = np.stack(planes, axis=1)
    else:
        values = frame.to_ndarray().reshape(-1, channels)
    kind = values.dtype.str[1:]
    if kind == "u1":
        return (values.astype(np.float32) - 128) / 128
    return values.astype(np.float32) * np.float32(_SCALES.get(kind, 1.0))


def reason(error: Exception) -> str:
    """Return an error of a decoder as a phrase."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())[:120] or type(error).__name__
