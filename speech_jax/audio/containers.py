"""Survey a recording's container: its parts, the length that it promises, and what is wrong with its structure.

libsndfile and ffmpeg believe a container's header, so that they stop where it says that the audio ends. A survey walks
the structure itself (chunks of WAV, pages of Ogg, frames of MP3, the last frame of FLAC) without decoding, finds
recordings that were joined byte by byte, and names the decoder that reads each of them to its end.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from speech_jax.audio.findings import Finding
from speech_jax.core.errors import UserError

if TYPE_CHECKING:
    from typing import BinaryIO
else:  # a checker at run time would refuse what only behaves as one, such as a BytesIO
    BinaryIO = Any

WAV_SLACK = 256  # bytes that a WAV header may promise too much: some writers count the header, too
UNKNOWN = 0x7FFF0000  # lengths from here on are those of programs that write to a pipe
_LIBSNDFILE_WAV = {1, 2, 3, 6, 7, 0x11, 0x31, 0xFFFE}  # PCM, ADPCM, float, A-law, µ-law, GSM, extensible
_WAV = (b"RIFF", b"RF64", b"BW64")
_TAGS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN", b"3DI")  # of music players, after the audio
_FLAC_HEAD = b"fLaC\x00\x00\x00\x22"  # with the head of the block that has the lengths
_AFTER_FLAC = (b"RIFF", b"OggS", b"ID3\x03", b"ID3\x04", b"ftypM4A", b"ftypisom", b"ftypmp42")
_PIECE = 1 << 18
_MAPPED = 1 << 23  # bytes from which a file is mapped; a smaller one is read faster
_FLAC_TAIL = 1 << 17  # bytes at the end in which the last frame begins

# MPEG audio: bit rates in kbit/s of (version 1, layer), then of versions 2 and 2.5; sample rates of version 1.
_BITRATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES = (44100, 48000, 32000)


class Part(NamedTuple):
    """One recording inside a file; ordinary files have one.

    Attributes:
        begin: first byte.
        end: byte after the last one.
        decoder: library that decodes it to its end; "either" tries libsndfile, then ffmpeg.
        promised: seconds that its header states; None where it states none that can be trusted.
        decoded: seconds that its structure has; None where only decoding tells.
        ignore_length: the header's length is wrong and the audio goes on to `end`.
    """

    begin: int
    end: int
    decoder: Literal["libsndfile", "ffmpeg", "either"] = "either"
    promised: float | None = None
    decoded: float | None = None
    ignore_length: bool = False


class Survey(NamedTuple):
    """Structure of a recording's file.

    Attributes:
        kind: "wav", "flac", "ogg", "mpeg", "text" or "other".
        parts: the recordings in it, in their order.
        problems: what is wrong with the structure.
    """

    kind: str
    parts: tuple[Part, ...]
    problems: tuple[Finding, ...] = ()


def survey(file: BinaryIO, size: int) -> Survey:
    """Survey an open file. Nothing is decoded, and nothing is allocated by a size that a header states.

    Args:
        file: the file, at any position; a file of the disk is mapped into memory.
        size: its length in bytes.

    Returns:
        The survey.

    Raises:
        UserError: the audio is cut off, by the container's own account; the message has no file name.
    """
    file.seek(0)
    head = file.read(4096)
    if head[:4] in _WAV and head[8:12] == b"WAVE":
        return _survey_wav(file, size)
    begin = _id3_size(head)
    magic = head[begin : begin + 4]
    if begin + 4 > len(head):
        file.seek(begin)
        magic = file.read(4)
    if magic == b"fLaC":
        return _survey_flac(_bytes_of(file, size), begin, size)
    if magic == b"OggS":
        return _survey_ogg(_bytes_of(file, size), size)
    if begin or _mpeg_frame(magic):
        found = _survey_mpeg(_bytes_of(file, size), begin, size)
        if found is not None:
            return found
    if is_text(head):
        return Survey("text", (Part(0, size),))
    starts = [0, *_again(file, head, size)]
    # libsndfile takes such a CAF for malformed, and all that follows the samples of a W64 for samples.
    decoder = "ffmpeg" if (head[:4] == b"caff" and was_piped(head)) or head.startswith(_W64) else "either"
    parts = tuple(Part(a, b, decoder) for a, b in zip(starts, [*starts[1:], size], strict=True))
    problem = _unread(file, head, size) if len(starts) == 1 else ""
    return Survey("other", parts, (Finding("length", problem),) if problem else ())


# First bytes of formats of which a second file may follow the first, and where a type follows that must be equal, too.
_MAGICS = (
    (0, b"FORM", 8), (0, b".snd", 0), (0, b"caff", 0), (0, b"NIST_1A", 0), (0, b"Creative Voice File", 0),
    (0, b"RIFF", 8), (0, b"RIFX", 8), (0, b"riff\x2e\x91\xcf\x11", 0), (0, b"\x1a\x45\xdf\xa3", 0), (4, b"ftyp", 8),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", 0), (0, b"FLV\x01", 0), (0, b"TTA1", 0), (0, b"#!AMR", 0), (0, b"2BIT", 0),
    (0, b"MATLAB 5", 0),
)  # fmt: skip
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def was_piped(head: bytes) -> bool:
    """Return True if the first bytes of a file state no length, as those of programs that write to a pipe."""
    if head[:4] == b"caff":
        return b"data" + b"\xff" * 8 in head
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return head[4:8] == b"\xff" * 4
    place = head.find(_ASF_PROPERTIES)
    return place >= 0 and bool(head[place + 88 : place + 89] and head[place + 88] & 1)  # "broadcast"


def _again(file: BinaryIO, head: bytes, size: int) -> Iterator[int]:
    """Yield where other files of the same format begin, of formats that are not surveyed further."""
    for at, magic, type_at in _MAGICS:
        if head[at : at + len(magic)] == magic:
            for piece in range(0, size, _PIECE):
                file.seek(piece)
                data = file.read(_PIECE + 64)
                place = at if piece == 0 else -1
                while 0 <= (place := data.find(magic, place + 1)) < _PIECE:
                    begin = place - at
                    if not type_at or data[begin + type_at : begin + type_at + 4] == head[type_at : type_at + 4]:
                        yield piece + begin
            return


def _unread(file: BinaryIO, head: bytes, size: int) -> str:
    """Describe bytes that the container's own lengths leave out, or that they promise and that are not there."""
    stated = int.from_bytes(head[4:8], "little") + 8 if head[:4] == b"RIFF" else 0
    if (place := head.find(_ASF_PROPERTIES)) >= 0:
        stated = int.from_bytes(head[place + 40 : place + 48], "little")
    if size < stated - WAV_SLACK < UNKNOWN:
        return f"its header promises {stated} bytes, {size} are there"
    if head[:4] == b"caff":
        position = 8
        for _ in range(_MAX_CHUNKS):
            if position + 12 > size:
                break
            file.seek(position)
            chunk = file.read(12)
            length = int.from_bytes(chunk[4:], "big", signed=True)
            if not chunk[:4].isascii() or not 0 <= length <= size:
                return "" if chunk[:4] == b"data" else f"{size - position} bytes in it are no chunks"
            position += 12 + length
    if head.startswith(_W64):
        return _unread_w64(file, size)
    if head[4:8] == b"ftyp":
        position = 0
        for _ in range(_MAX_CHUNKS):
            if position + 8 > size:
                break
            file.seek(position)
            box = file.read(16)
            length = int.from_bytes(box[:4], "big")
            length = int.from_bytes(box[8:], "big") if length == 1 else length
            if position and box[4:8] != b"ftyp" and _begins_recording(file, position):
                return f"{size - position} bytes after its end are another recording"
            if length < 8:
                break
            position += length
    return ""


