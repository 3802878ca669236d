"""Read audio files of any format as mono float32 in [-1, 1] at a given sample rate.

WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, SPH and the other formats of libsndfile are read by soundfile; AAC, M4A, WebM,
WMA, AMR, AC-3, the sound of video files and headerless G.722 by ffmpeg (PyAV), which also reads files whose header is
wrong about their length. soxr resamples. No allocation depends on a size stated in a header: audio is decoded in blocks
until it ends or exceeds the limit, so a wrong header or a decompression bomb costs no more memory than a recording of
maximum length.
"""

from __future__ import annotations

import functools
import io
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from speech_jax.audio.containers import UNKNOWN, WAV_SLACK, Part, Survey, has_magic, is_text, survey
from speech_jax.audio.findings import Finding
from speech_jax.audio.libav import AvFile, reason
from speech_jax.core.errors import UserError
from speech_jax.core.log import log

if TYPE_CHECKING:
    from typing import BinaryIO
else:  # a checker at run time would refuse what only behaves as one, such as a BytesIO
    BinaryIO = Any

MAX_SECONDS = 3600.0
MIN_RATE, MAX_RATE = 2_000, 768_000
MAX_CHANNELS = 64
MAX_STREAM_BYTES = 4 << 30  # of a recording that is read from a pipe
G722_RATE = 16_000  # samples per second, in 8,000 bytes
CLIP_SECONDS = 0.5  # a segment may end this much after its recording; it is clipped
ENDINGS = frozenset(
    ".wav .wave .flac .ogg .oga .opus .spx .mp3 .mp2 .mpga .g722 .aif .aiff .aifc .au .snd .caf .w64 .sph .rf64 .voc "
    ".m4a .m4b .mp4 .m4v .mov .3gp .3g2 .aac .webm .mkv .mka .weba .ogv .wma .wmv .asf .amr .awb .ac3 .eac3 .avi .flv "
    ".gsm .ts .mts .mpg .mpeg .tta .wv .ape .dts".split()
)
"""Endings of the files that are taken for recordings in a folder; a file that is named may have any."""
_BLOCK = 1 << 19  # decoded values (frames × channels) per block: 2 MB
LOUD = 4.0  # a decoder may overshoot 1.0; a float file beyond this is scaled wrong
_LENGTH_SLACK, _LENGTH_SHARE = 0.1, 0.002  # difference between the header's length and the decoded one that is no news
_GAPLESS = 4 * 1152  # samples of an encoder's delay and padding, which libsndfile cuts from MP3
_OPPOSITE = 0.05  # share of the channels' energy that their mean keeps; 0.5 if they have nothing in common
_OPPOSITE_SHARE = 0.2  # of the audible pieces, from which on it is said
_PIECE = 1 << 13  # samples of a piece whose channels are compared
_AUDIBLE = 1e-6  # energy per sample, −60 dB of a full scale
# First bytes of what libsndfile reads and ffmpeg does not, or not as well; WAV, FLAC, Ogg and MP3 are surveyed.
_LIBSNDFILE_MAGIC = (
    b"RIFX", b"FORM", b".snd", b"dns.", b"caff", b"riff", b"NIST_1A", b"Creative", b" paf", b"fap ", b"PVF1", b"MATLAB",
    b"Extended Instrument", b"ALawSound", b"2BIT", b"\xf0\x7e", b"\x01\x04",
)  # fmt: skip
_LOSSY = ("MP3", "OGG")


class Decoded(NamedTuple):
    """A decoded recording, or the part of it that was asked for.

    Attributes:
        samples: float32 [time], mono, in [-1, 1], at the rate that was asked for.
        rate: samples per second of the file.
        channels: number of channels of the file.
        findings: what is wrong with the recording although it can be read.
    """

    samples: Float[np.ndarray, "time"]
    rate: int
    channels: int
    findings: tuple[Finding, ...] = ()


class AudioInfo(NamedTuple):
    """Properties stated in a file's header, not measured.

    Attributes:
        seconds: duration in seconds.
        rate: samples per second.
        channels: number of channels.
    """

    seconds: float
    rate: int
    channels: int


