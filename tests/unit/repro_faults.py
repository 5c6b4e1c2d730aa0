"""A builder that is irreproducible on purpose: for every cause of the table, two trees that differ only by it."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

Fault = Callable[[Path, Path], None]


def put(root: Path, path: str, data: bytes) -> Path:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


def content(path: str, a: bytes, b: bytes) -> Fault:
    def inject(one: Path, two: Path) -> None:
        put(one, path, a)
        put(two, path, b)

    return inject


def only(path: str, data: bytes = b"x") -> Fault:
    def inject(one: Path, two: Path) -> None:
        put(one, path, data)
        place = two / path
        place.parent.mkdir(parents=True, exist_ok=True)

    return inject


def each(action: Callable[[Path, int], object]) -> Fault:
    """Run ``action`` on the same file of both trees, with the number of the tree."""

    def inject(one: Path, two: Path) -> None:
        for number, root in enumerate((one, two)):
            action(put(root, "usr/lib/victim", b"same"), number)

    return inject


def tar(*members: tuple[str, bytes, int]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, body, time in members:
            item = tarfile.TarInfo(name)
            item.size, item.mtime = len(body), time
            archive.addfile(item, io.BytesIO(body))
    return out.getvalue()


def pe(stamp: int) -> bytes:
    head = bytearray(0x100)
    head[:2], head[0x3C:0x40], head[0x80:0x84] = b"MZ", (0x80).to_bytes(4, "little"), b"PE\0\0"
    head[0x88:0x8C] = stamp.to_bytes(4, "little")
    return bytes(head) + b"code"


def signed(signature: bytes) -> bytes:
    tail = struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, len(signature))
    return b"\x7fELF module body" + signature + tail + b"~Module signature appended~\n"


def elf(identifier: bytes) -> bytes:
    return b"\x7fELF" + b"\x04\0\0\0" + b"\x14\0\0\0\x03\0\0\0GNU\0" + identifier * 20 + b"code"


def links(place: Path, number: int) -> None:
    other = place.with_name("other")
    if number:
        other.write_bytes(b"same")
    else:
        os.link(place, other)


def symbolic(place: Path, number: int) -> None:
    place.with_name("pointer").symlink_to(f"target-{number}")


def kind(place: Path, number: int) -> None:
    if number:
        place.unlink()
        place.symlink_to("elsewhere")


def attribute(name: str, value: bytes = b"1") -> Callable[[Path, int], None]:
    def action(place: Path, number: int) -> None:
        if number:
            os.setxattr(place, name, value)

    return action


# Owner rw, user 5 r, group r, mask r, others r: what the mode 0644 says too.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *row)
    for row in [(1, 6, 2**32 - 1), (2, 4, 5), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 4, 2**32 - 1)]
)
PYC = b"\xf3\r\r\n\0\0\0\0"

TREE_FAULTS: dict[str, Fault] = {
    "ldconfig-cache": content("var/cache/ldconfig/aux-cache", b"inode 1", b"inode 2"),
    "log": content("var/log/alternatives.log", b"2026-01-01", b"2026-01-02"),
    "machine-id": content("etc/machine-id", b"aa\n", b"bb\n"),
    "random-seed": content("var/lib/systemd/random-seed", b"\1", b"\2"),
    "ssh-host-key": content("etc/ssh/ssh_host_rsa_key", b"-----BEGIN KEY 1", b"-----BEGIN KEY 2"),
    "module-key": only("var/lib/dkms/mok.key"),
    "account-backup": only("etc/passwd-"),
    "account-date": content("etc/shadow", b"root:!:20000::::::\n", b"root:!:20400::::::\n"),
    "account-order": content("etc/passwd", b"a:x:1:1\nb:x:2:2\n", b"b:x:2:2\na:x:1:1\n"),
    "account-ids": content("etc/group", b"a:x:1:\nb:x:2:\n", b"a:x:2:\nb:x:1:\n"),
    "dpkg-database": content("var/lib/dpkg/status", b"Package: a", b"Package: b"),
    "debconf-cache": content("var/cache/debconf/config.dat", b"1", b"2"),
    "apt-state": only("var/lib/apt/extended_states"),
    "compute-cache": only("root/.triton/cache/kernel"),
    "index-cache": content("usr/share/icons/hicolor/icon-theme.cache", b"1", b"2"),
    "systemd-index": content("usr/lib/udev/hwdb.bin", b"1", b"2"),
    "unit-links": only("etc/systemd/system/multi-user.target.wants/a.service"),
    "initramfs": content("boot/initrd.img-6", b"1", b"2"),
    "depmod": content("usr/lib/modules/6/modules.dep", b"a:", b"b:"),
    "ld-so-cache": content("etc/ld.so.cache", b"1", b"2"),
    "locale-archive": only("usr/lib/locale/locale-archive"),
    "wheel-path": content("usr/lib/x.dist-info/direct_url.json", b'{"url": "a"}', b'{"url": "b"}'),
    "wheel-record": content("usr/lib/x.dist-info/RECORD", b"a,1\nb,2", b"a,1\nb,3"),
    "compiled-time": content("usr/lib/__pycache__/a.pyc", PYC + b"time1234code", PYC + b"time5678code"),
    "compiled-order": content("usr/lib/__pycache__/a.pyc", PYC + b"timesizeab", PYC + b"timesizeba"),
    "compiled-presence": only("usr/lib/__pycache__/a.pyc"),
    "emptied": content("usr/lib/data", b"words", b""),
    "module-signature": content("usr/lib/a.ko", signed(b"one"), signed(b"twotwo")),
    "gpu-module-stamp": content("usr/lib/nvidia.ko", b"NVRM by alice", b"NVRM by robert"),
    "kernel-stamp": content("usr/lib/kernel", b"Linux version 6 (a@b) #1", b"Linux version 6 (c@d) #2"),
    "build-id": content("usr/bin/tool", elf(b"a"), elf(b"b")),
    "go-build-id": content("usr/bin/tool", b'code Go build ID: "aaaa/1"', b'code Go build ID: "bbb/22"'),
    "pe-time": content("usr/lib/boot.efi", pe(1_700_000_000), pe(1_800_000_000)),
    "gzip-time": content("usr/share/a.gz", gzip.compress(b"text", mtime=1), gzip.compress(b"text", mtime=2)),
    "compression": content(
        "usr/share/a.z", zlib.compress(b"a" * 99 + b"b" * 99, 1), zlib.compress(b"a" * 99 + b"b" * 99, 9)
    ),
    "archive-time": content("usr/share/a.tar", tar(("a", b"1", 1)), tar(("a", b"1", 2))),
    "archive-order": content(
        "usr/share/a.tar", tar(("a", b"1", 1), ("b", b"2", 1)), tar(("b", b"2", 1), ("a", b"1", 1))
    ),
    "database": content("usr/share/a.db", b"SQLite format 3\0" + b"1", b"SQLite format 3\0" + b"22"),
    "key-material": content("etc/own.pem", b"-----BEGIN PRIVATE KEY-----\nQQ", b"-----BEGIN PRIVATE KEY-----\nZZ"),
    "json-order": content("etc/a.json", b'{"a": 1, "b": 2}', b'{"b": 2, "a": 1}'),
    "line-order": content("etc/list", b"alpha\nbeta\n", b"beta\nalpha\n"),
    "build-path": content("usr/bin/tool", b"\x7fELF /tmp/leg-a/src/x.c\0", b"\x7fELF /home/b/src/x.c\0"),
    "random-id": content(
        "etc/a", b"id=6d0b8a7e-1f3c-5a55-9a0e-6c1f2b7d4e90", b"id=7d0b8a7e-1f3c-5a55-9a0e-6c1f2b7d4e91"
    ),
    "address": content("etc/a", b"object at 0x7f0011223344>", b"object at 0x7f99aabbccdd>"),
    "processor-count": content("etc/a", b"make -j2", b"make -j16"),
    "locale": content("etc/a", b"LANG=de_DE.UTF-8", b"LANG=tr_TR.UTF-8"),
    "time-stamp": content(
        "etc/a", b"built on Sat Nov 21 23:23:20 UTC 2026\n", b"built on Sun Dec  5 01:02:03 UTC 2027\n"
    ),
    "time-zone": content("etc/a", b"zone Pacific/Kiritimati\n", b"zone Europe/Paris\n"),
    "git-describe": content("etc/a", b"v1.2-3-gabc1234", b"v1.2-3-gabc12345"),
    "builder-name": content("etc/a", b"by root@host-a!", b"by joe@other!"),
    "temporary-name": content("etc/a", b"from tmpab12cd34", b"from tmpzz99yy88"),
    "random-bytes": content("etc/a", b"salt deadbeefdeadbeef", b"salt 0123456789abcdef"),
    "hash-order": content("etc/a", b"{'x', 'yy', 'z'}", b"{'z', 'x', 'yy'}"),
    "umask": each(lambda place, n: place.chmod(0o600 if n else 0o644)),
    "mode": each(lambda place, n: place.chmod(0o4755 if n else 0o755)),
    "owner": each(lambda place, n: os.chown(place, n, 0) if os.geteuid() == 0 else None),
    "file-time": each(lambda place, n: os.utime(place, (5, 5 + n))),
    "acl": each(attribute("system.posix_acl_access", ACL)),
    "security-label": each(attribute("security.selinux")),
    "attribute": each(attribute("user.note")),
    "hard-links": each(links),
    "link-target": each(symbolic),
    "file-type": each(kind),
    "temporary-file": only("usr/lib/tmpab12"),
    "missing-or-extra": only("usr/share/more"),
    "unknown-content": content("etc/a", b"apple", b"pear tree"),
}
