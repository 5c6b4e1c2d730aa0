"""The image that firmware starts and its events: a UKI, a kernel given by ``-kernel``, or a UKI on a disk.

The stub's rules were read in systemd 262 (src/boot/stub.c) and seen in software-TPM boots; a kernel's two events
(Linux drivers/firmware/efi/libstub), and the order of a disk's, are in hardware logs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.events.event import Event, Evidence
from privml.events.registers import RTMR0, RTMR1, RTMR2
from privml.events.types import (
    EV_EFI_BOOT_SERVICES_APPLICATION,
    EV_EFI_GPT_EVENT,
    EV_EVENT_TAG,
    EV_IPL,
)
from privml.measure import optionrom, smbios
from privml.measure.digest import sha384
from privml.measure.eventlist import EventList
from privml.measure.profiles import Profile
from privml.measure.uki import UkiFacts, has_console, load_options, mangle


@dataclass(frozen=True)
class KernelFacts:
    """A kernel given by ``-kernel``: its Authenticode SHA-384 as loaded, the LoadOptions text, its initrd's SHA-384.

    ``initrd`` is None without one. ``cmdline`` is the whole text, with what firmware adds to it.
    """

    authenticode: bytes
    cmdline: str
    initrd: bytes | None


Payload = UkiFacts | KernelFacts


def loaded(events: EventList, payload: Payload) -> None:
    """Firmware loads the payload's PE image."""
    if isinstance(payload, KernelFacts):
        events.add(
            RTMR1,
            EV_EFI_BOOT_SERVICES_APPLICATION,
            payload.authenticode,
            "kernel",
            evidence=Evidence.HARDWARE,
            note="Authenticode SHA-384 of the kernel as firmware gets it",
        )
        return
    events.add(
        RTMR1,
        EV_EFI_BOOT_SERVICES_APPLICATION,
        payload.authenticode,
        "uki.efi",
        evidence=Evidence.TPM_BOOT,
        note="Authenticode SHA-384 of the whole image"
        + ("" if payload.inner_kernel else "; the stub maps the kernel inside itself, without an event"),
    )


def ran(
    events: EventList,
    payload: Payload,
    table: bytes | None,
    *,
    host_cmdline: str | None = None,
    stub_console: str | None = None,
) -> None:
    """The payload runs until its kernel calls ExitBootServices. ``table`` is the published SMBIOS table, None when
    RTMR0 is not predicted. The other arguments are ``predict``'s."""
    if isinstance(payload, KernelFacts):
        _kernel(events, payload.cmdline, "kernel's command line", payload.initrd, "initrd", Evidence.HARDWARE)
    else:
        _stub(events, payload, table, host_cmdline, stub_console)


def _kernel(
    events: EventList,
    cmdline: str,
    from_: str,
    initrd: bytes | None,
    initrd_from: str,
    level: Evidence,
    *,
    keys: tuple[str, str] = ("", ""),
) -> None:
    """The kernel's own two events (Linux drivers/firmware/efi/libstub/efi-stub-helper.c)."""
    if cmdline:
        events.add(
            RTMR2,
            EV_EVENT_TAG,
            sha384(load_options(cmdline)),
            from_,
            key=keys[0],
            evidence=Evidence.HARDWARE,
            note=cmdline[:2048],
        )
    if initrd is not None:
        events.add(RTMR2, EV_EVENT_TAG, initrd, initrd_from, key=keys[1], evidence=level)


def _stub(
    events: EventList, uki: UkiFacts, table: bytes | None, host_cmdline: str | None, stub_console: str | None
) -> None:
    """The UKI's sections, the stub's own events, and the kernel's LoadOptions and initrd."""
    profile = events.profile
    for name, digest in uki.sections:
        events.add(
            RTMR2,
            EV_IPL,
            sha384(name.encode("ascii") + b"\0"),
            f"uki.efi {name} (its name)",
            evidence=Evidence.HARDWARE,
        )
        events.add(RTMR2, EV_IPL, digest, f"uki.efi {name}", key=name, evidence=Evidence.HARDWARE)
    cmdline = uki.cmdline
    given = mangle(host_cmdline.encode("utf-8")) if host_cmdline is not None else ""
    if given:
        cmdline = given
        events.add(
            RTMR2,
            EV_IPL,
            sha384(load_options(given)),
            "command line from the host",
            note=given[:2048],
        )
    # A TD's firmware has no tagged events: there the stub sends the same bytes as EV_IPL (read in its binary).
    if table is not None and (profile.tpm or profile.tagged_events == "cc"):
        for kind, data in smbios.stub_structures(table):
            events.add(
                RTMR0,
                EV_EVENT_TAG if profile.tpm else EV_IPL,
                sha384(data),
                f"{smbios.TABLES} type {kind}",
                note="written by the UKI's stub; serial number and UUID are in it",
            )
    if not has_console(cmdline):
        if stub_console is None:
            raise MeasurementError(
                "the command line has no console=: the UKI's stub would add one by looking at the host's devices",
                hint="put a console= into the recipe's command line",
            )
        cmdline = " ".join(part for part in (cmdline, stub_console) if part)
    if uki.inner_kernel is not None:
        _inner_kernel(events, uki.inner_kernel, Evidence.HARDWARE)
    _kernel(
        events,
        cmdline,
        "command line from the host" if given else "uki.efi .cmdline as the kernel's LoadOptions",
        uki.initrd,
        "uki.efi .initrd with the stub's additions",
        Evidence.TPM_BOOT,
        keys=("" if given else ".cmdline", ".initrd"),
    )