_MAX_CHUNKS = 10_000  # of a container, which has a handful; a file of empty ones would take minutes
_W64 = b"riff\x2e\x91\xcf\x11"


def _unread_w64(file: BinaryIO, size: int) -> str:
    """Describe what is wrong with the chunks of a W64 file: a name of 16 bytes and a length of all of it, 8 bytes."""
    position, data = 40, False
    for _ in range(_MAX_CHUNKS):
        if position + 24 > size:
            break
        file.seek(position)
        chunk = file.read(24)
        length = int.from_bytes(chunk[16:], "little")
        if data and (length < 24 or not chunk[:4].isalpha()):
            return f"{size - position} bytes after its samples are no chunks"
        if chunk[:4] == b"data":
            data = True
            if position + length > size + WAV_SLACK and length < 1 << 62:
                return f"its header promises {position + length} bytes, {size} are there"
        position += max(24, -(-length // 8) * 8)
    return ""


def _bytes_of(file: BinaryIO, size: int):
    """Return the file's bytes, mapped if they are many and lie on a disk."""
    if size > _MAPPED:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, AttributeError):
            pass
    file.seek(0)
    return file.read()


def has_magic(head: bytes) -> bool:
    """Return True for the beginning of a recording in a format that begins with a mark of its own."""
    if head.startswith((*_WAV, b"fLaC", b"OggS", b"ID3")):
        return True
    return any(head[at : at + len(magic)] == magic for at, magic, _ in _MAGICS)


def is_text(head: bytes) -> bool:
    """Return True for the beginning of a text file."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return False
        text = head[: error.start].decode("utf-8")  # a character that the end of `head` cuts
    return all(c.isprintable() or c in "\r\n\t\f" for c in text)


def _id3_size(head: bytes) -> int:
    """Return the length of an ID3v2 tag at the beginning, or 0."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return size + (20 if head[5] & 0x10 else 10)


# --- WAV -------------------------------------------------------------------------------------------------------------


def _survey_wav(file: BinaryIO, size: int) -> Survey:
    parts: list[Part] = []
    problems: list[Finding] = []
    begin = 0
    while begin is not None and len(parts) < 10_000:
        part, problem, begin = _wav_part(file, begin, size)
        parts.append(part)
        problems += [Finding("length", problem)] if problem else []
    return Survey("wav", tuple(parts), tuple(problems))


def _wav_part(file: BinaryIO, begin: int, size: int) -> tuple[Part, str, int | None]:
    """Return one WAV file of the bytes from `begin`, what is wrong with it, and where another one begins."""
    file.seek(begin)
    magic = file.read(12)[:4]
    if magic not in _WAV:  # of another format, after one or more WAV files
        return Part(begin, size, "ffmpeg"), "", None
    position, wide, format_tag, bytes_per_second = begin + 12, 0, 1, 0
    for _ in range(64):  # chunks before the data
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            break
        length, position = int.from_bytes(head[4:], "little"), position + 8
        if head[:4] == b"ds64":
            wide = int.from_bytes(file.read(16)[8:], "little")
        elif head[:4] == b"fmt ":
            values = file.read(16)
            format_tag = int.from_bytes(values[:2], "little")
            bytes_per_second = int.from_bytes(values[8:12], "little")
        elif head[:4] == b"data":
            if magic != b"RIFF" and length == 0xFFFFFFFF:
                length = wide or UNKNOWN  # 0 where the program could not go back to write it
            return _wav_data(file, begin, position, length, size, format_tag, bytes_per_second)
        position += length + length % 2
    return Part(begin, size, "libsndfile"), "", None


def _wav_data(
    file: BinaryIO, begin: int, position: int, length: int, size: int, format_tag: int, bytes_per_second: int
) -> tuple[Part, str, int | None]:
    """Return the part of a WAV file whose samples begin at `position`, see `_wav_part`."""
    decoder = "libsndfile" if format_tag in _LIBSNDFILE_WAV else "ffmpeg"
    present = size - position
    if length == present and decoder == "libsndfile":
        return Part(begin, size, decoder), "", None
    seconds = length / bytes_per_second if bytes_per_second else None
    whole = Part(begin, size, decoder, None if decoder == "ffmpeg" else seconds)
    if length >= UNKNOWN and length > present:
        rf64 = length == UNKNOWN  # of which libsndfile believes the length of 0
        return whole._replace(decoder="ffmpeg" if rf64 else decoder, promised=None, ignore_length=rf64), "", None
    if length > present:
        if length > present + WAV_SLACK:
            raise UserError(f"cut off: found {present} bytes of samples, expected the {length} of its header")
        return whole, f"its header promises {length - present} bytes more than there are", None
    after = _after_chunks(file, position + length, size)
    if after is None:
        return whole, "", None
    if _begins_recording(file, after):
        return whole._replace(end=after), "", after
    unstated = size - (position + length)
    if length == 0:
        problem = f"its header promises no samples, {unstated} bytes of them follow"
    else:
        problem = f"its header promises {length} bytes of samples, {unstated} more follow"
    return Part(begin, size, "ffmpeg", seconds, ignore_length=True), problem, None


def _after_chunks(file: BinaryIO, position: int, size: int) -> int | None:
    """Return where bytes begin, after the samples and the chunks behind them, that are neither chunk nor tag."""
    for _ in range(1024):
        for start in (position + position % 2, position):  # chunks are padded to even bytes; not every writer does
            file.seek(start)
            head = file.read(16)
            if _begins_recording(file, start):
                return start
            length = int.from_bytes(head[4:8], "little")
            if len(head) >= 8 and head[:4].isascii() and head[:4].decode().isprintable() and start + 8 + length <= size:
                position = start + 8 + length
                break
            if head.startswith(_TAGS):
                position = start + (_tag_size(head + bytes(32), 0, size - start) or size)
                break
        else:
            if len(head) < 4:
                return None
            file.seek(position)
            return position if any(file.read(min(size - position, 1 << 20))) else None  # zeros fill up a block
        if position >= size:
            return None
    return None


def _begins_recording(file: BinaryIO, position: int) -> bool:
    """Return True if a recording begins at a place, perhaps after a tag."""
    file.seek(position)
    file.seek(position + _id3_size(file.read(10)))
    data = file.read(1 << 13)
    if data.startswith((b"fLaC", b"OggS", *_WAV)) or data[4:8] == b"ftyp":
        return True
    place = 0
    for _ in range(3):  # samples can look like the header of one frame
        frame = _mpeg_frame(data[place : place + 4])
        if frame is None:
            return False
        place += frame.size
    return True


# --- FLAC ------------------------------------------------------------------------------------------------------------


def _survey_flac(data, begin: int, size: int) -> Survey:
    """Return the FLAC files of some bytes; one whose last frame is where its header says is read by libsndfile."""
    starts = [begin, *_flac_heads(data, begin + 4, size)]
    parts, problems = [], []
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], size], strict=True)):
        start = 0 if number == 0 else start  # with the tag
        rate, promised, last, place = _flac_lengths(data, starts[number], end)
        begins, frames_rate = _flac_first(data, starts[number], end)
        if frames_rate and frames_rate != rate > 0:
            raise UserError(f"found a sample rate of {rate} in its header and of {frames_rate} in its frames")
        other = min((p for magic in _AFTER_FLAC if (p := data.find(magic, place, end)) >= 0), default=end)
        if other < end:
            problems.append(Finding("length", f"{end - other} bytes after its end are another recording"))
        if last == promised:  # both count the samples before the first, which are not there
            promised, last = promised - begins, last - begins
        known = rate > 0 and promised > 0
        decoder = "libsndfile" if known and last == promised and not begins else "ffmpeg"
        parts.append(Part(start, end, decoder, promised / rate if known else None))
    return Survey("flac", tuple(parts), tuple(problems))