def is_reference(audio: str) -> bool:
    """Return True unless `audio` is a plain path: a Kaldi pipe, a record of a shard, or an example of tfds."""
    return audio.endswith("|") or audio.startswith("tfds:") or ".array_record#" in audio


def probe(path: str | Path) -> AudioInfo:
    """Return duration, sample rate and channels, from the structure of the file. Raise UserError naming the file.

    The duration is the header's where the structure confirms it; otherwise frames or packets are counted.
    """
    path = os.fspath(path)
    source = _Source(path, path)
    if source.format:
        return AudioInfo(2 * source.survey().parts[0].end / G722_RATE, G722_RATE, 1)
    seconds, formats = 0.0, []
    for part in source.survey().parts:
        with ExitStack() as stack:
            opened = source.open(part, stack, [])
            if isinstance(opened, AvFile):
                seconds += part.decoded or sum(len(block) / rate for rate, block in opened.blocks())
            else:
                seconds += min(opened.frames / opened.samplerate, part.decoded or math.inf)
            formats.append(_format_of(opened))
    return AudioInfo(seconds, *formats[0])


def read_audio(
    path: str | Path | BinaryIO,
    sample_rate: int,
    *,
    start: float = 0.0,
    end: float | None = None,
    max_seconds: float = MAX_SECONDS,
    channel: str = "mean",
    name: str = "",
) -> Float[np.ndarray, "time"]:
    """Decode a recording, or a part of it, to mono samples.

    8-bit to 32-bit, A-law and float files are scaled to [-1, 1]; overshoot is clipped. A warning in the log names a
    recording that is read but has something wrong with it, see `decode`.

    Args:
        path: file name or open binary file.
        sample_rate: samples per second of the result.
        start: beginning of the part, in seconds.
        end: end of the part, in seconds; None is the end of the recording.
        max_seconds: longest accepted duration, in seconds.
        channel: "mean" of all channels, "left", "right", or a channel's number from 1.
        name: name in error messages, if `path` is an open file.

    Returns:
        float32 samples in [-1, 1].

    Raises:
        UserError: the file is missing, empty, not audio, damaged, cut off, longer than `max_seconds`, ends well before
            `end`, or has NaN, infinite or far too large samples. The message names the file.

    Example:
        >>> import io
        >>> import numpy as np, soundfile
        >>> from speech_jax.audio.io import read_audio
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros(8000), 8000, format="WAV")
        >>> _ = file.seek(0)
        >>> read_audio(file, 16000).shape
        (16000,)
    """
    options = {"start": start, "end": end, "max_seconds": max_seconds, "channel": channel, "name": name}
    recording = decode(path, sample_rate, **options)
    for finding in recording.findings:
        log.warning("%s: %s", _name(path, name), finding.text)
    return recording.samples


def decode(
    path: str | Path | BinaryIO,
    sample_rate: int | None,
    *,
    start: float = 0.0,
    end: float | None = None,
    max_seconds: float = MAX_SECONDS,
    channel: str = "mean",
    name: str = "",
) -> Decoded:
    """Decode a recording as `read_audio` does, and return what is wrong with it instead of logging it.

    A recording has findings if its container promises another length than is decoded, if some of it could not be
    decoded, if its channels cancel each other in their mean, or if a segment ends shortly after the recording.

    Args:
        path: file name or open binary file of any format. One that cannot be searched, such as a pipe, is read whole.
        sample_rate: samples per second of the result; None keeps the file's.
        start: beginning of the part, in seconds.
        end: end of the part, in seconds; None is the end of the recording.
        max_seconds: longest accepted duration, in seconds.
        channel: "mean" of all channels, "left", "right", or a channel's number from 1.
        name: name in error messages, if `path` is an open file.

    Returns:
        The samples, the file's rate and channels, and the findings.

    Raises:
        UserError: see `read_audio`.
    """
    name = _name(path, name)
    if not 0 <= start < math.inf or not (end is None or start < end < math.inf):
        raise UserError(f"{name}: found start {start} and end {end}, expected 0 or more seconds and a later end")
    source = _Source(path, name)
    chooser = _Chooser(channel, name)
    found = source.survey()
    findings = list(found.problems)
    with ExitStack() as stack:
        first = source.open(found.parts[0], stack, findings)
        rate, channels = _format_of(first)
        if not isinstance(first, AvFile) and len(found.parts) == 1:
            seconds = (first.frames / rate if end is None else end) - start
            if seconds > max_seconds:
                raise UserError(f"{name}: found {seconds:.1f} s of audio, expected at most {max_seconds:.0f} s")
            blocks = map(chooser.mono, _sound_blocks(first, name, start, end, findings))
        else:
            reached = first.seek(start) if isinstance(first, AvFile) and len(found.parts) == 1 else 0.0
            blocks = _joined(source, found, first, chooser, findings)
            blocks = _after(blocks, round((start - reached) * rate))
        samples, seconds = _collect(
            name, blocks, rate, sample_rate or rate, start=start, end=end, max_seconds=max_seconds, findings=findings
        )
    if end is None:
        _check_length(name, found, first, start + seconds, findings)
    findings += chooser.findings()
    return Decoded(samples, rate, channels, tuple(findings))


