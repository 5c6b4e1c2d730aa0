"""Distributions that a guest can be built from: one record for each.

Recipe, lock, image and mirrors read these records. They contain no name of a distribution, release, suite, package or
keyring themselves, so adding a distribution means adding a record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from privml.events.configuration import STAGED, UNUSED, Rtmr3

Version = tuple[int, int]


@dataclass(frozen=True)
class Suite:
    """A suite of an archive. ``archive`` is the label under which its mirrors are configured, ``origin`` that of its
    signed state if it is not the distribution's; an empty one accepts any.
    """

    archive: str
    name: str
    components: tuple[str, ...] = ("main",)
    origin: str | None = None


@dataclass(frozen=True)
class Release:
    """A release: its suites, and the name of Python's program and directory, such as python3.14."""

    codename: str
    suites: tuple[Suite, ...]
    python: str


@dataclass(frozen=True)
class Kernel:
    """How the distribution packages Linux.

    ``image`` is the name prefix of the packages that a recipe may request. If such a package is split, its files are
    in packages with one of the prefixes ``parts``, the kernel itself in the first; other dependencies do not enter
    the guest. ``family`` is the prefix of all packages built with the kernel. Guests can extend RTMR3 from version
    ``rtmr3_since`` on.
    """

    image: str
    parts: tuple[str, ...]
    family: str
    rtmr3_since: Version

    def is_image(self, name: str) -> bool:
        """Whether a recipe may request ``name`` as its kernel."""
        return name.startswith(self.image)

    def is_kernel(self, name: str) -> bool:
        """Whether the package ``name`` is a part of a kernel."""
        return name.startswith(self.family)

    def related(self, depends: Iterable[str]) -> list[str]:
        """The dependencies of a kernel package that are part of the kernel."""
        return [name for name in depends if self.is_kernel(name)]

    def chosen(self, names: Iterable[str]) -> tuple[str, ...]:
        """The packages among ``names`` with the kernel's files: its parts, or the unsplit package."""
        listed = tuple(names)
        if any(name.startswith(self.parts[0]) for name in listed):
            return tuple(name for name in listed if name.startswith(self.parts))
        return tuple(filter(self.is_image, listed))

    def version(self, packages: Iterable[tuple[str, str]]) -> Version | None:
        """The kernel's version among (name, version) pairs of packages; None if there is no kernel."""
        versions = dict(packages)
        for name in self.chosen(sorted(versions)):
            if match := re.match(r"(?:\d+:)?(\d+)\.(\d+)", versions[name]):
                return int(match[1]), int(match[2])
        return None

    def rtmr3(self, packages: Iterable[tuple[str, str]]) -> Rtmr3:
        """The configuration's value for RTMR3, depending on the kernel among ``packages``."""
        version = self.version(packages)
        return STAGED if version is not None and version >= self.rtmr3_since else UNUSED


@dataclass(frozen=True)
class Firmware:
    """A package with a guest firmware.

    ``file`` is the path of the firmware for guests of ``tee``. With ``enrolled_keys`` the file has Secure Boot keys,
    which the build removes because they would reject our UKI. With ``bound`` the build removes everything that could
    start anything but the kernel whose hash is measured. A production image requires ``production`` firmware: other
    firmware trusts the VMM.
    """

    package: str
    tee: str
    file: str
    enrolled_keys: bool
    production: bool
    bound: bool = False


@dataclass(frozen=True)
class Packages:
    """Names of packages by purpose.

    ``essential``, ``system`` and ``agent`` are in every guest's root; ``initrd`` has the programs of the initrd.
    ``forbidden`` packages allow logins or change what runs, and are refused in production guests. ``tools`` make up
    the tools tree.
    """

    essential: tuple[str, ...]
    system: tuple[str, ...]
    initrd: tuple[str, ...]
    agent: tuple[str, ...]
    forbidden: tuple[str, ...]
    tools: tuple[str, ...] = ()

    @property
    def guest(self) -> tuple[str, ...]:
        """The packages of every guest, without kernel and engine."""
        return (*self.essential, *self.system, *self.initrd, *self.agent)


@dataclass(frozen=True)
class HostSources:
    """How to recognise sources of this distribution in the host's apt configuration.

    ``suite`` matches the suites of the archive, ``keyring`` is the name prefix of its keyring file, and ``archives``
    maps suffixes of suite names to archives; the first match counts.
    """

    suite: re.Pattern[str]
    keyring: str
    archives: tuple[tuple[tuple[str, ...], str], ...]

    def archive(self, suites: Iterable[str], keyring: str) -> str | None:
        """The archive label of a source with these suites, signed by ``keyring`` (empty if not given); else None."""
        listed = tuple(suites)
        if not any(map(self.suite.fullmatch, listed)) or (keyring and not keyring.startswith(self.keyring)):
            return None
        fitting = (label for endings, label in self.archives if all(suite.endswith(endings) for suite in listed))
        return next(fitting, None)


