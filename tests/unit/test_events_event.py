"""Events as JSON, and descriptions of logged events."""

import datetime
import hashlib
import struct
import uuid
import zlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from privml.base.errors import EvidenceError
from privml.events.event import Event, Evidence
from privml.events.meaning import certificate_name, meaning
from privml.events.registers import MRTD, RTMR0, RTMR2
from privml.events.replay import replay_events
from privml.events.tcg import ALG_SHA384, LogEntry
from privml.events.types import (
    DSTACK_RUNTIME_EVENT,
    EV_EFI_ACTION,
    EV_EFI_BOOT_SERVICES_APPLICATION,
    EV_EFI_GPT_EVENT,
    EV_EFI_HANDOFF_TABLES2,
    EV_EFI_VARIABLE_AUTHORITY,
    EV_EFI_VARIABLE_BOOT,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_EVENT_TAG,
    EV_IPL,
    EV_PLATFORM_CONFIG_FLAGS,
    type_name,
)
from privml.events.wording import describe, explain_event, proven

SMBIOS3 = uuid.UUID("f2fd1544-9794-4a2c-992e-e5bbcf20e394")
EVENT = Event(RTMR2, EV_IPL, bytes(48), "uki.efi .cmdline", Evidence.HARDWARE, "a note")


def test_an_event_round_trips_through_json() -> None:
    value = EVENT.to_dict()
    assert value == {
        "register": "rtmr2",
        "type": 13,
        "digest": "00" * 48,
        "origin": "uki.efi .cmdline",
        "evidence": "hardware",
        "note": "a note",
    }
    assert Event.from_dict(value) == EVENT


@pytest.mark.parametrize(
    "change",
    [{"register": "pcr7"}, {"type": -1}, {"digest": "00"}, {"evidence": "sure"}, {"extra": 1}, {"note": None}],
)
def test_a_malformed_event_names_its_field(change: dict[str, object]) -> None:
    with pytest.raises(EvidenceError):
        Event.from_dict({**EVENT.to_dict(), **change}, "shapes[0].events[3]")


def test_nothing_extends_mrtd() -> None:
    with pytest.raises(EvidenceError, match="MRTD"):
        replay_events([Event(MRTD, EV_IPL, bytes(48), "x", Evidence.SOURCE)])
    with pytest.raises(EvidenceError, match="47 bytes"):
        Event(RTMR0, EV_IPL, bytes(47), "x", Evidence.SOURCE)


def entry(kind: int, data: bytes, hashed: bytes | None = None) -> LogEntry:
    return LogEntry(1, kind, {ALG_SHA384: hashlib.sha384(data if hashed is None else hashed).digest()}, data)


def test_event_data_is_explained() -> None:
    assert explain_event(entry(EV_EFI_ACTION, b"Exit Boot Services Invocation")) == '"Exit Boot Services Invocation"'
    assert explain_event(entry(EV_IPL, "quiet x=1\0".encode("utf-16-le"))) == '"quiet x=1"'
    tagged = struct.pack("<II", 0x8F3B22ED, 3) + b"abc"
    assert (
        explain_event(entry(EV_EVENT_TAG, tagged))
        == '"abc" (tag 0x8f3b22ed): the kernel command line, by its EFI stub'
    )
    assert "fw_cfg BootMenu" in explain_event(
        entry(EV_PLATFORM_CONFIG_FLAGS, b"QEMU FW CFG\0BootMenu".ljust(68, b"\0"))
    )
    name = "PK".encode("utf-16-le")
    variable = bytes(16) + struct.pack("<QQ", 2, 1) + name + b"\1"
    assert explain_event(entry(EV_EFI_VARIABLE_DRIVER_CONFIG, variable)).startswith("variable PK (")
    assert "malformed" in explain_event(entry(EV_EFI_VARIABLE_DRIVER_CONFIG, variable + b"\0"))


def path_node(kind: int, subtype: int, body: bytes) -> bytes:
    return struct.pack("<BBH", kind, subtype, 4 + len(body)) + body