def decode_array(
    samples: np.ndarray, rate: int, sample_rate: int | None, *, max_seconds: float, channel: str, name: str
) -> Decoded:
    """Return samples [time] or [time, channels] in [-1, 1] at `rate` as `decode` returns those of a file."""
    chooser = _Chooser(channel, name)
    block = samples.astype(np.float32).reshape(len(samples), -1)
    findings: list[Finding] = []
    mono, _ = _collect(
        name, iter([chooser.mono(block)]), rate, sample_rate or rate, start=0.0, end=None, max_seconds=max_seconds,
        findings=findings,
    )  # fmt: skip
    return Decoded(mono, rate, block.shape[1], (*findings, *chooser.findings()))


def _name(path: object, name: str) -> str:
    return name or (os.fspath(path) if isinstance(path, str | os.PathLike) else "audio")


def _format_of(opened: soundfile.SoundFile | AvFile) -> tuple[int, int]:
    rate = opened.rate if isinstance(opened, AvFile) else opened.samplerate
    return rate, opened.channels


def _check_length(
    name: str, found: Survey, first: soundfile.SoundFile | AvFile, seconds: float, findings: list[Finding]
) -> None:
    """Compare what was decoded with what the container promises. Raise UserError for lossless audio that is cut off."""
    promised = found.parts[0].promised
    if isinstance(first, AvFile):
        promised = first.promised if promised is None else promised
    elif promised is None and found.kind != "mpeg":  # of which libsndfile's length is an estimate
        promised = first.frames / first.samplerate
    if len(found.parts) > 1:
        text = f"it holds {len(found.parts)} recordings, {seconds:.3f} s"
        text += f"; the first header promises {promised:.3f} s" if promised else ""
        findings.append(Finding("length", text))
    if promised is None or any(finding.kind == "length" for finding in findings):
        return
    slack = _LENGTH_SLACK + _LENGTH_SHARE * promised
    if found.kind == "mpeg":
        slack += _GAPLESS / 2 / _format_of(first)[0]  # at 8 kHz, 0.3 s
    if found.kind == "flac" and seconds < promised - slack:
        raise UserError(f"{name}: cut off: found {seconds:.3f} s, expected the {promised:.3f} s of its header")
    if abs(seconds - promised) > slack:
        findings.append(Finding("length", f"its header promises {promised:.3f} s, {seconds:.3f} s were decoded"))


def _joined(
    source: _Source, found: Survey, first: soundfile.SoundFile | AvFile, chooser: _Chooser, findings: list[Finding]
) -> Iterator[Float[np.ndarray, "time"]]:
    """Yield mono blocks of all parts of a file, at the rate of the first."""
    rate, _ = _format_of(first)
    for number, part in enumerate(found.parts):
        with ExitStack() as stack:
            try:
                opened = source.open(part, stack, findings) if number else first
            except UserError as error:
                findings.append(Finding("damaged", f"recording {number + 1} in it cannot be read: {error}"))
                continue
            if isinstance(opened, AvFile):
                raw = opened.blocks()
            else:
                raw = ((opened.samplerate, block) for block in _sound_blocks(opened, source.name, 0.0, None, findings))
            yield from _at_rate(((its_rate, chooser.mono(block)) for its_rate, block in raw), rate)
            if isinstance(opened, AvFile) and opened.others:
                text = f"it has {opened.others + 1} tracks of sound; one is read, the default one where one is marked"
                findings.append(Finding("tracks", text))
            if isinstance(opened, AvFile) and opened.failed:
                _check_failures(source.name, found.kind, opened, findings)