def _flac_heads(data, begin: int, end: int) -> Iterator[int]:
    """Yield where FLAC files begin, in bounded memory and faster than `bytes.find`, whose time would be noticed."""
    for piece in range(begin, end, _PIECE):
        values = np.frombuffer(data, np.uint8, min(end, piece + _PIECE + 1) - piece, piece)
        for place in np.flatnonzero((values[:-1] == _FLAC_HEAD[0]) & (values[1:] == _FLAC_HEAD[1])) + piece:
            if data[place : place + len(_FLAC_HEAD)] == _FLAC_HEAD:
                yield int(place)


def _flac_lengths(data, begin: int, end: int) -> tuple[int, int, int, int]:
    """Return (sample rate, samples that the header states, those up to the end of the last frame or -1, its place)."""
    info = data[begin + 8 : begin + 42]
    if len(info) < 34:
        return 0, 0, -1, end
    rate = info[10] << 12 | info[11] << 4 | info[12] >> 4
    total = (info[13] & 0x0F) << 32 | int.from_bytes(info[14:18], "big")
    block = int.from_bytes(info[:2], "big")
    sync = b"\xff\xf8" if info[:2] == info[2:4] else b"\xff\xf9"  # blocks of one size, or of several
    first = max(begin + 42, end - _FLAC_TAIL)
    tail = data[first:end]
    place = len(tail)
    while (place := tail.rfind(sync, 0, place)) >= 0:
        frame = _flac_frame(tail[place : place + 18], block)
        if frame is not None:
            return rate, total, frame.after, first + place
    return rate, total, -1, first


