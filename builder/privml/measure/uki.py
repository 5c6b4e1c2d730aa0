"""Unified kernel images: what the pinned systemd stub measures and passes to the kernel.

Source: systemd 262, src/boot/stub.c, src/fundamental/uki.c; the section order was read from the pinned binary's own
table. The stub measures name and memory contents of each section, joins its own cpio archives to the initrd, and
may append a ``console=`` of its own to the command line, which the kernel then measures. `STUBS` says what other
versions do, as far as their source shows; `layout` reads a UKI of any of them.
"""

from __future__ import annotations

import hashlib
import re
import stat
from dataclasses import dataclass

from privml.base.errors import MeasurementError, printable
from privml.measure.cpio import Entry
from privml.measure.digest import sha384
from privml.measure.pe import Section, authenticode, headers, in_memory

SECTION_ORDER = (
    ".linux",
    ".osrel",
    ".cmdline",
    ".initrd",
    ".ucode",
    ".splash",
    ".dtb",
    ".uname",
    ".sbat",
    ".pcrsig",
    ".pcrpkey",
    ".profile",
    ".dtbauto",
    ".hwids",
    ".efifw",
)
UNMEASURED = ".pcrsig"
_MAGIC = re.compile(rb"#### LoaderInfo: systemd-stub ([0-9]+)[^#]{0,64} ####")
_STUB_VERSION = 262


@dataclass(frozen=True)
class UkiFacts:
    """The facts of a UKI that a prediction needs: digests and the command line.

    ``authenticode`` is the image's SHA-384 Authenticode digest, ``sections`` the (name, SHA-384 of memory contents)
    of each measured section in the stub's order, ``cmdline`` the embedded text as the stub passes it on, ``initrd``
    the SHA-384 of the whole initrd that the kernel receives, None when it gets none. ``inner_kernel`` is the
    Authenticode digest of the .linux section where the stub has firmware load it, as stubs up to 257 do.
    """

    authenticode: bytes
    sections: tuple[tuple[str, bytes], ...]
    cmdline: str
    initrd: bytes | None
    inner_kernel: bytes | None = None


def stub_version(image: bytes) -> int | None:
    """The systemd version of the stub in ``image``; None when there is no stub."""
    match = _MAGIC.search(image)
    return int(match[1][:9]) if match is not None else None


def facts(image: bytes) -> UkiFacts:
    """Read a UKI; ``MeasurementError`` when it is not a UKI, has another stub, or uses what is not modelled.

    Refused: profiles and microcode, whose rules `layout` knows from source only, and device trees, whose choice
    depends on the machine.
    """
    version = stub_version(image)
    if version is None:
        raise MeasurementError("not a unified kernel image: there is no systemd-stub in it")
    if version != _STUB_VERSION:
        raise MeasurementError(
            f"the UKI's stub is systemd {version}, expected {_STUB_VERSION}",
            hint="what a stub measures changes between releases: pin the tools' systemd, or model the new stub",
        )
    contents = _contents(image)
    for name in (".profile", ".ucode", ".dtb", ".dtbauto", ".hwids", ".efifw"):
        if name in contents:
            raise MeasurementError(f"the UKI has a {name} section, whose events were not seen in a boot")
    return UkiFacts(
        authenticode=authenticode(image),
        sections=_measured(contents),
        cmdline=mangle(contents.get(".cmdline", b"").split(b"\0", 1)[0]),
        initrd=_initrd(contents),
    )


@dataclass(frozen=True)
class Stub:
    """The behaviour of systemd-stub in a TD from version ``first`` on.

    ``measures``: it has the CC protocol and measures sections into RTMR2. ``loads_kernel``: firmware loads the .linux
    section, which adds an event to RTMR1, unless the kernel is too old for it (`UkiLayout.handover`).
    """

    first: int
    measures: bool
    loads_kernel: bool


