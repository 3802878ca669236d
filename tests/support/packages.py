"""Debian packages made on the spot, for the tests of the recipes."""

import io
import tarfile
from pathlib import Path

import numpy as np
import soundfile


def make_deb(folder: Path, name: str, files: dict[str, bytes], compression: str = "xz", extra=()) -> Path:
    """folder/NAME_1_all.deb with `files` (path -> content); `extra` are TarInfo of links and the like."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{compression}") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra:
            archive.addfile(member)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_1_all.deb"
    members = {"debian-binary": b"2.0\n", "control.tar.gz": b"odd", f"data.tar.{compression}": data.getvalue()}
    with open(path, "wb") as file:
        file.write(b"!<arch>\n")
        for member_name, content in members.items():
            header = f"{member_name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
            file.write(header.encode() + content + b"\n" * (len(content) % 2))
    return path


def sound(seconds: float, seed: int, *, rate: int = 22_050, format: str = "OGG", channels: int = 1) -> bytes:
    """A file of noise."""
    generator = np.random.default_rng(seed)
    samples = generator.uniform(-0.3, 0.3, (int(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format)
    return file.getvalue()


def name_with(wanted: int, modulo: int, pattern: str, hashed=lambda name: name.encode()) -> str:
    """The first name of `pattern % number` whose crc32 has the wanted remainder."""
    import zlib

    return next(pattern % n for n in range(10_000) if zlib.crc32(hashed(pattern % n)) % modulo == wanted)