def _flac_first(data, begin: int, end: int) -> tuple[int, int]:
    """Return (number of the first sample, sample rate that the first frame states); 0 for what cannot be told.

    The number is above 0 if the file was cut out of a longer one. libsndfile then takes the number of its last sample
    for its length.
    """
    place = begin + 4
    for _ in range(_MAX_CHUNKS):
        if place + 4 > end:
            break
        head = data[place : place + 4]
        place += 4 + int.from_bytes(head[1:], "big")
        if head[0] & 0x80:
            break
    head, block = bytes(data[place : min(end, place + 18)]), int.from_bytes(data[begin + 8 : begin + 10], "big")
    frame = _flac_frame(head, block) if head[:2] in (b"\xff\xf8", b"\xff\xf9") else None
    return (frame.first, frame.rate) if frame else (0, 0)


_FLAC_RATES = {
    code: round(1000 * kilohertz)
    for code, kilohertz in enumerate((88.2, 176.4, 192, 8, 16, 22.05, 24, 32, 44.1, 48, 96), 1)
}


class _FlacFrame(NamedTuple):
    """Header of a FLAC frame: numbers of its first sample and of the one after it; sample rate, 0 for the file's."""

    first: int
    after: int
    rate: int


def _flac_frame(head: bytes, block: int) -> _FlacFrame | None:
    """Return the header of a FLAC frame, or None if the bytes are none."""
    if len(head) < 10:
        return None
    code, first = head[2] >> 4, head[4]
    ones = 8 - (first ^ 0xFF).bit_length()  # the number is coded as UTF-8 codes a character
    if ones == 1 or ones == 8 or code == 0:
        return None
    extra = max(0, ones - 1)
    number = first & (0x7F >> ones)
    for byte in head[5 : 5 + extra]:
        number = number << 6 | byte & 0x3F
    at = 5 + extra
    if code == 1:
        length = 192
    elif code < 6:
        length = 576 << (code - 2)
    elif code == 6:
        length, at = int.from_bytes(head[at : at + 1], "big") + 1, at + 1
    elif code == 7:
        length, at = int.from_bytes(head[at : at + 2], "big") + 1, at + 2
    else:
        length = 256 << (code - 8)
    code = head[2] & 0x0F
    size, unit = {12: (1, 1000), 13: (2, 1), 14: (2, 10)}.get(code, (0, 0))
    rate = int.from_bytes(head[at : at + size], "big") * unit if size else _FLAC_RATES.get(code, 0)
    at += size
    if at >= len(head) or _crc8(head[:at]) != head[at]:
        return None
    begin = number if head[1] & 1 else number * block
    return _FlacFrame(begin, begin + length, rate)


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 0x07) & 0xFF if value & 0x80 else value << 1
    return value


