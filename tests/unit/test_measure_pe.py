"""PE images and UKIs, built byte by byte so that each rule of the digest is visible."""

import hashlib
import lzma
import struct
from pathlib import Path

import pytest

from privml.base.errors import MeasurementError
from privml.events.event import Evidence
from privml.events.replay import replay_digests
from privml.measure import artefact, kernelheader, payload, pe, uki
from privml.measure.description import Description
from privml.measure.profiles import TD_INTELTDX

VECTORS = Path(__file__).resolve().parents[1] / "vectors/measurement"
HEADERS = 0x400


def make_pe(
    sections: list[tuple[str, bytes, int]], *, tail: bytes = b"", certificate: bytes = b"", swap: bool = False
) -> bytes:
    """A PE32+ file: (name, contents, virtual size) one after another, then ``tail``, then ``certificate``."""
    optional = bytearray(240)
    struct.pack_into("<H", optional, 0, 0x20B)
    struct.pack_into("<I", optional, 60, HEADERS)
    struct.pack_into("<I", optional, 64, 0xDEADBEEF)
    struct.pack_into("<I", optional, 108, 16)
    body, rows, offset = b"", [], HEADERS
    for name, contents, virtual in sections:
        rows.append(
            name.encode().ljust(8, b"\0") + struct.pack("<IIII", virtual, 0x1000, len(contents), offset) + bytes(16)
        )
        body += contents
        offset += len(contents)
    if swap:
        rows.reverse()
    if certificate:
        struct.pack_into("<II", optional, 112 + 4 * 8, offset + len(tail), len(certificate))
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x80)
    head = head.ljust(0x80, b"\0") + b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 240, 0)
    return (head + optional + b"".join(rows)).ljust(HEADERS, b"\0") + body + tail + certificate


def expected(image: bytes, certificate: int = 0) -> bytes:
    checksum = 0x80 + 24 + 64
    security = 0x80 + 24 + 112 + 32
    kept = image[:checksum] + image[checksum + 4 : security] + image[security + 8 : len(image) - certificate]
    return hashlib.sha384(kept).digest()


SECTIONS = [(".text", b"t" * 512, 500), (".data", b"d" * 512, 700)]


def test_the_digest_skips_checksum_and_certificate_but_not_the_tail() -> None:
    plain = make_pe(SECTIONS)
    assert pe.authenticode(plain) == expected(plain)
    assert pe.authenticode(plain, "sha256") != pe.authenticode(plain)
    odd = make_pe(SECTIONS, tail=b"abc", certificate=b"C" * 16)
    assert pe.authenticode(odd) == expected(odd, 16)
    assert pe.authenticode(odd) != pe.authenticode(make_pe(SECTIONS, certificate=b"C" * 16))


def signed_file() -> bytes:
    return lzma.decompress((VECTORS / "pe/fbx64.efi.signed.xz").read_bytes())