def test_structured_event_data_is_decoded() -> None:
    path = path_node(4, 4, "\\EFI\\BOOT\\BOOTX64.EFI\0".encode("utf-16-le")) + path_node(0x7F, 0xFF, b"")
    image = explain_event(entry(EV_EFI_BOOT_SERVICES_APPLICATION, bytes(24) + struct.pack("<Q", len(path)) + path))
    assert image == "EFI application \\EFI\\BOOT\\BOOTX64.EFI"
    volume = path_node(4, 7, bytes(16)) + path_node(4, 6, b"\1" + bytes(15))
    inside = explain_event(entry(EV_EFI_BOOT_SERVICES_APPLICATION, bytes(32) + volume))
    assert inside.startswith("EFI application Fv(00000000-") and "/FvFile(00000001-" in inside
    name = "Boot0000".encode("utf-16-le")
    option = struct.pack("<IH", 0x109, 4) + "UiApp\0".encode("utf-16-le") + bytes(4)
    boot = bytes(16) + struct.pack("<QQ", 8, len(option)) + name + option
    assert explain_event(entry(EV_EFI_VARIABLE_BOOT, boot, option)).endswith('"UiApp"')
    assert explain_event(entry(EV_EFI_VARIABLE_BOOT, boot, b"?")).endswith("(its digest is of something else)")
    label = "root".encode("utf-16-le").ljust(72, b"\0")
    header = b"EFI PART".ljust(92, b"\0")
    header = header[:16] + zlib.crc32(header).to_bytes(4, "little") + header[20:]
    table = header + struct.pack("<Q", 1) + bytes(56) + label
    assert explain_event(entry(EV_EFI_GPT_EVENT, table)).endswith(", 1 partitions: root")
    assert explain_event(entry(EV_EFI_GPT_EVENT, table[:-1])) == f"{len(table) - 1} bytes {table[:32].hex()}"
    assert explain_event(entry(EV_EFI_HANDOFF_TABLES2, b"\x09TdxTable\0" + bytes(32))).startswith(
        '"TdxTable": the memory layout'
    )
    runtime = entry(DSTACK_RUNTIME_EVENT, b"\1\0\0\x08:app-id:\xff\xee")
    assert explain_event(runtime) == "run-time event app-id ffee"
    assert explain_event(entry(EV_IPL, b"grub_cmd: set x=1", b"set x=1")) == '"grub_cmd: set x=1"'


def test_a_digest_is_classified_as_over_the_text_or_over_something_else() -> None:
    assert proven(entry(EV_IPL, "a\0".encode("utf-16-le"))) is True
    assert proven(entry(EV_IPL, b"grub_cmd: set x=1", b"set x=1")) is True
    assert proven(entry(EV_IPL, b".linux", b"content")) is None
    assert proven(entry(EV_EFI_ACTION, b"Exit", b"content")) is False
    assert proven(entry(EV_IPL, ".linux".encode("utf-16-le"), b".linux\0")) is True
    assert proven(entry(EV_IPL, "a b\0".encode("utf-16-le"), "a b".encode("utf-16-le"))) is True
    assert explain_event(entry(EV_IPL, b"grub_cmd: menuentry {\n\tx\n}")) == '"grub_cmd: menuentry {\\n x\\n}"'
    assert "(the log's words, digest" in describe(entry(EV_IPL, b".linux", b"content"))


def test_an_explanation_says_when_the_digest_is_of_something_else() -> None:
    assert "something else" in explain_event(entry(EV_EFI_ACTION, b"Exit Boot Services Invocation", b"other"))


def test_control_characters_never_reach_a_terminal() -> None:
    assert "\x1b" not in explain_event(entry(EV_IPL, b"\x1b[2Jevil\x07"))
    assert len(explain_event(entry(EV_IPL, b"A" * 10_000))) <= 400


def test_event_types_have_names() -> None:
    assert type_name(EV_IPL) == "EV_IPL"
    assert type_name(0x12345678) == "0x12345678"


def test_the_authority_of_an_image_is_named_by_its_certificate() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "X"), x509.NameAttribute(NameOID.COMMON_NAME, "Key A")]
    )
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = builder.serial_number(1).not_valid_before(now).not_valid_after(now).sign(key, hashes.SHA256())
    der = built.public_bytes(serialization.Encoding.DER)
    assert certificate_name(der) == "Key A" and certificate_name(der[:-80]) is None and certificate_name(b"") is None
    value = bytes(16) + der
    data = bytes(16) + struct.pack("<QQ", 2, len(value)) + "db".encode("utf-16-le") + value
    assert explain_event(entry(EV_EFI_VARIABLE_AUTHORITY, data)).endswith(', certificate of "Key A"')


@pytest.mark.parametrize(
    ("kind", "data", "id_"),
    [
        (0x6, struct.pack("<II", 0x49DFFE0F, 0), "addon"),
        (0x6, struct.pack("<II", 0x12345678, 0), None),
        (0x6, b"\x01", None),
        (0x8000000A, b"\x29Fv(FFF12B8D-7696-4C8B-A985-2747075B4F50)", "variable-volume"),
        (
            0x80000009,
            bytes(8) + uuid.UUID("f2fd1544-9794-4a2c-992e-e5bbcf20e394").bytes_le + bytes(8),
            "smbios-table",
        ),
        (0xA, b"ACPI DATA", "acpi-tables"),
        (0x7777, b"", None),
    ],
)
def test_the_meaning_of_a_record_is_found(kind: int, data: bytes, id_: str | None) -> None:
    about = meaning(entry(kind, data))
    assert (about.id if about else None) == id_


def test_levels_of_evidence_have_one_order() -> None:
    assert [level.value for level in sorted(Evidence, key=lambda level: -level.strength)] == [
        "hardware",
        "endorsed",
        "tpm-boot",
        "source",
        "learnt",
    ]