# --- Ogg -------------------------------------------------------------------------------------------------------------


def _survey_ogg(data, size: int) -> Survey:
    """Return the links of an Ogg file: recordings that follow one another, each with its own beginning."""
    starts, problems = [0], []
    streams, ended, sequence = 1, False, {}
    beginning = True  # pages that begin streams stand together
    position = lost = missing = 0
    while position < size:
        head = data[position : position + 27]
        if head[:4] != b"OggS" or len(head) < 27:
            after = data.find(b"OggS", position + 1)
            after = size if after < 0 else after
            if position + _tag_size(data, position, size) < after or after < size:
                lost += after - position
            position = after
            continue
        flags, serial = head[5], head[14:18]
        if flags & 2:
            if beginning and position:
                streams += 1
            elif position:
                starts.append(position)
            beginning = True
            sequence.pop(serial, None)
        else:
            beginning = False
        number = int.from_bytes(head[18:22], "little")
        if serial in sequence and number != sequence[serial] + 1 and not flags & 2:
            missing += 1
        sequence[serial] = number
        ended = bool(flags & 4)
        position += 27 + head[26] + sum(data[position + 27 : position + 27 + head[26]])
    if lost:
        problems.append(Finding("damaged", f"{lost} bytes in it are no Ogg pages"))
    if missing:
        problems.append(Finding("damaged", f"Ogg pages are missing at {missing} places"))
    if position > size or not ended:
        problems.append(Finding("cut off", "cut off: its last Ogg page lacks the mark of the end"))
    decoder = "either" if streams == 1 else "ffmpeg"
    parts = [Part(a, b, decoder) for a, b in zip(starts, [*starts[1:], size], strict=True)]
    return Survey("ogg", tuple(parts), tuple(problems))


# --- MP3 and its older layers ----------------------------------------------------------------------------------------


class _Frame(NamedTuple):
    size: int
    samples: int
    rate: int
    key: int  # version, layer and rate, equal in all frames of a recording