def direct(payload: Payload, profile: Profile, *, stub_console: str | None = None) -> tuple[Event, ...]:
    """RTMR1 and RTMR2 of a direct boot (``-kernel``), which do not depend on the machine."""
    events = EventList(profile)
    loaded(events, payload)
    started(events, payload, None, stub_console=stub_console)
    return _without_rtmr0(events)


def started(
    events: EventList,
    payload: Payload,
    table: bytes | None,
    *,
    gpt_event: bytes | None = None,
    host_cmdline: str | None = None,
    stub_console: str | None = None,
) -> None:
    """From the boot option's start to the kernel's ExitBootServices.

    ``gpt_event`` (as ``gpt.table`` gives it) says that ``payload`` is on a disk; a direct boot has loaded it before.
    """
    events.calling()
    if gpt_event is not None:
        _partition_table(events, gpt_event)
        loaded(events, payload)
    ran(events, payload, table, host_cmdline=host_cmdline, stub_console=stub_console)
    events.exit_boot_services()


def option_roms(events: EventList, roms: Iterable[bytes]) -> None:
    """The drivers in the cards' option ROMs, which firmware starts when it finds the cards; a TD ignores them."""
    if not events.profile.tpm:
        return
    for rom in roms:
        for driver in optionrom.drivers(rom):
            events.add(
                RTMR1,
                driver.type,
                driver.authenticode,
                "driver of an option ROM",
                note="Authenticode SHA-384 of the driver, unpacked",
            )


def image_alone(
    authenticode: bytes, inner_kernel: bytes | None, profile: Profile, *, gpt_event: bytes | None = None
) -> tuple[Event, ...]:
    """RTMR1 of a UKI whose RTMR2 is not known: nothing in RTMR1 depends on the stub but ``inner_kernel``."""
    events = EventList(profile)
    image = UkiFacts(authenticode, (), "", None, inner_kernel)
    if gpt_event is None:
        loaded(events, image)
    events.calling()
    if gpt_event is not None:
        _partition_table(events, gpt_event)
        loaded(events, image)
    if inner_kernel is not None:
        _inner_kernel(events, inner_kernel, Evidence.SOURCE)
    events.exit_boot_services()
    return tuple(event for event in events.rows if event.register == RTMR1)


def _partition_table(events: EventList, gpt_event: bytes) -> None:
    events.add(
        RTMR1,
        EV_EFI_GPT_EVENT,
        sha384(gpt_event),
        "disk's partition table (GPT)",
        key="disk.raw",
        evidence=Evidence.HARDWARE,
        note="GUIDs, names and places of all partitions",
    )


def _inner_kernel(events: EventList, digest: bytes, level: Evidence) -> None:
    events.add(
        RTMR1,
        EV_EFI_BOOT_SERVICES_APPLICATION,
        digest,
        "uki.efi .linux, loaded by the stub",
        key=".linux",
        evidence=level,
    )


def from_disk(
    uki: UkiFacts, gpt_event: bytes, profile: Profile, *, stub_console: str | None = None
) -> tuple[Event, ...]:
    """RTMR1 and RTMR2 of a boot from a disk's ``EFI/BOOT/BOOTX64.EFI``, which do not depend on the machine."""
    events = EventList(profile)
    started(events, uki, None, gpt_event=gpt_event, stub_console=stub_console)
    return _without_rtmr0(events)


def _without_rtmr0(events: EventList) -> tuple[Event, ...]:
    return tuple(event for event in events.rows if event.register != RTMR0)