def _check_failures(name: str, kind: str, opened: AvFile, findings: list[Finding]) -> None:
    """Note packets that could not be decoded. Raise UserError if they are many, or the audio is lossless."""
    of = f"{opened.failed} of {opened.failed + opened.decoded} packets"
    if opened.failed > opened.decoded or kind == "flac":
        raise UserError(f"{name}: damaged: {of} cannot be decoded, expected audio")
    findings.append(Finding("damaged", f"{of} cannot be decoded and are missing"))


def _at_rate(blocks: Iterator[tuple[int, Float[np.ndarray, "time"]]], rate: int) -> Iterator[Float[np.ndarray, "time"]]:
    """Resample the blocks that have another rate; a decoder may change it in the middle."""
    resampler, current = None, rate
    for its_rate, block in blocks:
        if its_rate != current:
            if resampler is not None:
                yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            resampler = None if its_rate == rate else soxr.ResampleStream(its_rate, rate, 1, dtype="float32")
            current = its_rate
        yield block if resampler is None else resampler.resample_chunk(block)
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _after(blocks: Iterator[Float[np.ndarray, "time"]], skip: int) -> Iterator[Float[np.ndarray, "time"]]:
    """Leave out the first samples."""
    for block in blocks:
        cut = min(skip, len(block))
        skip -= cut
        if cut < len(block):
            yield block[cut:]


def channel_index(channel: str, flag: str = "--channel") -> int | None:
    """Return the index of a channel that is named as in `read_audio`, None for the mean of all.

    Raises UserError, which begins with `flag`, for any other name.
    """
    if channel in ("mean", "left", "right"):
        return {"mean": None, "left": 0, "right": 1}[channel]
    if channel.isascii() and channel.isdecimal() and 1 <= int(channel[:9]) <= MAX_CHANNELS:
        return int(channel) - 1
    raise UserError(f"{flag}: found {channel!r}, expected mean, left, right or a number from 1 to {MAX_CHANNELS}")


class _Chooser:
    """Makes one channel of several, and notices channels that cancel each other."""

    def __init__(self, channel: str, name: str):
        self.channel, self.name = channel, name
        self.index = channel_index(channel)
        self.kept = self.all = 0.0
        self.audible = self.opposite = 0

    def mono(self, block: Float[np.ndarray, "time channels"]) -> Float[np.ndarray, "time"]:
        """Return the chosen channel of a block, or the mean of all."""
        channels = block.shape[1]
        if self.index is not None:
            if self.index >= channels:
                raise UserError(f"{self.name}: found {channels} channels, expected --channel {self.channel}")
            return np.ascontiguousarray(block[:, self.index])
        if channels == 1:
            return block[:, 0]
        mean = block.mean(axis=1, dtype=np.float32)
        for begin in range(0, len(mean), _PIECE):
            piece = block[begin : begin + _PIECE]
            power = float(piece.var(axis=0).mean())  # without a DC offset
            if power > _AUDIBLE:
                kept = float(mean[begin : begin + _PIECE].var())
                self.kept, self.all = self.kept + kept * len(piece), self.all + power * len(piece)
                self.audible += len(piece)
                self.opposite += len(piece) * (kept < _OPPOSITE * power)
        return mean

    def findings(self) -> list[Finding]:
        """Return a finding if the mean is much weaker than the channels, in the whole or in a part."""
        if not self.audible or self.opposite < _OPPOSITE_SHARE * self.audible:
            return []
        share = f" in {100 * self.opposite / self.audible:.0f} % of it" if self.opposite < self.audible else ""
        lost = 10 * np.log10(self.all / max(self.kept, 1e-12 * self.all))
        text = f"its channels are in opposite phase{share}: their mean is {lost:.0f} dB weaker than they"
        return [Finding("opposite phase", f"{text}; --channel takes one")]


