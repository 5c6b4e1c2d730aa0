"""A Debian archive in miniature: .debs and lists made here, InRelease files signed once by a throwaway key.

`python tests/unit/fake_archive.py` signs again, with a new key that is discarded at once; it needs gpg. The signed
text is a function of this file, and a test compares the two.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent / "archive"
KEYRING = HERE / "keyring.gpg"


@dataclass(frozen=True)
class Deb:
    """One package of the archive."""

    name: str
    version: str
    depends: str = ""
    # Further lines of the control file.
    more: str = ""

    @property
    def control(self) -> str:
        depends = f"Depends: {self.depends}\n" if self.depends else ""
        return (
            f"Package: {self.name}\nVersion: {self.version}\nArchitecture: amd64\nMaintainer: nobody\n"
            f"{depends}{self.more}Description: nothing\n"
        )

    @property
    def pool(self) -> str:
        return f"pool/main/{self.name}_{self.version}_amd64.deb"

    @property
    def data(self) -> bytes:
        out = b"!<arch>\n"
        members = {
            "debian-binary": b"2.0\n",
            "control.tar": _tar("./control", self.control.encode()),
            "data.tar": _tar(f"./usr/share/{self.name}", self.version.encode()),
        }
        for name, body in members.items():
            out += b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (name.encode(), 0, 0, 0, 0o100644, len(body))
            out += body + b"\n" * (len(body) & 1)
        return out

    @property
    def stanza(self) -> str:
        digest = hashlib.sha256(self.data).hexdigest()
        return f"{self.control}Filename: {self.pool}\nSize: {len(self.data)}\nSHA256: {digest}\n\n"


@dataclass(frozen=True)
class State:
    """One suite of the archive at one time."""

    date: str
    valid_until: str | None
    debs: tuple[Deb, ...]
    origin: str = "Debian"
    suite: str = "testing"
    codename: str = "forky"
    # Lists are then asked for by their digest, so that a mirror in the middle of an update has them all.
    by_hash: bool = False

    @property
    def packages(self) -> bytes:
        return "".join(deb.stanza for deb in self.debs).encode()

    @property
    def release(self) -> str:
        data = self.packages
        by_hash = "Acquire-By-Hash: yes\n" if self.by_hash else ""
        until = "" if self.valid_until is None else f"Valid-Until: {self.valid_until}\n"
        return (
            f"Origin: {self.origin}\nLabel: {self.origin}\nSuite: {self.suite}\nCodename: {self.codename}\n"
            f"Date: {self.date}\n{until}{by_hash}Architectures: amd64\nComponents: main\n"
            f"SHA256:\n {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-amd64/Packages\n"
        )


def kernel(version: str) -> tuple[Deb, ...]:
    """A kernel as Debian splits it, with the metapackage that leads to it."""
    release = f"{version}-cloud-amd64"
    inner = f"linux-binary-{release} (= {version}), linux-modules-{release} (= {version})"
    return (
        Deb("linux-image-cloud-amd64", version, f"linux-modules-cloud-amd64, linux-image-{release} (= {version})"),
        Deb("linux-modules-cloud-amd64", version, f"linux-modules-{release} (= {version})"),
        Deb(f"linux-image-{release}", version, f"dracut, linux-base-{release}, {inner}"),
        Deb(f"linux-base-{release}", version),
        Deb(f"linux-binary-{release}", version, f"linux-base-{release} (= {version}), common"),
        Deb(f"linux-modules-{release}", version, f"linux-base-{release} (= {version})"),
    )


_OCTOBER = ("Fri, 30 Oct 2026 08:08:01 UTC", "Fri, 06 Nov 2026 08:08:01 UTC")
_GUEST = (Deb("app", "1", "lib (= 1), common"), Deb("lib", "1"), Deb("common", "1"), Deb("same", "1"))
STATES = {
    "first": State(
        "Fri, 30 Oct 2026 08:08:01 UTC",
        "Fri, 06 Nov 2026 08:08:01 UTC",
        (Deb("app", "1", "lib (= 1), common"), Deb("lib", "1"), Deb("common", "1"), Deb("firm", "1")),
    ),
    # Everything has moved on, and the pool holds only what is new.
    "second": State(
        "Fri, 13 Nov 2026 08:08:01 UTC",
        "Fri, 20 Nov 2026 08:08:01 UTC",
        (Deb("app", "2", "lib (= 2), common"), Deb("lib", "2"), Deb("common", "2"), Deb("firm", "2")),
    ),
    # Between the two: what a mirror that lags behind serves while the archive is at the second, and not expired yet.
    "lagging": State(
        "Tue, 10 Nov 2026 08:08:01 UTC",
        "Tue, 17 Nov 2026 08:08:01 UTC",
        (Deb("app", "1.5", "common"), Deb("common", "2"), Deb("firm", "2")),
        by_hash=True,
    ),
    # Two suites of one archive, with a kernel in each. The second has newer versions, a package that the first
    # lacks, not one that the first has, and one file that both list.
    "base": State(*_OCTOBER, (*_GUEST, Deb("early", "1"), Deb("firm", "1"), *kernel("6.9.1"))),
    "other": State(
        "Sat, 31 Oct 2026 08:08:01 UTC",
        "Sat, 07 Nov 2026 08:08:01 UTC",
        (
            Deb("app", "9", "lib (= 9), common"),
            Deb("lib", "9"),
            Deb("common", "9"),
            Deb("same", "1"),
            Deb("firm", "9"),
            Deb("late", "9", "common"),
            *kernel("7.2.1"),
        ),
        suite="unstable",
        codename="sid",
    ),
    # Another distribution's archive.
    "acme": State(
        *_OCTOBER,
        (
            *(Deb(name, "1") for name in ("base", "init", "box", "python", "acme-td-firmware")),
            Deb("kernel-image-cloud", "9.2", "kernel-core-9.2 (= 9.2), initrd-maker"),
            Deb("kernel-core-9.2", "9.2", "base"),
        ),
        origin="Acme",
        suite="stable",
        codename="one",
    ),
    "future": State("Fri, 01 Jan 2100 08:08:01 UTC", "Fri, 08 Jan 2100 08:08:01 UTC", (Deb("app", "9"),)),
}
SIGNED = {name: name for name in STATES} | {"stranger": "first"}


def write(folder: Path, name: str, *, beside: bool = False) -> Path:
    """Put the archive's files in ``folder``, in the state whose signed file is ``name``.

    ``beside``: the pool keeps what other suites have put there.
    """
    return publish(folder, STATES[SIGNED[name]], (HERE / f"{name}.InRelease").read_bytes(), beside=beside)


def publish(folder: Path, state: State, inrelease: bytes, *, beside: bool = False) -> Path:
    """Put the files of ``state`` in ``folder``, with this signed file."""
    dists = folder / "dists" / state.codename
    (dists / "main/binary-amd64").mkdir(parents=True, exist_ok=True)
    (dists / "main/binary-amd64/Packages").write_bytes(state.packages)
    by_hash = dists / "main/binary-amd64/by-hash/SHA256"
    by_hash.mkdir(parents=True, exist_ok=True)
    (by_hash / hashlib.sha256(state.packages).hexdigest()).write_bytes(state.packages)
    (dists / "InRelease").write_bytes(inrelease)
    (folder / "pool/main").mkdir(parents=True, exist_ok=True)
    for old in () if beside else (folder / "pool/main").iterdir():
        old.unlink()
    for deb in state.debs:
        (folder / deb.pool).write_bytes(deb.data)
    return folder


def _tar(name: str, data: bytes) -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w", format=tarfile.GNU_FORMAT) as archive:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime = len(data), 1_700_000_000
        archive.addfile(entry, io.BytesIO(data))
    return body.getvalue()


def sign() -> None:
    """Make two keys, sign every state, keep the first one's public half, and discard the rest."""
    HERE.mkdir(exist_ok=True)
    for user, names in (("archive", tuple(STATES)), ("stranger", ("stranger",))):
        with tempfile.TemporaryDirectory() as home:
            gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
            # A signature of tomorrow is none: these are good on machines whose clock is behind, too.
            gpg += ["--faked-system-time", "20250101T000000"]
            subprocess.run([*gpg, "--quick-generate-key", f"test {user}", "ed25519", "sign", "never"], check=True)
            if user == "archive":
                KEYRING.write_bytes(subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout)
            for name in names:
                text = STATES[SIGNED[name]].release.encode()
                done = subprocess.run(
                    [*gpg, "--digest-algo", "SHA512", "--clearsign"], input=text, check=True, capture_output=True
                )
                (HERE / f"{name}.InRelease").write_bytes(done.stdout)


if __name__ == "__main__":
    sys.exit(sign())
