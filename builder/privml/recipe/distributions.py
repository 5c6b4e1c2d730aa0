"""What differs between the distributions that a guest can be made from: one record for each.

Recipe, lock, image and mirrors read these records and contain no name of a distribution, a release, a suite, a
package or a keyring themselves, so another distribution is another record and nothing else.
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
    """One suite of one archive. ``archive`` is the label under which a host's mirrors are configured."""

    archive: str
    name: str
    components: tuple[str, ...] = ("main",)


@dataclass(frozen=True)
class Release:
    """A release that a guest can be made from: its suites, and Python's program and folder, such as python3.14."""

    codename: str
    suites: tuple[Suite, ...]
    python: str


@dataclass(frozen=True)
class Kernel:
    """How the distribution packages Linux.

    ``image`` begins the name of every package that a recipe may ask for. Where such a package is split, the files
    are in packages whose names begin with one of ``parts``, the kernel itself in one of the first; nothing else that
    it depends on enters the guest.
    ``family`` begins the name of each package that is built with the kernel. Guests can extend RTMR3 from version
    ``rtmr3_since`` on.
    """

    image: str
    parts: tuple[str, ...]
    family: str
    rtmr3_since: Version

    def is_image(self, name: str) -> bool:
        """Whether ``name`` is a package that a recipe may ask for as its kernel."""
        return name.startswith(self.image)

    def is_kernel(self, name: str) -> bool:
        """Whether the package ``name`` is a part of a kernel."""
        return name.startswith(self.family)

    def related(self, depends: Iterable[str]) -> list[str]:
        """Those of a kernel package's dependencies that are the kernel's own."""
        return [name for name in depends if self.is_kernel(name)]

    def chosen(self, names: Iterable[str]) -> tuple[str, ...]:
        """The packages among ``names`` that hold the kernel's files: its parts, or the package in one piece."""
        listed = tuple(names)
        if any(name.startswith(self.parts[0]) for name in listed):
            return tuple(name for name in listed if name.startswith(self.parts))
        return tuple(filter(self.is_image, listed))

    def version(self, packages: Iterable[tuple[str, str]]) -> Version | None:
        """The kernel's version among (name, version) pairs of packages; None when no kernel is among them."""
        versions = dict(packages)
        for name in self.chosen(sorted(versions)):
            if match := re.match(r"(?:\d+:)?(\d+)\.(\d+)", versions[name]):
                return int(match[1]), int(match[2])
        return None

    def rtmr3(self, packages: Iterable[tuple[str, str]]) -> Rtmr3:
        """Whether a guest with the kernel among ``packages`` extends RTMR3: what its configuration says of it."""
        version = self.version(packages)
        return STAGED if version is not None and version >= self.rtmr3_since else UNUSED


@dataclass(frozen=True)
class Firmware:
    """A package with a firmware that can start a guest.

    ``file`` is the firmware in it, for a guest of ``tee``. With ``enrolled_keys`` the file holds Secure Boot keys,
    which the build deletes: they would refuse our UKI. Only ``production`` firmware may start a production image: any
    other one trusts its VMM.
    """

    package: str
    tee: str
    file: str
    enrolled_keys: bool
    production: bool


@dataclass(frozen=True)
class Packages:
    """Names of packages by purpose.

    ``essential``, ``system`` and ``agent`` are in every guest's root, ``initrd`` is where the initrd's programs come
    from. ``forbidden`` ones give a way in, or change what runs, and may not be in a production guest. ``tools`` make
    the tree of build tools.
    """

    essential: tuple[str, ...]
    system: tuple[str, ...]
    initrd: tuple[str, ...]
    agent: tuple[str, ...]
    forbidden: tuple[str, ...]
    tools: tuple[str, ...] = ()

    @property
    def guest(self) -> tuple[str, ...]:
        """What every guest is made of, kernel and engine aside."""
        return (*self.essential, *self.system, *self.initrd, *self.agent)