def _collect(
    name: str,
    blocks: Iterator[np.ndarray],
    rate: int,
    sample_rate: int,
    *,
    start: float,
    end: float | None,
    max_seconds: float,
    findings: list[Finding],
) -> tuple[Float[np.ndarray, "time"], float]:
    """Check, resample, clip and concatenate mono blocks at `rate`. Return them and their seconds in the file."""
    resampler = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
    limit = None if end is None else max(1, round(end * rate) - round(start * rate))
    pieces: list[np.ndarray] = []
    frames, loudest = 0, 0.0
    for block in blocks:
        if limit is not None:
            block = block[: limit - frames]
        frames += len(block)
        if frames > max_seconds * rate + 1:
            raise UserError(f"{name}: found more than {max_seconds:.0f} s of audio, expected at most that")
        high, low = block.max(initial=0.0), block.min(initial=0.0)  # NaN if any sample is
        if not (np.isfinite(high) and np.isfinite(low)):
            raise UserError(f"{name}: found NaN or infinite samples, expected numbers in [-1, 1]")
        peak = max(high, -low)
        loudest = max(loudest, peak)
        if peak > LOUD:
            raise UserError(f"{name}: found float samples up to {peak:.6g}, expected numbers in [-1, 1]")
        pieces.append(block if resampler is None else resampler.resample_chunk(block))
        if limit is not None and frames >= limit:
            break
    if frames == 0:
        raise UserError(f"{name}: found no samples" + (f" after {start:.3f} s" if start else "") + ", expected audio")
    # One frame and 10 ms of slack: ends in manifests are rounded, and lossy codecs pad.
    if limit is not None and frames < limit - 1 - 0.01 * rate:
        missing = (limit - frames) / rate
        if missing > CLIP_SECONDS or 2 * frames < limit:
            raise UserError(f"{name}: found {start + frames / rate:.3f} s of audio, expected at least {end:.3f} s")
        text = f"the segment ends {missing:.3f} s after its recording and is clipped to {start + frames / rate:.3f} s"
        findings.append(Finding("clipped segment", text))
    if resampler is not None:
        pieces.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    audio = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if len(audio) == 0:
        raise UserError(f"{name}: found {frames} samples at {rate} Hz, too few for one sample at {sample_rate} Hz")
    audio = np.clip(audio, -1.0, 1.0) if loudest > 1 or resampler is not None else np.ascontiguousarray(audio)
    return audio, frames / rate