STUBS = (
    Stub(0, measures=False, loads_kernel=False),
    Stub(252, measures=False, loads_kernel=True),
    Stub(256, measures=True, loads_kernel=True),
    Stub(258, measures=True, loads_kernel=False),
)
"""By version. Up to 251 the stub jumps into an x86 kernel (EFI handover protocol: src/boot/efi/linux_x86.c, systemd
issue 23788); 252 has firmware load it (pull request 24777); the CC protocol came with 256 (30996), the stub's own PE
loader with 258 (37372)."""

_SINCE = {".profile": 257, ".dtbauto": 257, ".hwids": 257, ".efifw": 258}
"""Sections that came after the CC protocol; a stub ignores those that are newer than itself."""
_CHOSEN = (".dtbauto", ".hwids", ".efifw")
"""Sections of which a UKI may have several: the stub chooses one by the machine's hardware, or none."""


def stub_rules(version: int) -> Stub:
    """The behaviour of one version of the stub."""
    return next(stub for stub in reversed(STUBS) if stub.first <= version)


@dataclass(frozen=True)
class UkiProfile:
    """One profile of a UKI: its sections in the order in which the stub measures them.

    ``number`` is None for a UKI without profiles. ``name`` is the profile's ID and title. ``chosen`` are the sections
    of which the stub measures at most one, by the machine's hardware. ``cmdline`` is the embedded command line.
    ``initrd`` is the SHA-384 of the whole initrd that stub 262 gives the kernel, None if it gives none.
    """

    number: int | None
    name: str
    sections: tuple[tuple[str, bytes], ...]
    chosen: tuple[str, ...]
    cmdline: str | None
    initrd: bytes | None


@dataclass(frozen=True)
class UkiLayout:
    """A UKI of any stub: the image's digest, that of the .linux section as an image, and the profiles.

    ``handover``: the kernel's PE image version is below 1.0 (Linux before 5.8), so every stub starts it by the EFI
    handover protocol and firmware does not load it (systemd src/boot/pe.c pe_kernel_info, src/boot/linux.c).
    """

    version: int
    authenticode: bytes
    inner_kernel: bytes | None
    handover: bool
    profiles: tuple[UkiProfile, ...]

    @property
    def stub(self) -> Stub:
        """How this stub behaves."""
        return stub_rules(self.version)

    @property
    def modelled(self) -> bool:
        """True for the version whose every event is predicted."""
        return self.version == _STUB_VERSION


def layout(image: bytes) -> UkiLayout:
    """Read a UKI of any stub, with or without profiles; ``MeasurementError`` when it is not a UKI.

    Sections before the first .profile belong to every profile, unless the profile has its own of that name.
    Source: UAPI.5 "Multi-Profile UKIs"; systemd src/boot/pe.c pe_locate_profile_sections.
    """
    version = stub_version(image)
    if version is None:
        raise MeasurementError("not a unified kernel image: there is no systemd-stub in it")
    groups: list[list[Section]] = [[]]
    for section in headers(image).sections:
        if section.name not in SECTION_ORDER or not section.virtual_size or version < _SINCE.get(section.name, 0):
            continue
        if section.name == ".profile":
            groups.append([])
        groups[-1].append(section)
    base, own = groups[0], groups[1:]
    if not any(section.name == ".linux" for group in groups for section in group):
        raise MeasurementError("not a unified kernel image: it has no .linux section")
    profiles = [_profile(image, number, base, group) for number, group in enumerate(own)]
    kernel = next((section for section in base if section.name == ".linux"), None)
    digest, image_version = _inner_kernel(image, kernel)
    return UkiLayout(
        version=version,
        authenticode=authenticode(image),
        inner_kernel=digest,
        handover=digest is not None and image_version < 1,
        profiles=tuple(profiles) or (_profile(image, None, base, []),),
    )


def _inner_kernel(image: bytes, section: Section | None) -> tuple[bytes | None, int]:
    """The digest of .linux as firmware loads it and its PE image version; None if a profile's, or not a PE image."""
    if section is None:
        return None, 0
    try:
        kernel = in_memory(image, section)
        return authenticode(kernel), headers(kernel).major_image_version
    except MeasurementError:
        return None, 0