def test_the_digest_equals_the_one_debian_signed() -> None:
    """The signature contains the digest of the signer's tool, an independent check of order, gaps and tail."""
    image = signed_file()
    assert pe.signed_digest(image) == pe.authenticode(image, "sha256")
    assert pe.authenticode(image).hex().startswith("f7d1ce61766186a8")
    for at in (0x200, 0x1000, len(image) // 2):
        changed = bytearray(image)
        changed[at] ^= 1
        assert pe.signed_digest(bytes(changed)) != pe.authenticode(bytes(changed), "sha256")
    finding = artefact.identify(image)
    assert finding is not None and (finding.kind, finding.facts["signature"]) == ("pe", "over this digest")
    changed = bytearray(image)
    changed[0x1000] ^= 1
    finding = artefact.identify(bytes(changed))
    assert finding is not None and finding.facts["signature"].startswith("over another digest, f08e1ed5")


def test_an_unsigned_image_has_no_signed_digest() -> None:
    assert pe.signed_digest(make_pe([(".text", b"code", 4)])) is None
    assert pe.signed_digest(make_pe([(".text", b"code", 4)], certificate=b"no PKCS 7")) is None
    image = signed_file()
    head = pe.headers(image)
    beyond = (
        image[: head.security_entry_offset] + struct.pack("<I", len(image)) + image[head.security_entry_offset + 4 :]
    )
    with pytest.raises(MeasurementError, match="certificate table"):
        pe.signed_digest(beyond)


def test_sections_are_hashed_by_file_offset_not_by_table_order() -> None:
    swapped = make_pe(SECTIONS, swap=True)
    assert pe.authenticode(swapped) == expected(swapped)


def test_memory_contents_have_virtual_size() -> None:
    image = make_pe(SECTIONS)
    text, data = pe.headers(image).sections
    assert pe.in_memory(image, text) == b"t" * 500
    assert pe.in_memory(image, data) == b"d" * 512 + bytes(188)


@pytest.mark.parametrize("cut", [1, 10, 0x3E, 0x90, 0x180, HEADERS, HEADERS + 600])
def test_a_truncated_image_is_refused(cut: int) -> None:
    with pytest.raises(MeasurementError):
        pe.authenticode(make_pe(SECTIONS)[:cut])


def make_uki(**replace: bytes | None) -> bytes:
    parts: dict[str, bytes | None] = {
        ".sdmagic": b"#### LoaderInfo: systemd-stub 262-1 ####",
        ".sbat": b"sbat,1",
        ".osrel": b"ID=x\n",
        ".cmdline": b" a=1\tb\n\x7f",
        ".initrd": b"initrd",
        ".linux": b"kernel!!",
    }
    parts.update({"." + key: value for key, value in replace.items()})
    return make_pe([(name, data, len(data)) for name, data in parts.items() if data is not None])


def test_facts_are_in_the_stubs_order_and_the_command_line_is_cleaned() -> None:
    facts = uki.facts(make_uki())
    assert [name for name, _ in facts.sections] == [".linux", ".osrel", ".cmdline", ".initrd", ".sbat"]
    assert facts.sections[0][1] == hashlib.sha384(b"kernel!!").digest()
    assert facts.sections[2][1] == hashlib.sha384(b" a=1\tb\n\x7f").digest()
    assert facts.cmdline == "a=1 b"


def test_the_initrd_is_padded_and_followed_by_the_os_release() -> None:
    joined = b"initrd\0\0" + uki.extra_cpio("os-release", b"ID=x\n")
    assert uki.facts(make_uki()).initrd == hashlib.sha384(joined).digest()
    assert uki.facts(make_uki(osrel=None)).initrd == hashlib.sha384(b"initrd").digest()
    assert uki.facts(make_uki(osrel=None, initrd=None)).initrd is None


def test_pcrsig_is_not_measured_but_reaches_the_initrd() -> None:
    signed = uki.facts(make_uki(pcrsig=b"{}"))
    assert ".pcrsig" not in [name for name, _ in signed.sections]
    assert signed.initrd != uki.facts(make_uki()).initrd


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sdmagic": b"#### LoaderInfo: systemd-stub 257.13-1 ####"}, "systemd 257, expected 262"),
        ({"sdmagic": None}, "no systemd-stub"),
        ({"linux": None}, "no .linux"),
        ({"profile": b"ID=a"}, ".profile"),
        ({"ucode": b"u"}, ".ucode"),
        ({"cmdline": b"\xff\xfe"}, "UTF-8"),
    ],
)
def test_unmodelled_contents_are_refused(change: dict[str, bytes | None], message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        uki.facts(make_uki(**change))


def test_the_stub_adds_a_console_only_if_there_is_none() -> None:
    assert uki.has_console("console=ttyS0")
    assert uki.has_console("quiet console=hvc0")
    assert not uki.has_console("quiet myconsole=1")
    assert uki.load_options("a") == b"a\0\0\0"


def described(image: bytes) -> Description:
    found = artefact.identify(image)
    assert found is not None
    return found


def whole(description: Description, register: str) -> bytes:
    return replay_digests(event.digest for event in description.events if event.register == register)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"ucode": b"u"}, ".ucode"),
        ({"dtbauto": b"d"}, "machine's hardware"),
        ({"cmdline": b"\xff\xfe"}, "UTF-8"),
        ({"cmdline": b"quiet"}, "console="),
        ({"sdmagic": b"#### LoaderInfo: systemd-stub 300 ####"}, "expected 262"),
    ],
)
def test_an_unknown_event_hides_only_what_depends_on_it(change: dict[str, bytes | None], note: str) -> None:
    image = make_uki(**change)
    found = described(image)
    assert set(found.registers) == {"rtmr1"} and found.registers["rtmr1"] == whole(found, "rtmr1")
    assert any(note in line for line in found.notes)
    assert found.events[0].digest == pe.authenticode(image)
    origins = [event.origin for event in found.events if event.register == "rtmr2"]
    assert origins[:2] == [".linux (its name)", ".linux"] and ".dtbauto" not in origins


def test_rtmr1_does_not_depend_on_an_unknown_event_in_rtmr2() -> None:
    profile = TD_INTELTDX
    complete = payload.direct(uki.facts(make_uki(cmdline=b"console=hvc0")), profile)
    rtmr1 = [event.digest for event in complete if event.register == "rtmr1"]
    alone = payload.image_alone(rtmr1[0], None, profile)
    assert [event.digest for event in alone] == rtmr1
    from_disk = payload.from_disk(uki.facts(make_uki(cmdline=b"console=hvc0")), b"gpt", profile)
    assert payload.image_alone(rtmr1[0], None, profile, gpt_event=b"gpt") == tuple(
        event for event in from_disk if event.register == "rtmr1"
    )