@dataclass(frozen=True)
class Distribution:
    """One distribution.

    ``origin`` is the Origin field of its signed archive states. ``others`` are further suites from which a kernel or
    firmware may come. ``keyrings`` are the possible paths of its archive keyring below a root; the first existing one
    is used. ``purl`` is its namespace in package URLs.
    """

    name: str
    origin: str
    releases: Mapping[str, Release]
    others: tuple[Suite, ...]
    keyring_package: str
    keyrings: tuple[str, ...]
    purl: str
    kernel: Kernel
    firmware: tuple[Firmware, ...]
    packages: Packages
    sources: HostSources = field(hash=False)

    @property
    def suites(self) -> dict[str, Suite]:
        """Every suite by its name."""
        listed = [suite for release in self.releases.values() for suite in release.suites]
        return {suite.name: suite for suite in (*listed, *self.others)}

    def origin_of(self, suite: Suite) -> str:
        """The origin that the signed state of ``suite`` must name; empty if it may be any."""
        return self.origin if suite.origin is None else suite.origin

    def firmware_named(self, package: str, tee: str) -> Firmware | None:
        """The firmware for ``tee`` in a package; None if there is none."""
        return next((one for one in self.firmware if (one.package, one.tee) == (package, tee)), None)

    def firmwares(self, tee: str, *, production: bool) -> Iterator[Firmware]:
        """The firmware allowed in an image for ``tee``; a development image may also use production firmware."""
        for one in self.firmware:
            if one.tee == tee and (one.production or not production):
                yield one


DEBIAN = Distribution(
    name="debian",
    origin="Debian",
    releases=MappingProxyType(
        {
            "forky": Release("forky", (Suite("debian", "forky"),), "python3.14"),
            "trixie": Release(
                "trixie",
                (
                    Suite("debian", "trixie"),
                    Suite("debian", "trixie-updates"),
                    Suite("debian-security", "trixie-security"),
                ),
                "python3.13",
            ),
        }
    ),
    others=(
        Suite("debian", "trixie-backports", origin="Debian Backports"),
        Suite("debian", "sid"),
        Suite("debian", "experimental"),
    ),
    keyring_package="debian-archive-keyring",
    keyrings=("usr/share/keyrings/debian-archive-keyring.gpg", "usr/share/keyrings/debian-archive-keyring.pgp"),
    purl="debian",
    kernel=Kernel(
        # linux-image-X depends on an initrd generator, which the guest does not need because we build its initrd.
        image="linux-image-",
        parts=("linux-binary-", "linux-modules-"),
        family="linux-",
        # The sysfs interface to RTMR3 (drivers/virt/coco/guest/tsm-mr.c) is in mainline from 6.16.
        rtmr3_since=(6, 16),
    ),
    firmware=(
        Firmware("ovmf-inteltdx", "tdx", "usr/share/ovmf/OVMF.inteltdx.ms.fd", enrolled_keys=True, production=True),
        Firmware("ovmf-generic", "tdx", "usr/share/ovmf/OVMF.fd", enrolled_keys=False, production=False),
        Firmware(
            "ovmf-amdsev", "snp", "usr/share/ovmf/OVMF.amdsev.fd", enrolled_keys=False, production=True, bound=True
        ),
    ),
    packages=Packages(
        # apt is essential only to itself; a guest needs no package manager.
        essential=("?and(?essential,?not(?exact-name(apt)))", "base-files"),
        system=(
            "systemd",
            "systemd-sysv",
            "udev",
            # systemd only recommends it, and runs it for every mount unit.
            "mount",
            "kmod",
            "dmsetup",
            # systemd loads it with dlopen; without it, systemd silently ignores the system call filters of our units.
            "libseccomp2",
        ),
        initrd=("busybox-static",),
        agent=("python3-minimal", "libpython3-stdlib", "python3-cryptography", "python3-h11"),
        forbidden=(
            "apt",
            "cloud-init",
            "dracut",
            "gdb",
            "initramfs-tools",
            "openssh-server",
            "ovmf-generic",
            "qemu-guest-agent",
            "strace",
            "sudo",
            "swtpm",
        ),
        tools=(
            "?essential",
            "mkosi",
            "systemd",
            "systemd-repart",
            "systemd-ukify",
            "systemd-boot-efi",
            "erofs-utils",
            "cryptsetup-bin",
            "apt",
            "apt-utils",
            "dpkg",
            "qemu-system-x86",
            "swtpm",
            "swtpm-tools",
            "ovmf",
            "ovmf-inteltdx",
            "python3-virt-firmware",
            "libfaketime",
            "debian-archive-keyring",
            "cpio",
            "zstd",
            "xz-utils",
            "kmod",
            "util-linux",
            "dosfstools",
            "mtools",
            "e2fsprogs",
            "ca-certificates",
            "gpgv",
            "fdisk",
        ),
    ),
    sources=HostSources(
        suite=re.compile(
            r"(?:bullseye|bookworm|trixie|forky|duke|sid"
            r"|oldoldstable|oldstable|stable|testing|unstable|experimental)"
            r"(?:[-/](?:updates|backports|security|proposed-updates))?"
        ),
        keyring="debian-archive",
        archives=((("-security", "/updates"), "debian-security"), (("",), "debian")),
    ),
)

DISTRIBUTIONS: dict[str, Distribution] = {each.name: each for each in (DEBIAN,)}


@dataclass(frozen=True)
class Base:
    """The base of a guest: a distribution and one of its releases."""

    distribution: Distribution
    release: Release

    def __str__(self) -> str:
        return f"{self.distribution.name} {self.release.codename}"


def base(distribution: str, release: str) -> Base:
    """Look up both; ``KeyError`` if one is unknown. Recipes and locks check the names when they are read."""
    found = DISTRIBUTIONS[distribution]
    return Base(found, found.releases[release])


TOOLS = base("debian", "forky")
"""The base of the tools tree, independent of the guest's."""
