"""Debian packages: found, fetched, unpacked; nothing leaves the folder."""

import os
import tarfile

import pytest

from speech_jax.core.errors import UserError
from speech_jax.data.recipes import debian
from tests.support.packages import make_deb


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2"])
def test_unpacks_given_packages_once(tmp_path, compression):
    make_deb(
        tmp_path / "debs", "sounds", {"./usr/share/a.txt": b"first", "./usr/share/b/c.bin": bytes(1000)}, compression
    )
    make_deb(tmp_path / "debs", "sounds-extra", {"./usr/share/extra.txt": b"second"}, compression)
    root = debian.package_root(["sounds", "sounds-extra"], tmp_path / "work", tmp_path / "debs")
    assert (root / "usr/share/a.txt").read_bytes() == b"first"
    assert (root / "usr/share/b/c.bin").read_bytes() == bytes(1000)
    assert (root / "usr/share/extra.txt").read_bytes() == b"second"
    (root / "usr/share/a.txt").write_bytes(b"kept")
    debian.package_root(["sounds", "sounds-extra"], tmp_path / "work", tmp_path / "debs")
    assert (root / "usr/share/a.txt").read_bytes() == b"kept"


def test_members_that_lead_outside_are_left_out(tmp_path):
    link = tarfile.TarInfo("./usr/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    up = tarfile.TarInfo("./usr/up")
    up.type, up.linkname = tarfile.SYMTYPE, "../../.."
    device = tarfile.TarInfo("./usr/device")
    device.type = tarfile.CHRTYPE
    files = {"../evil.txt": b"x", "./usr/good.txt": b"y"}
    make_deb(tmp_path / "debs", "p", files, extra=(link, up, device))
    root = debian.package_root(["p"], tmp_path / "work", tmp_path / "debs")
    assert (root / "usr/good.txt").read_bytes() == b"y"
    assert not (tmp_path / "work/evil.txt").exists()
    assert sorted(os.listdir(root / "usr")) == ["good.txt"]


def test_an_unpacked_root_is_taken_as_it_is(tmp_path):
    (tmp_path / "usr").mkdir()
    assert debian.package_root(["p"], tmp_path / "work", tmp_path) == tmp_path
    assert not (tmp_path / "work").exists()


def test_folders_without_packages(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        debian.package_root(["p"], tmp_path / "work", tmp_path / "absent")
    with pytest.raises(UserError, match="neither .deb files nor usr/.*p, q"):
        debian.package_root(["p", "q"], tmp_path / "work", tmp_path)
    make_deb(tmp_path, "p", {"./usr/a": b""})
    with pytest.raises(UserError, match=r"no q_\*\.deb"):
        debian.package_root(["p", "q"], tmp_path / "work", tmp_path)


@pytest.mark.parametrize("damage", ["magic", "cut", "flipped", "empty"])
def test_damaged_package(tmp_path, damage):
    path = make_deb(tmp_path, "p", {"./usr/a": os.urandom(5000)})
    content = bytearray(path.read_bytes())
    if damage == "magic":
        content[:8] = b"PK\3\4...."
    elif damage == "cut":
        content = content[:-1000]
    elif damage == "flipped":
        content[-2000:-1500] = bytes(500)
    else:
        content = b""
    path.write_bytes(content)
    with pytest.raises(UserError, match="p_1_all.deb.*expected") as error:
        debian.package_root(["p"], tmp_path / "work", tmp_path)
    assert "\n" not in str(error.value)
    # What failed is not taken for done the next time.
    make_deb(tmp_path, "p", {"./usr/a": b"good"})
    root = debian.package_root(["p"], tmp_path / "work", tmp_path)
    assert (root / "usr/a").read_bytes() == b"good"


def test_without_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get: no such program.*--packages"):
        debian.package_root(["p"], tmp_path / "work", None)


def _fake_apt(folder, script: str) -> None:
    folder.mkdir(exist_ok=True)
    apt = folder / "apt-get"
    apt.write_text("#!/bin/sh\n" + script)
    apt.chmod(0o755)


def test_apt_downloads_into_the_work_folder(tmp_path, monkeypatch):
    deb = make_deb(tmp_path / "mirror", "p", {"./usr/a": b"fetched"})
    _fake_apt(tmp_path / "bin", f'[ "$1 $2" = "download p" ] && cp {deb} . && echo run >> {tmp_path}/runs\n')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    root = debian.package_root(["p"], tmp_path / "work", None)
    assert (root / "usr/a").read_bytes() == b"fetched"
    (tmp_path / "work/p.unpacked").unlink()
    debian.package_root(["p"], tmp_path / "work", None)
    assert (tmp_path / "runs").read_text() == "run\n", "a package that is there is not fetched again"


def test_apt_that_finds_nothing(tmp_path, monkeypatch):
    _fake_apt(tmp_path / "bin", "echo 'W: something' >&2; echo 'E: Unable to locate package p' >&2; exit 100\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    with pytest.raises(UserError, match="apt-get download p: E: Unable to locate package p, .*--packages"):
        debian.package_root(["p"], tmp_path / "work", None)