@functools.lru_cache(maxsize=1 << 12)  # a recording has few different headers
def _mpeg_frame(head: bytes) -> _Frame | None:
    """Return what the header of an MPEG audio frame states, or None if the bytes are none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer, bitrate, rate = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    first = version == 3
    kbits = _BITRATES[1 if first else 2, layer][bitrate]
    rate = _MPEG_RATES[rate] >> (0 if first else 1 if version == 2 else 2)
    padding = head[2] >> 1 & 1
    samples = 384 if layer == 1 else 1152 if layer == 2 or first else 576
    size = (12_000 * kbits // rate + padding) * 4 if layer == 1 else samples * 125 * kbits // rate + padding
    return _Frame(size, samples, rate, head[1] & 0x1E | (head[2] & 0x0C) << 8)


def _mpeg_frames(data, begin: int, end: int) -> Iterator[tuple[int, _Frame | None, int]]:
    """Yield (place, frame, bytes before it that are no audio); at last (end, None, bytes)."""
    position, lost = begin, 0
    while position + 4 <= end:
        frame = _mpeg_frame(data[position : position + 4])
        after = position + (frame.size if frame else 0)
        if frame is not None and (after + 4 > end or lost == 0 or _mpeg_frame(data[after : after + 4]) is not None):
            yield position, frame, lost
            position, lost = position + frame.size, 0
            continue
        tag = _tag_size(data, position, end)
        if tag:
            position += tag
            continue
        after = data.find(b"\xff", position + 1, end)
        after = end if after < 0 else after
        lost, position = lost + after - position, after
    if end > position and not data[position:end].startswith(_TAGS):
        lost += end - position
    yield position, None, lost


def _tag_size(data, position: int, end: int) -> int:
    """Return the length of a music player's tag, or of zeros, at a place; 0 if there is none."""
    head = data[position : position + 32]
    if head.startswith(b"ID3"):
        return min(_id3_size(head), end - position)
    if head.startswith(b"TAG"):
        return min(128, end - position)
    if head.startswith(b"APETAGEX"):
        return min(int.from_bytes(head[12:16], "little") + 32, end - position)
    if head.startswith(b"LYRICSBEGIN"):
        return end - position
    if head and not any(head):
        stop = position + len(head)
        while stop < end and not any(piece := data[stop : stop + 4096]) and piece:
            stop += len(piece)
        return min(stop, end) - position
    return 0


def _survey_mpeg(data, begin: int, size: int) -> Survey | None:
    """Return the MP3 files of some bytes, each of which may begin with a Xing or Info frame; None if they are none."""
    parts: list[Part] = []
    lost = samples = frames = rate = key = 0
    promised = None
    start = cut = 0

    def close(end: int) -> None:
        if frames:
            decoded = samples / rate
            parts.append(Part(start, end, "either", None if promised is None else promised / rate, decoded))

    for position, frame, skipped in _mpeg_frames(data, begin, size):
        if skipped and not frames and not parts and (begin == 0 or skipped > 4096):
            return None  # it does not begin with a frame
        lost += skipped
        if frame is None:
            close(size)
            break
        count = _xing_frames(data, position, frame)
        if count is not None or (key and frame.key != key):
            if frames:
                close(position)
                start = position
            samples = frames = 0
            promised = None if not count else count * frame.samples
            rate, key = frame.rate, frame.key
            if count is not None:
                continue
        rate, key = frame.rate, frame.key
        if position + frame.size > size:
            cut = position + frame.size - size
        samples, frames = samples + frame.samples, frames + 1
    if not parts or lost > size // 2 or (len(parts) == 1 and parts[0].decoded == 0) or lost and frames < 2:
        return None
    problems = []
    if lost:
        problems.append(Finding("damaged", f"{lost} bytes in it are no MP3 frames"))
    if cut:
        problems.append(Finding("cut off", f"cut off: its last MP3 frame lacks {cut} bytes"))
    return Survey("mpeg", tuple(parts), tuple(problems))


def _xing_frames(data, position: int, frame: _Frame) -> int | None:
    """Return the number of frames that a Xing or Info frame states, 0 if it states none; None for a frame of audio."""
    if any(data[position + 6 : position + 12]):  # the side information of such a frame is 0
        return None
    head = data[position : position + min(frame.size, 64)]
    place = max(head.find(b"Xing"), head.find(b"Info"))
    if place < 0:
        vbri = head.find(b"VBRI")
        return None if vbri < 0 else int.from_bytes(data[position + vbri + 14 : position + vbri + 18], "big")
    flags = int.from_bytes(head[place + 4 : place + 8], "big")
    return int.from_bytes(head[place + 8 : place + 12], "big") if flags & 1 else 0