def _profile(image: bytes, number: int | None, base: list[Section], own: list[Section]) -> UkiProfile:
    found: dict[str, Section] = {}
    for section in (*reversed(base), *reversed(own)):  # the first of a name counts, and a profile's before the base's
        found[section.name] = section
    contents = {name: in_memory(image, section) for name, section in found.items() if name not in _CHOSEN}
    text = contents.get(".profile", b"").split(b"\0", 1)[0].decode("utf-8", "replace")
    fields = [line for line in text.splitlines() if line.startswith(("ID=", "TITLE="))]
    try:
        cmdline = mangle(contents[".cmdline"].split(b"\0", 1)[0]) if ".cmdline" in contents else None
    except MeasurementError:
        cmdline = None
    return UkiProfile(
        number=number,
        name=printable(", ".join(fields)),
        sections=_measured(contents),
        chosen=tuple(name for name in _CHOSEN if name in found),
        cmdline=cmdline,
        initrd=_initrd(contents),
    )


def _contents(image: bytes) -> dict[str, bytes]:
    found: dict[str, Section] = {}
    for section in headers(image).sections:
        if section.name in SECTION_ORDER and section.virtual_size:
            if section.name in found:
                raise MeasurementError(f"the UKI has two {section.name} sections: profiles are not modelled")
            found[section.name] = section
    if ".linux" not in found:
        raise MeasurementError("not a unified kernel image: it has no .linux section")
    return {name: in_memory(image, section) for name, section in found.items()}


def _measured(contents: dict[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, sha384(contents[name])) for name in SECTION_ORDER if name in contents and name != UNMEASURED)


def mangle(cmdline: bytes) -> str:
    """The stub's clean-up of a command line: control characters become spaces, spaces at both ends go.

    Source: systemd 262 src/boot/util.c mangle_stub_cmdline. ``MeasurementError`` when it is not UTF-8.
    """
    try:
        text = cmdline.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MeasurementError(f"the UKI's command line is not UTF-8 at byte {error.start}") from error
    return "".join(" " if character <= " " or character == "\x7f" else character for character in text).strip(" ")


def has_console(cmdline: str) -> bool:
    """True when ``cmdline`` holds a ``console=`` word, so that the stub adds none of its own."""
    return cmdline.startswith("console=") or " console=" in cmdline


def load_options(cmdline: str) -> bytes:
    """The LoadOptions buffer that the stub gives the kernel: UTF-16LE with its final NUL."""
    return cmdline.encode("utf-16-le") + b"\0\0"


_EXTRA = (
    (".pcrsig", "tpm2-pcr-signature.json"),
    (".pcrpkey", "tpm2-pcr-public-key.pem"),
    (".osrel", "os-release"),
    (".profile", "profile"),
)


def _initrd(contents: dict[str, bytes]) -> bytes | None:
    """The stub's initrd: microcode, the embedded one, then one cpio each for the sections that user space may read.

    Source: systemd 262 src/boot/stub.c, the order of its INITRD_ constants.
    """
    parts = [contents[name] for name in (".ucode", ".initrd") if name in contents]
    parts.extend(extra_cpio(name, contents[section]) for section, name in _EXTRA if section in contents)
    if not parts:
        return None
    if len(parts) == 1:
        return sha384(parts[0])
    hasher = hashlib.sha384()
    for part in parts:
        hasher.update(part)
        hasher.update(bytes(-len(part) % 4))
    return hasher.digest()


def extra_cpio(name: str, data: bytes) -> bytes:
    """The cpio archive (newc) that the stub makes of one section: ``/.extra/NAME``, mode 0444, directory 0555.

    Source: systemd 262 src/boot/cpio.c pack_cpio_literal.
    """
    folder = Entry(".extra", 1, stat.S_IFDIR | 0o555)
    file = Entry(f".extra/{name}", 2, stat.S_IFREG | 0o444, data)
    return folder.encoded() + file.encoded() + _TRAILER


# The stub's own, with a digit in upper case that the entries have in lower case.
_TRAILER = b"070701" + b"00000000" * 4 + b"00000001" + b"00000000" * 6 + b"0000000B" + b"00000000TRAILER!!!\0\0\0\0"
