"""Debian packages as a source of recordings, fetched with `apt-get download` or given, and unpacked, not installed.

A .deb file is an `ar` archive that contains data.tar.{xz,gz,bz2}; reading it needs neither dpkg nor root.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speech_jax.core.errors import UserError

_MAGIC = b"!<arch>\n"


def package_root(names: Sequence[str], work_dir: Path, packages: Path | None) -> Path:
    """Return the folder that contains the unpacked packages' `usr/`. Packages are unpacked to work_dir/root, once.

    Args:
        names: names of the packages.
        work_dir: the folder for downloads and unpacked files.
        packages: a folder of .deb files, or a root in which they are unpacked or installed (such as "/"); None runs
            `apt-get download` into work_dir/debs.

    Raises:
        UserError: a package is missing or damaged, or there is no apt-get.
    """
    if packages is not None:
        packages = Path(packages)
        if not packages.is_dir():
            raise UserError(f"{packages}: no such folder, expected .deb files or an unpacked root")
        if not any(packages.glob("*.deb")):
            if (packages / "usr").is_dir():
                return packages
            raise UserError(f"{packages}: found neither .deb files nor usr/, expected the packages {', '.join(names)}")
    root = work_dir / "root"
    for name in names:
        done = work_dir / f"{name}.unpacked"
        if done.exists():
            continue
        deb = _find(name, packages) if packages is not None else _download(name, work_dir / "debs")
        _unpack(deb, root)
        done.touch()
    return root


def _find(name: str, folder: Path) -> Path:
    files = sorted(folder.glob(f"{name}_*.deb")) + sorted(folder.glob(f"{name}.deb"))
    if not files:
        raise UserError(f"{folder}: found no {name}_*.deb, expected the Debian package {name}")
    return files[-1]


def _download(name: str, folder: Path) -> Path:
    files = sorted(folder.glob(f"{name}_*.deb"))
    if files:
        return files[-1]
    advice = (
        f"expected to fetch {name}; elsewhere, download its .deb from packages.debian.org and give --packages FOLDER"
    )
    apt = shutil.which("apt-get")
    if apt is None:
        raise UserError(f"apt-get: no such program, {advice}")
    partial = folder / "partial"  # apt writes under the final name, so a cut download must not be taken for a package
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    result = subprocess.run([apt, "download", name], cwd=partial, capture_output=True, text=True, check=False)
    files = sorted(partial.glob("*.deb"))
    if result.returncode or not files:
        lines = [line for line in result.stderr.splitlines() if line.startswith("E:")]
        raise UserError(f"apt-get download {name}: {(lines or ['found no such package'])[0]}, {advice}")
    return files[0].rename(folder / files[0].name)


def _unpack(deb: Path, root: Path) -> None:
    """Unpack the data member of a .deb to `root`, without devices and links that lead outside."""
    try:
        with open(deb, "rb") as file:
            name, size = _seek_data(file, deb)
            start = file.tell()
            if start + size > deb.stat().st_size:
                raise UserError(f"{deb}: cut off, expected {start + size} bytes")
            try:
                mode: Any = "r|" + name.rpartition(".")[2]
                with tarfile.open(fileobj=file, mode=mode) as archive:
                    archive.extractall(root, filter=_safe)
            except (tarfile.TarError, EOFError, ValueError) as error:
                raise UserError(f"{deb}: {name} is damaged ({error}), expected a Debian package") from error
    except OSError as error:
        raise UserError(f"{deb}: {error.strerror or error}, expected a Debian package that can be unpacked") from error


def _safe(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    try:
        return tarfile.data_filter(member, path)
    except tarfile.FilterError:
        return None


def _seek_data(file, deb: Path) -> tuple[str, int]:
    """Seek to the start of the data member, and return its name and size."""
    if file.read(8) != _MAGIC:
        raise UserError(f"{deb}: found no ar archive, expected a Debian package")
    while len(header := file.read(60)) == 60:
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        size = header[48:58].decode("ascii", "replace").strip()
        if header[58:] != b"`\n" or not size.isdigit():
            break
        if name in ("data.tar.xz", "data.tar.gz", "data.tar.bz2"):
            return name, int(size)
        file.seek(int(size) + int(size) % 2, 1)
    raise UserError(f"{deb}: found no data.tar.xz, .gz or .bz2 in it, expected a Debian package")