def _sound_blocks(
    file: soundfile.SoundFile, name: str, start: float, end: float | None, findings: list[Finding]
) -> Iterator[Float[np.ndarray, "time channels"]]:
    """Yield blocks from `start` on. Raise UserError if a lossless file is shorter than its header states."""
    size = max(1, _BLOCK // file.channels)
    position = round(start * file.samplerate)
    try:
        if position:
            if position >= file.frames:
                return
            file.seek(position)
        # A short segment should not decode a whole block; MP3 and Vorbis decoders read ahead on their own.
        remaining = None if end is None else round(end * file.samplerate) - position
        while remaining is None or remaining > 0:
            block = file.read(size if remaining is None else min(size, remaining), dtype="float32", always_2d=True)
            if len(block) == 0:
                break
            position += len(block)
            remaining = None if remaining is None else remaining - len(block)
            yield block
    except (RuntimeError, OSError) as error:  # soundfile.LibsndfileError is a RuntimeError
        seconds = position / file.samplerate
        raise UserError(
            f"{name}: damaged or cut off after {seconds:.3f} s ({reason(error)}), expected audio"
        ) from error
    if end is None and position < file.frames - 1:
        seconds, stated = position / file.samplerate, file.frames / file.samplerate
        if file.format not in _LOSSY:
            raise UserError(f"{name}: cut off: found {seconds:.3f} s, expected the {stated:.3f} s of its header")
        # Of MP3 the length is compared with the frames that there are: libsndfile's is an estimate.
        if file.format == "OGG" and stated - seconds > _LENGTH_SLACK:
            findings.append(Finding("length", f"its header promises {stated:.3f} s, {seconds:.3f} s were decoded"))


class _Source:
    """A file, or the bytes of one, that is surveyed and opened part by part."""

    def __init__(self, source: str | os.PathLike | BinaryIO, name: str):
        self.name = name
        self.path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
        self.file = None if self.path is not None else _searchable(cast(BinaryIO, source), name)
        self.format = ""
        if self.path is not None and self.path.lower().endswith(".g722") and _may_be_g722(self.path):
            self.format = "g722"
        self.kind = ""

    def survey(self) -> Survey:
        """Return the survey of the file. Raise UserError naming it if it is missing, empty or cut off."""
        changed = 0
        if self.path is None:
            size = cast(BinaryIO, self.file).seek(0, os.SEEK_END)
        else:
            size, changed = _size_and_time(self.path)
        if size == 0:
            raise UserError(f"{self.name}: found an empty file, expected audio")
        try:
            if self.format:
                found = Survey("other", (Part(0, size, "ffmpeg"),))
            elif self.path is None:
                found = survey(cast(BinaryIO, self.file), size)
            else:
                found = _survey_of(self.path, size, changed)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error
        except OSError as error:
            raise UserError(f"{self.name}: {reason(error)}, expected a recording") from error
        self.kind, self.size = found.kind, size
        return found

    def open(self, part: Part, stack: ExitStack, findings: list[Finding]) -> soundfile.SoundFile | AvFile:
        """Open a part with the decoder that reads it to its end; the stack closes it.

        Raises:
            UserError: neither decoder reads it, or its rate or channels are impossible.
        """
        order = ["libsndfile", "ffmpeg"] if part.decoder == "either" else [part.decoder]
        if self.kind == "other" and part.decoder == "either" and not self._head().startswith(_LIBSNDFILE_MAGIC):
            order.reverse()
        problems = []
        for decoder in order:
            try:
                if decoder == "libsndfile":
                    return self._open_sound(part, stack)
                file = AvFile(self._bytes(part, stack), format=self.format, ignore_length=part.ignore_length)
                stack.callback(file.close)
                self._check_format(file.rate, file.channels)
                return file
            except UserError as error:
                problems.append(str(error))
            if self.kind == "text" or problems[-1].startswith("cut off"):
                break
            if "malformed" in problems[-1]:  # of a format that libsndfile reads; ffmpeg takes what there is
                findings.append(Finding("damaged", f"damaged: {problems[-1]}"))
        expected = "expected audio (WAV, FLAC, OGG, MP3, M4A …)"
        said = [problem for problem in problems if problem.startswith(("found", "cut off"))]  # by us, not by a decoder
        problem = "it is text" if self.kind == "text" else (said or problems)[0]
        if problem.startswith(("found", "cut off")):
            raise UserError(f"{self.name}: {problem}")
        raise UserError(f"{self.name}: not readable as audio ({problem}), {expected}")

    def _head(self) -> bytes:
        """Return the first bytes. An open file stays at its place, from which a decoder may read on."""
        if self.path is None:
            file = cast(BinaryIO, self.file)
            place = file.tell()
            file.seek(0)
            head = file.read(1024)
            file.seek(place)
            return head
        with open(self.path, "rb") as file:
            return file.read(1024)

    def _bytes(self, part: Part, stack: ExitStack) -> BinaryIO:
        """Return the bytes of a part as a file."""
        file = stack.enter_context(open(self.path, "rb")) if self.path is not None else cast(BinaryIO, self.file)
        return cast(BinaryIO, _Slice(file, part.begin, part.end))

    def _is_whole(self, part: Part) -> bool:
        """Return True if a decoder can be given the file itself.

        A file called NAME.raw is given as a slice, which has no name: by the name, soundfile asks for a sample rate.
        """
        return (part.begin, part.end) == (0, self.size) and not self.name.lower().endswith(".raw")

    def _open_sound(self, part: Part, stack: ExitStack) -> soundfile.SoundFile:
        path = self.path if self._is_whole(part) else None
        try:
            file: Any = self._bytes(part, stack) if path is None else os.fsencode(path)  # of any encoding
            file = soundfile.SoundFile(file)
        except (RuntimeError, OSError, TypeError, ValueError) as error:
            raise UserError(reason(error)) from error
        stack.callback(file.close)
        self._check_format(file.samplerate, file.channels)
        if file.format == "RAW" and not (file.subtype == "GSM610" and _is_gsm(self._head())):
            raise UserError("found no header: its format cannot be known")
        if file.frames >= 1 << 62:
            raise UserError("found no length in its header")
        if self.kind == "mpeg" and part.decoded and file.frames < part.decoded * file.samplerate - _GAPLESS:
            raise UserError("its length is estimated too small")  # ffmpeg decodes it to its end
        if self.kind == "other":
            _check_log(file, self._head())
        return file

    def _check_format(self, rate: int, channels: int) -> None:
        if not MIN_RATE <= rate <= MAX_RATE:
            raise UserError(f"found a sample rate of {rate}, expected {MIN_RATE} to {MAX_RATE}")
        if not 1 <= channels <= MAX_CHANNELS:
            raise UserError(f"found {channels} channels, expected 1 to {MAX_CHANNELS}")


@functools.lru_cache(maxsize=1 << 14)
def _survey_of(path: str, size: int, changed: int) -> Survey:
    """Survey a file of the disk; kept until it changes, as training reads it again each epoch."""
    with open(path, "rb") as file:
        return survey(file, size)


def _may_be_g722(path: str) -> bool:
    """Return False for a file that begins as another format or as text; G.722 has no header."""
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError:
        return True  # which is reported when it is opened
    return not (head.startswith(_LIBSNDFILE_MAGIC) or has_magic(head) or is_text(head))


def _is_gsm(head: bytes) -> bool:
    """Return True for frames of GSM 06.10, which have no header but a mark of four bits each."""
    return len(head) >= 33 and all(byte >> 4 == 0xD for byte in head[::33])


def _size_and_time(path: str) -> tuple[int, int]:
    """Return the bytes of a file and when it was changed. Raise UserError if there is no such file."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, expected a recording") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path!r}: {reason(error)}, expected a recording") from error
    if not stat.S_ISREG(status.st_mode):
        problem = "a folder" if stat.S_ISDIR(status.st_mode) else "no file"
        raise UserError(f"{path}: {problem}, expected a recording")
    return status.st_size, status.st_mtime_ns


_TOO_LONG = re.compile(r"(\d+) \(?should be (\d+)")
_STATED_FRAMES = re.compile(r"(?:Frames\s*: |Rows : 1\s+Cols : |sample_count -i )(\d+)")


def _check_log(file: soundfile.SoundFile, head: bytes) -> None:
    """Raise UserError if libsndfile notes that a file is shorter than its header states; it reads such a file."""
    notes = file.extra_info
    if file.format == "NIST":
        notes += head.decode("latin-1")
    for stated, there in _TOO_LONG.findall(notes):
        if int(stated) > int(there) + WAV_SLACK and int(stated) < UNKNOWN:
            raise UserError(f"cut off: found {there} bytes, expected the {stated} of its header")
    frames = max(map(int, _STATED_FRAMES.findall(notes)), default=0)
    if frames > file.frames + 0.01 * file.samplerate or "to be a truncated file" in notes:
        stated = f"the {frames / file.samplerate:.3f} s of" if frames > file.frames else "as much as in"
        raise UserError(f"cut off: found {file.frames / file.samplerate:.3f} s, expected {stated} its header")


class _Slice(io.RawIOBase):
    """Some bytes of an open file, as a file. A decoder may go to impossible places, as it does in damaged ones."""

    def __init__(self, file: BinaryIO, begin: int, end: int):
        self._file, self._begin, self._size, self._place = file, begin, end - begin, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer) -> int:
        count = max(0, min(len(buffer), self._size - self._place))
        self._file.seek(self._begin + self._place)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _searchable(file: BinaryIO, name: str) -> BinaryIO:
    """Return a file that can be searched: a pipe is read to its end."""
    try:
        if file.seekable():
            return file
    except AttributeError:
        pass
    data = file.read(MAX_STREAM_BYTES + 1)
    if len(data) > MAX_STREAM_BYTES:
        raise UserError(f"{name}: found more than {MAX_STREAM_BYTES >> 30} GiB, expected a recording")
    return io.BytesIO(data)