def test_each_profile_of_a_uki_has_its_sections() -> None:
    parts = [
        (".sdmagic", b"#### LoaderInfo: systemd-stub 262-1 ####"),
        (".linux", b"kernel!!"),
        (".cmdline", b"console=hvc0"),
        (".profile", b"ID=main\nTITLE=Main\n"),
        (".profile", b"ID=rescue\nTITLE=Re\x1bscue\n"),
        (".cmdline", b"console=hvc0 rescue"),
    ]
    image = make_pe([(name, data, len(data)) for name, data in parts])
    found = described(image)
    of = {
        number: [event for event in found.events if event.origin.startswith(f"profile {number}: ")]
        for number in (0, 1)
    }
    stub, kernel = of[0][:6], of[0][6:]
    assert [event.origin.partition(": ")[2] for event in stub][1::2] == [".linux", ".cmdline", ".profile"]
    extra = uki.extra_cpio("profile", b"ID=main\nTITLE=Main\n")
    assert [event.digest for event in kernel] == [
        hashlib.sha384("console=hvc0\0".encode("utf-16-le")).digest(),
        hashlib.sha384(extra).digest(),
    ]
    for number in (0, 1):
        value = replay_digests(event.digest for event in of[number]).hex()
        assert found.facts[f"rtmr2 of profile {number}"] == value
    assert of[1][0].digest == hashlib.sha384("1\0".encode("utf-16-le")).digest()
    assert [event.digest for event in of[1] if event.origin.endswith("1: .cmdline")] == [
        hashlib.sha384(b"console=hvc0 rescue").digest()
    ]
    assert all(event.evidence is Evidence.SOURCE for event in (*of[0], *of[1]))
    assert found.facts["profile 1"] == r"ID=rescue, TITLE=Re\x1bscue, command line `console=hvc0 rescue`"
    assert found.registers["rtmr1"] == whole(found, "rtmr1") and "rtmr2" not in found.registers
    assert found.events[0].digest == pe.authenticode(image)
    old = make_pe([(n, d.replace(b"stub 262-1", b"stub 256.1"), len(d)) for n, d in parts])
    assert [profile.number for profile in uki.layout(old).profiles] == [None]  # 256 ignores profiles


def test_rtmr2_with_microcode_is_computed_from_the_stub_s_source() -> None:
    """The stub passes the kernel the microcode first, each part padded to four bytes."""
    found = described(make_uki(cmdline=b"console=hvc0", ucode=b"micro"))
    initrd = b"micro\0\0\0" + b"initrd\0\0" + uki.extra_cpio("os-release", b"ID=x\n")
    events = [event for event in found.events if event.register == "rtmr2"]
    assert [event.origin for event in events][6:10] == [
        ".initrd (its name)",
        ".initrd",
        ".ucode (its name)",
        ".ucode",
    ]
    assert events[-1].digest == hashlib.sha384(initrd + bytes(-len(initrd) % 4)).digest()
    assert {event.evidence for event in events[-2:]} == {Evidence.SOURCE}
    assert found.registers["rtmr2"] == whole(found, "rtmr2") and not any(
        "no complete" in note for note in found.notes
    )
    without = uki.facts(make_uki(cmdline=b"console=hvc0"))
    plain = [event.digest for event in payload.direct(without, TD_INTELTDX) if event.register == "rtmr2"]
    assert [event.digest for event in events[:-1] if "ucode" not in event.origin] == plain[:-1]


@pytest.mark.parametrize("section", ["dtb", "hwids", "dtbauto"])
def test_rtmr2_with_a_device_tree_or_hardware_ids_is_not_complete(section: str) -> None:
    found = described(make_uki(cmdline=b"console=hvc0", **{section: b"d"}))
    assert "rtmr2" not in found.registers and any("no complete rtmr2" in note for note in found.notes)


@pytest.mark.parametrize(
    ("version", "measures", "loads"),
    [
        (249, False, False),
        (251, False, False),
        (252, False, True),
        (255, False, True),
        (256, True, True),
        (257, True, True),
        (258, True, False),
        (262, True, False),
    ],
)
def test_the_stub_s_behaviour_follows_its_version(version: int, measures: bool, loads: bool) -> None:
    rules = uki.stub_rules(version)
    assert (rules.measures, rules.loads_kernel) == (measures, loads)


@pytest.mark.parametrize(
    ("tee", "qemu", "edk2", "alone"),
    [
        ("tdx", (9, 2), 202602, False),
        ("tdx", (10, 0), 202411, False),
        ("tdx", (10, 1), 202502, True),
        ("tdx", (10, 2), 202402, True),
        ("tdx", (11, 1), 202408, True),
        ("", (11, 1), 202411, False),
        ("", (10, 2), 202502, True),
        ("snp", (8, 2), 202402, True),
    ],
)
def test_when_qemu_leaves_the_kernel_header_alone(tee: str, qemu: tuple[int, int], edk2: int, alone: bool) -> None:
    assert kernelheader.left_alone(tee, qemu, edk2) is alone


def test_a_kernel_s_note_names_the_combinations() -> None:
    assert "QEMU from 10.2 with any firmware, or QEMU from 10.0 with edk2 from 202502" in kernelheader.note("tdx")
