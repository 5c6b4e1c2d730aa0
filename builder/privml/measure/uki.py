"""Unified kernel images: what the pinned systemd stub measures of them and hands to the kernel.

Source: systemd 262, src/boot/stub.c, src/fundamental/uki.c; the section order was read from the pinned binary's own
table. The stub measures name and memory contents of each section, joins its own cpio archives to the initrd, and
may append a ``console=`` of its own to the command line, which the kernel then measures.
"""

from __future__ import annotations

import hashlib
import re
import stat
from dataclasses import dataclass

from privml.base.errors import MeasurementError
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
_LOADS_KERNEL = 257


@dataclass(frozen=True)
class UkiFacts:
    """All that a prediction needs of a UKI: digests and the command line, not its megabytes.

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
    """The systemd version that a stub says it is of; None when there is no stub in ``image``."""
    match = _MAGIC.search(image)
    return int(match[1][:9]) if match is not None else None


def facts(image: bytes) -> UkiFacts:
    """Read a UKI; ``MeasurementError`` when it is no UKI, has another stub, or uses what is not modelled.

    Not modelled: profiles, microcode and device trees (their choice depends on the machine).
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
            raise MeasurementError(f"the UKI has a {name} section: what the stub does with it is not modelled")
    return UkiFacts(
        authenticode=authenticode(image),
        sections=_measured(contents),
        cmdline=mangle(contents.get(".cmdline", b"").split(b"\0", 1)[0]),
        initrd=_initrd(contents),
    )


def other_stub(image: bytes) -> UkiFacts:
    """What is known of a UKI with another stub than the pinned one: image, sections, the kernel up to stub 257.

    Command line and initrd as the kernel measures them are left empty. ``MeasurementError`` as ``facts``.
    """
    version = stub_version(image)
    contents = _contents(image)
    inner = version is not None and version <= _LOADS_KERNEL
    return UkiFacts(
        authenticode=authenticode(image),
        sections=_measured(contents),
        cmdline="",
        initrd=None,
        inner_kernel=authenticode(contents[".linux"]) if inner else None,
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
)


def _initrd(contents: dict[str, bytes]) -> bytes | None:
    """The stub's initrd: the embedded one, then one cpio each for the sections that user space may read."""
    parts = [contents[".initrd"]] if ".initrd" in contents else []
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