@dataclass(frozen=True)
class HostSources:
    """How a host's own apt configuration shows that a source is this distribution's.

    ``suite`` matches the suites of the archive, ``keyring`` begins the name of its keyring's file, and ``archives``
    maps endings of suites' names to the archive that has such suites; the first that fits counts.
    """

    suite: re.Pattern[str]
    keyring: str
    archives: tuple[tuple[tuple[str, ...], str], ...]

    def archive(self, suites: Iterable[str], keyring: str) -> str | None:
        """The archive's label of a source with these suites, signed by ``keyring`` (empty: not said); else None."""
        listed = tuple(suites)
        if not any(map(self.suite.fullmatch, listed)) or (keyring and not keyring.startswith(self.keyring)):
            return None
        fitting = (label for endings, label in self.archives if all(suite.endswith(endings) for suite in listed))
        return next(fitting, None)


@dataclass(frozen=True)
class Distribution:
    """One distribution.

    ``origin`` is what the signed states of its archives name as theirs. ``others`` are suites besides those of a
    release, from which a kernel or a firmware may come. ``keyrings`` are the paths of its archive keyring below a
    root; the first that is there counts. ``purl`` is its namespace in package URLs.
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

    def firmware_named(self, package: str, tee: str) -> Firmware | None:
        """The firmware for ``tee`` in a package; None when there is none."""
        return next((one for one in self.firmware if (one.package, one.tee) == (package, tee)), None)

    def firmwares(self, tee: str, *, production: bool) -> Iterator[Firmware]:
        """The firmware that an image for ``tee`` may have; a development image may have production's too."""
        for one in self.firmware:
            if one.tee == tee and (one.production or not production):
                yield one


DEBIAN = Distribution(
    name="debian",
    origin="Debian",
    releases=MappingProxyType({"forky": Release("forky", (Suite("debian", "forky"),), "python3.14")}),
    others=(Suite("debian", "sid"), Suite("debian", "experimental")),
    keyring_package="debian-archive-keyring",
    keyrings=("usr/share/keyrings/debian-archive-keyring.gpg", "usr/share/keyrings/debian-archive-keyring.pgp"),
    purl="debian",
    kernel=Kernel(
        # linux-image-X alone would bring an initrd generator, which has no business in a guest whose initrd we make.
        image="linux-image-",
        parts=("linux-binary-", "linux-modules-"),
        family="linux-",
        # The sysfs interface to RTMR3 (drivers/virt/coco/guest/tsm-mr.c) is in mainline from 6.16.
        rtmr3_since=(6, 16),
    ),
    firmware=(
        Firmware("ovmf-inteltdx", "tdx", "usr/share/ovmf/OVMF.inteltdx.ms.fd", enrolled_keys=True, production=True),
        Firmware("ovmf-generic", "tdx", "usr/share/ovmf/OVMF.fd", enrolled_keys=False, production=False),
    ),
    packages=Packages(
        # apt is Essential to itself alone; a guest has no use for a package manager.
        essential=("?and(?essential,?not(?exact-name(apt)))", "base-files"),
        system=(
            "systemd",
            "systemd-sysv",
            "udev",
            # systemd only recommends it, and runs it for every mount unit.
            "mount",
            "kmod",
            "dmsetup",
            # systemd loads it at run time, and without it silently leaves out the system call filters of our units.
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
    """What a guest is made from: a distribution, and one of its releases."""

    distribution: Distribution
    release: Release

    def __str__(self) -> str:
        return f"{self.distribution.name} {self.release.codename}"


def base(distribution: str, release: str) -> Base:
    """Look both up; ``KeyError`` when either is not known. Recipes and locks check the names when they are read."""
    found = DISTRIBUTIONS[distribution]
    return Base(found, found.releases[release])


TOOLS = base("debian", "forky")
"""What the tree of build tools is made from, whatever the guest is made from."""
