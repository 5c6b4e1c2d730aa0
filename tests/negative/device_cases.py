"""The cases of GPUs and switches. Devices, authorities and the guest around them really sign what they say."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.negative import devicepki, devices, forge
from tests.negative.case import HONEST, MALFORMED, REFUSED, SIMULATED, Case
from tests.negative.devicepki import IDENTITY, P384, RIM_ROOT, ROOT, Answer, Cert, Rim
from tests.negative.devices import HOPPER, LS10, PPCIE, Device, Evidence
from tests.negative.forge import EVENTS, NONCE, NOW, Event, Guest, b64, jcs
from tests.published import read

Board = tuple[Device | Evidence, ...]
Collateral = dict[str, list[str]]

ONE = devices.gpus(1)
TWO = devices.gpus(2)
GROUP = devices.group()
PAIR = devices.group(2, 2)  # a smaller group, which is judged faster
GPU = ONE[0]
SDK = "attestation/NVIDIA_attestation-sdk"
NVTRUST = "attestation/NVIDIA_nvtrust"
NOTHING: Collateral = {"ocsp": [], "rims": []}
RELAXED = {"require_rims": False, "require_revocation": False}


def log(gpus: int, switches: int, **modes: str) -> tuple[Event, ...]:
    """The agent's events of a boot with so many devices."""
    ready = jcs({"gpus": gpus, "switches": switches, "cc": "on", "devtools": "off", **modes})
    return (EVENTS[0], ("gpu-ready", ready), *EVENTS[1:])


def needs(gpus: int, switches: int = 0, architecture: str = "hopper", **modes: str) -> dict[str, Any]:
    """The statement of an image that needs so many devices."""
    events = log(gpus, switches, **modes)
    value = {"accepted": [forge.rtmr3(events).hex()], "evidence": "tpm-boot"}
    return forge.statement(
        agent_events=[{"name": name, "payload": b64(payload)} for name, payload in events],
        purposes={"serve": len(events), "key-release": 1},
        gpus={"architecture": architecture, "count": gpus, "switches": switches},
        launches=[forge.launch(*shape, rtmr3=value) for shape in forge.SHAPES],
    )


def written(answers: tuple[Answer, ...], rims: tuple[Rim, ...]) -> Collateral:
    """NVIDIA's collateral as in a document."""
    return {"ocsp": [b64(each.der) for each in answers], "rims": [b64(each.text.encode()) for each in rims]}


def collateral(*board: Device, time: int = NOW) -> Collateral:
    """All collateral that these devices need."""
    rims = devices.rims(board)
    return written(devices.answers(board, rims, time), rims)


def machine(
    about: str,
    *codes: str,
    board: Board = ONE,
    needed: tuple[int, int] | None = None,
    given: Collateral | None = None,
    nvidia: dict[str, Any] | None = None,
    guest: dict[str, Any] | None = None,
    **fields: Any,
) -> Case:
    """A guest with this board, whose image needs as many devices, or ``needed``.

    The collateral is that of so many honest devices unless ``given``; ``nvidia`` is a part of the policy, ``guest``
    has other fields of the guest, and ``fields`` are others of the case.
    """
    kinds = [each.kind if isinstance(each, Evidence) else each.family.kind for each in board]
    gpus, switches = needed or (kinds.count("gpu"), kinds.count("switch"))
    honest = devices.group(gpus, switches) if switches else devices.gpus(gpus)
    made = HONEST.with_(**{"events": log(gpus, switches), "equipment": board, **(guest or {})})
    return Case(
        **{
            "about": about,
            "document": made.document(),
            "outcome": REFUSED if codes else SIMULATED,
            "codes": codes,
            "statement": needs(gpus, switches),
            "policy": {"nvidia": nvidia} if nvidia else {},
            "device_collateral": collateral(*honest) if given is None else given,
            "devices_allowed": True,
            **fields,
        }
    )


def says(about: str, *codes: str, device: Device = GPU, **changes: Any) -> Case:
    """A GPU that says something else, under its own signature."""
    return machine(about, *codes, board=(device.with_(**changes),))


def bent(about: str, *codes: str, place: int, **changes: Any) -> Case:
    """A group of 2 GPUs and 2 switches, one of which says something else."""
    return machine(about, *codes, board=swapped(place, PAIR[place].with_(**changes)))


def swapped(place: int, device: Device | Evidence) -> Board:
    return (*PAIR[:place], device, *PAIR[place + 1 :])


def answered(device: Device = GPU, guest: Guest = HONEST) -> Evidence:
    """A device's evidence for a guest. The nonce does not depend on which devices the guest has."""
    return device.evidence(guest.device_nonce)


def altered(**changes: Callable[[bytes], bytes]) -> tuple[Evidence]:
    """The honest GPU's evidence with its report or certificates changed after it was signed."""
    honest = answered()
    return (replace(honest, **{name: change(getattr(honest, name)) for name, change in changes.items()}),)


def twin(report: bytes) -> bytes:
    """The other signature (r, n - s) of the same key."""
    return report[:-48] + (P384 - int.from_bytes(report[-48:])).to_bytes(48)


def controls() -> dict[str, Case]:
    """Honest machines, which must be accepted."""
    rims = devices.rims(ONE)
    answers = devices.answers(ONE, rims, NOW)
    above = {authority.subject: authority for authority in (ROOT, IDENTITY, devicepki.provisioner("GH100"))}
    delegated = tuple(
        answer.with_(responder=devicepki.responder(above[answer.asked.issuer]))
        if answer.asked.issuer in above else answer for answer in answers
    )  # fmt: skip
    carried = {"tdx": HONEST.platform.collateral(), "nvidia": collateral(*ONE)}
    guest = HONEST.with_(events=log(1, 0), equipment=ONE)
    return {
        "device-honest": machine("one GPU"),
        "device-honest-eight": machine("eight GPUs, each by itself", board=devices.gpus(8)),
        "device-honest-group": machine("eight GPUs and four switches in protected PCIe mode", board=GROUP),
        "device-honest-carried": machine(
            "all collateral in the document", document=guest.document(collateral=carried), collateral=None,
            device_collateral=None,
        ),
        "device-honest-twin": machine("the other ECDSA signature of the same key", board=altered(report=twin)),
        "device-honest-responder": machine(
            "revocation answers by responders that the authorities named", given=written(delegated, rims)
        ),
        "device-honest-listed": machine("a listed device", nvidia={"devices": [GPU.pdi.hex(), "00" * 8]}),
        "device-honest-bare": machine(
            "no collateral, and the policy needs none", given=NOTHING, nvidia=RELAXED
        ),
        "device-honest-old-answers": machine(
            "answers of 600 seconds ago", given=collateral(*ONE, time=NOW - 600), nvidia={"max_revocation_age": 600}
        ),
    }  # fmt: skip


def counts() -> dict[str, Case]:
    """Devices that are missing, too many, or the same."""
    cpu = {"events": EVENTS}
    return {
        "device-none": machine("no evidence", "gpu-evidence", board=(), needed=(1, 0), given=NOTHING),
        "device-none-known": machine(
            "no GPUs at all, by the agent's log too", "agent-events", "gpu-cc-off", "gpu-devtools", "gpu-evidence",
            "rtmr3", board=(), needed=(1, 0), given=NOTHING, guest=cpu,
        ),
        "device-undeclared": machine(
            "a GPU in a guest whose image needs none", "gpu-count", guest=cpu, statement=forge.statement()
        ),
        "device-undeclared-log": machine(
            "a GPU, by the agent's log too, in a guest whose image needs none", "agent-events", "gpu-count", "rtmr3",
            statement=forge.statement(),
        ),
        "device-collateral-only": machine(
            "collateral of devices that the guest has not", "gpu-collateral", board=(), guest=cpu,
            given=collateral(*ONE), statement=forge.statement(),
        ),
        "device-missing": machine(
            "one of two GPUs is missing", "gpu-count", needed=(2, 0), given=collateral(*ONE)
        ),
        "device-missing-group": machine(
            "one of eight GPUs is missing in a group", "gpu-count", "gpu-topology", board=GROUP[1:], needed=(8, 4),
            given=collateral(*GROUP[1:]),
        ),
        "device-missing-switch": machine(
            "one of four switches is missing", "gpu-count", "gpu-topology", board=GROUP[:-1], needed=(8, 4),
            given=collateral(*GROUP[:-1]),
        ),
        "device-more": machine("one GPU more", "gpu-count", board=TWO, needed=(1, 0), given=collateral(*TWO)),
        "device-twice": machine(
            "the same evidence twice", "gpu-duplicate", board=(GPU, GPU), given=collateral(*ONE)
        ),
        "device-twice-answered": machine(
            "two answers of the same GPU", "gpu-duplicate", given=collateral(*ONE),
            board=(GPU, GPU.with_(says=((4, b"\1" * 8),))),
        ),
        "device-twice-switch": machine(
            "a switch twice, and another missing", "gpu-duplicate", "gpu-topology", board=(*PAIR[:-1], PAIR[-2]),
            given=collateral(*PAIR[:-1]),
        ),
    }  # fmt: skip


def bindings() -> dict[str, Case]:
    """Whose document and which nonce the evidence is for."""
    guest = HONEST.with_(events=log(1, 0), equipment=ONE)
    other = HONEST.with_(spki=bytes(32))
    earlier = HONEST.with_(nonce=bytes(31) + b"\1")
    second = answered(devices.gpus(2)[1])
    sample = bytes.fromhex("4cff7f5380ead8fad8ec2c531c110aca4302a88f603792801a8ca29ee151af2e")
    two = HONEST.with_(equipment=TWO)

    def on_the_way(about: str, *codes: str, given: Collateral, **fields: Any) -> Case:
        return machine(about, *codes, document=guest.document(**fields), given=given)

    def listing(about: str, board: Board, *listed: Evidence) -> Case:
        return machine(about, "gpu-digest", board=board, guest={"devices": forge.listed(listed)})

    return {
        "device-replayed-nonce": machine(
            "a GPU's answer to another nonce of the guest", "gpu-nonce", board=(answered(guest=earlier),)
        ),
        "device-replayed-guest": machine(
            "a GPU's answer to a guest with another key", "gpu-nonce", board=(answered(guest=other),)
        ),
        "device-replayed-in-group": machine(
            "a GPU of a group answered another guest", "gpu-nonce", board=swapped(1, answered(PAIR[1], other))
        ),
        "device-replayed-switch": machine(
            "a switch answered another nonce", "gpu-nonce", board=swapped(3, answered(PAIR[3], earlier))
        ),
        "device-callers-nonce": says("a GPU signed the caller's nonce itself", "gpu-nonce", nonce=NONCE),
        "device-root-nonce": says("a GPU signed the root of all nonces", "gpu-nonce", nonce=HONEST.root),
        "device-sample-nonce": says("the nonce of canned evidence", "gpu-nonce", "gpu-sample", nonce=sample),
        "device-zero-nonce": says("a nonce that is all zero", "gpu-nonce", "gpu-sample", nonce=bytes(32)),
        "device-put-in": on_the_way(
            "another GPU's evidence put in", "gpu-digest", given=collateral(TWO[1]), device_evidence=[second.field()]
        ),
        "device-twin-put-in": on_the_way(
            "the other signature of the same key put in", "gpu-digest", given=collateral(GPU),
            device_evidence=[altered(report=twin)[0].field()],
        ),
        "device-left-out": on_the_way(
            "the evidence left out", "gpu-digest", "gpu-evidence", given=NOTHING, device_evidence=[]
        ),
        "device-put-in-both": on_the_way(
            "another GPU's evidence and the section that lists it put in", "report-data",
            given=collateral(TWO[1]), device_evidence=[second.field()], devices=b64(forge.listed((second,))),
        ),
        "device-unlisted": listing("a GPU that the guest does not list", ONE),
        "device-listed-other": listing("the guest lists another GPU", ONE, second),
        "device-listed-more": listing("the guest lists one GPU more", ONE, answered(), second),
        "device-listed-order": listing("the guest lists its GPUs in another order", TWO, *two.evidence[::-1]),
        "device-listed-chain": listing(
            "the guest lists another chain", ONE, replace(answered(), certificates=second.certificates)
        ),
    }  # fmt: skip


def chains() -> dict[str, Case]:
    """Roots, certificates and signatures. The revocation answers are for the certificates as they are."""
    leaf, rom, provisioner, identity, root = GPU.certificates()
    stranger = ROOT.with_(key="stranger", issuer_key="stranger")
    nvidia = tuple(_as_nvidia(each) for each in GPU.certificates())
    switch = Device(LS10)
    foreign = provisioner.with_(subject=devicepki.provisioner("AD102").subject)
    expired = provisioner.with_(end=datetime(2026, 2, 1, tzinfo=UTC))
    tables = {
        "no-root": ("the root is left out", (leaf, rom, provisioner, identity)),
        "leaf-only": ("the firmware's certificate alone", (leaf,)),
        "empty": ("no certificates", ()),
        "order": ("the root first", (root, identity, provisioner, rom, leaf)),
        "twice": ("a certificate twice", (leaf, leaf, rom, provisioner, identity, root)),
        "stranger-root": ("another root with the same name", (leaf, rom, provisioner, identity, stranger)),
        "rim-root": ("the root of reference values", (leaf, rom, provisioner, identity, RIM_ROOT)),
        "no-fwid": ("a firmware's certificate without the firmware's digest",
                    (leaf.with_(extension=None), rom, provisioner, identity, root)),
        "fwid-key": ("a firmware's certificate that names another issuer's key",
                     (leaf.with_(extension=TWO[1].certificates()[0].extension), rom, provisioner, identity, root)),
        "leaf-by-provisioner": ("a firmware's certificate that no boot ROM made",
                                (leaf.with_(issuer=provisioner.subject, issuer_key=provisioner.key), rom,
                                 provisioner, identity, root)),
        "renamed": ("a provisioner of another chip",
                    (leaf, rom.with_(issuer=foreign.subject), foreign, identity, root)),
        "leaf-ca": ("a firmware's certificate that is a CA", (leaf.with_(ca=True), rom, provisioner, identity, root)),
        "rom-lists": ("a boot ROM that may sign revocation lists",
                      (leaf, rom.with_(lists=True), provisioner, identity, root)),
        "skipped": ("a provisioner that the root issued, and one certificate less",
                    (leaf, rom, provisioner.with_(issuer=ROOT.subject, issuer_key="root"), root)),
        "expired": ("a provisioner that has expired", (leaf, rom, expired, identity, root)),
        "switch": ("a switch's certificates for a GPU", switch.certificates()),
        "named-nvidia": ("certificates with NVIDIA's names, made from the simulation's public seed", nvidia),
    }  # fmt: skip
    unknown = ("gpu-collateral", "gpu-revocation", "gpu-rim")

    def unsigned(about: str, *codes: str, **changes: Any) -> Case:
        return replace(machine(about, *codes, **changes), also=unknown)

    cases = {
        f"device-chain-{name}": unsigned(about, "gpu-chain", board=(bad,), given=collateral(bad))
        for name, (about, chain) in tables.items()
        for bad in [GPU.with_(chain=chain)]
    }
    around = {
        "before": ("text before the certificates", lambda pem: b"# hello\n" + pem),
        "after": ("text after the certificates", lambda pem: pem + b"end\n"),
        "lines": ("certificates in longer lines", lambda pem: pem.replace(b"\n", b"\r\n")),
    }
    cases |= {
        f"device-chain-{name}": unsigned(about, "gpu-chain", board=altered(certificates=change))
        for name, (about, change) in around.items()
    }
    return cases | {
        "device-simulated": machine(
            "a simulated GPU, and none is allowed", "gpu-simulated", given=NOTHING, devices_allowed=False
        ),
        "device-simulated-group": machine(
            "a simulated group with its collateral, and none is allowed", "gpu-collateral", "gpu-simulated",
            board=PAIR, devices_allowed=False,
        ),
        "device-simulated-rims": machine(
            "simulated reference values for a guest without devices, and no simulated root is allowed",
            "gpu-collateral", board=(), guest={"events": EVENTS}, statement=forge.statement(),
            given={"ocsp": [], "rims": collateral(*ONE)["rims"]}, devices_allowed=False,
        ),
        "device-allowed-only": machine(
            "simulated GPUs are allowed, a simulated guest is not", "simulated", allowed=False
        ),
        "device-chain-nvidia-refused": replace(
            cases["device-chain-named-nvidia"], about="NVIDIA's names, and no simulated GPU is allowed",
            devices_allowed=False,
        ),
        "device-signature": unsigned(
            "a bit of the signature flipped", "gpu-signature",
            board=altered(report=lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        ),
        "device-signature-measurement": unsigned(
            "a measurement changed after signing", "gpu-signature",
            board=altered(report=lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:]),
        ),
        "device-signature-stranger": unsigned(
            "signed with another key", "gpu-signature", board=(GPU.with_(signer="stranger"),)
        ),
        "device-signature-other": unsigned(
            "another GPU's certificates", "gpu-signature", board=(GPU.with_(chain=TWO[1].certificates()),)
        ),
        "device-fwid": says("other firmware than the key was made for", "gpu-fwid", says=((20, bytes(48)),)),
        "device-fwid-none": says("a driver that does not say which firmware runs", "gpu-fwid", says=((20, None),)),
        "device-pdi-switch": replace(
            bent("a switch that says it is another one", "gpu-chain", place=2, says=((22, PAIR[3].pdi),)),
            also=("gpu-topology",),
        ),
        "device-list": machine("a GPU that the policy does not list", "gpu-device", nvidia={"devices": ["00" * 8]}),
    }  # fmt: skip


def _as_nvidia(given: Cert) -> Cert:
    """The certificate under NVIDIA's own names; the key stays."""

    def named(name: devicepki.Name) -> devicepki.Name:
        root = any(text == "NVIDIA Device Identity CA" for _, text in name)
        owner = "NVIDIA" if root else "NVIDIA Corporation"
        return tuple((kind, owner if kind == devicepki.OWNER else text) for kind, text in name)

    return given.with_(subject=named(given.subject), issuer=named(given.issuer), prefix="")


def firmware() -> dict[str, Case]:
    """Architecture, versions, measurements, and the state that the agent recorded."""
    honest = devices.measured(HOPPER)
    newer = [{"driver": "590.13", "vbios": "96.00.A5.00.01"}]
    pair = [{"driver": "590.12", "vbios": "96.00.A5.00.02"}]
    met = [*newer, {"driver": "590.12", "vbios": "96.00.A5.00.01"}]
    old_driver = GPU.with_(says=((3, b"550.54.14\0"),))
    values = devices.rims(ONE)
    old_rims = (values[0], values[1].with_(version="550.54.14"))

    def recorded(about: str, *codes: str, **modes: str) -> Case:
        """The image's statement wants this log, so nothing else is wrong."""
        return machine(about, *codes, guest={"events": log(1, 0, **modes)}, statement=needs(1, **modes))

    return {
        "device-architecture": machine(
            "the image needs another architecture", "gpu-architecture", statement=needs(1, architecture="blackwell")
        ),
        "device-driver": machine("a driver that the policy lacks", "gpu-driver", nvidia={"firmware": newer}),
        "device-driver-met": machine("a pair that the policy lists", nvidia={"firmware": met}),
        "device-driver-old": machine(
            "an old driver, with its reference values", "gpu-driver", board=(old_driver,),
            given=written(devices.answers(ONE, old_rims, NOW), old_rims),
        ),
        "device-vbios": machine("a VBIOS that the policy lacks", "gpu-vbios", nvidia={"firmware": pair}),
        "device-vbios-switch": machine(
            "a switch's VBIOS that the policy lacks", "gpu-vbios", board=PAIR,
            nvidia={"switch_firmware": ["96.10.55.00.01"]},
        ),
        "device-measurement": says(
            "another measurement", "gpu-measurements", measurements=(bytes(48), *honest[1:])
        ),
        "device-measurement-driver": says(
            "another measurement of the driver", "gpu-measurements",
            measurements=(*honest[:40], bytes(48), *honest[41:]),
        ),
        "device-measurement-nvdec": says(
            "another measurement of NVDEC0 while it is off, which is not compared",
            measurements=(*honest[:35], bytes(48), *honest[36:]),
        ),
        "device-measurement-nvdec-on": says(
            "another measurement of NVDEC0 while it is on", "gpu-measurements", says=((11, devices.ON),),
            measurements=(*honest[:35], bytes(48), *honest[36:]),
        ),
        "device-measurement-fewer": says("a measurement less", "gpu-measurements", measurements=honest[:-1]),
        "device-measurement-more": says(
            "a measurement more", "gpu-measurements", measurements=(*honest, bytes(48))
        ),
        "device-measurement-switch": bent(
            "another measurement of a switch", "gpu-measurements", place=3,
            measurements=(*devices.measured(LS10)[:-1], bytes(48)),
        ),
        "device-cc-off": recorded("confidential mode is off", "gpu-cc-off", cc="off"),
        "device-devtools": recorded("developer tools are on", "gpu-devtools", devtools="on"),
        "device-cc-off-here": machine(
            "confidential mode is off, and the image expects it on", "agent-events", "gpu-cc-off", "rtmr3",
            guest={"events": log(1, 0, cc="off")},
        ),
    }  # fmt: skip


def topology() -> dict[str, Case]:
    """Who is linked with whom, and in which mode."""
    boards, links = PAIR[:2], PAIR[2:]
    outsider = Device(LS10, 9).pdi
    mode = {name: ((36, bytes([number, 0])),) for number, name in enumerate(("spt", "mpt", "ppcie"))}
    code = "gpu-topology"
    return {
        "topology-mode": says("protected PCIe mode without switches", code, says=((21, devices.ON), *mode["ppcie"])),
        "topology-status": says("a mode that the status contradicts", code, says=((21, devices.ON),)),
        "topology-two-modes": machine(
            "two modes", code, board=(TWO[0], TWO[1].with_(says=mode["mpt"]))
        ),
        "topology-one-alone": machine("one GPU in another mode", code, board=swapped(0, TWO[0])),
        "topology-none": machine("switches, and no GPU in protected PCIe mode", code, board=(*TWO, *links)),
        "topology-outsider": bent(
            "a GPU that is linked with a switch without evidence", code, place=0, peers=(links[0].pdi, outsider)
        ),
        "topology-outsider-more": bent(
            "a GPU that is linked with a switch without evidence too", code, place=0,
            peers=(*boards[0].peers, outsider),
        ),
        "topology-fewer": bent("a GPU with links to one of two switches", code, place=0, peers=(links[0].pdi,)),
        "topology-switch": bent(
            "a switch that is linked with a GPU without evidence", code, place=3,
            peers=(boards[0].pdi, Device(HOPPER, 9).pdi),
        ),
        "topology-switch-fewer": bent(
            "a switch with links to one of two GPUs", code, place=3, peers=(boards[0].pdi,)
        ),
        "topology-half": machine(
            "four of eight GPUs of a board", code, board=(*GROUP[:4], *GROUP[8:]),
            given=collateral(*GROUP[:4], *GROUP[8:]),
        ),
        "topology-unlinked": bent(
            "a GPU in protected PCIe mode without links", code, place=1, peers=(),
            says=((21, devices.ON), (36, PPCIE)),
        ),
    }  # fmt: skip


def reports() -> dict[str, Case]:
    """Reports that cannot be read, really signed and listed."""

    def broken(about: str, **changes: Any) -> Case:
        return replace(says(about, **changes), outcome=MALFORMED)

    def unread(about: str, change: Callable[[bytes], bytes]) -> Case:
        return replace(machine(about, board=altered(report=change)), outcome=MALFORMED)

    def put(at: int, data: bytes) -> Callable[[bytes], bytes]:
        return lambda report: report[:at] + data + report[at + len(data) :]

    return {
        "report-trailing": broken("a byte after the report", tail=b"\0"),
        "report-cut": unread("the last byte cut off", lambda report: report[:-1]),
        "report-empty": unread("no report", lambda _: b""),
        "report-version": unread("another version of SPDM", put(0, b"\x12")),
        "report-unsigned": unread("a request for an unsigned answer", put(2, b"\0")),
        "report-slot": unread("another slot", put(36, b"\1")),
        "report-count": unread("a wrong number of measurements", put(41, b"\x3f")),
        "report-none": broken("no measurements", measurements=()),
        "report-digest": broken("a short measurement", measurements=(bytes(32), *devices.measured(HOPPER)[1:])),
        "report-field": broken("an unknown opaque field", more=b"\x63\0\1\0\0"),
        "report-field-twice": broken("an opaque field twice", more=b"\4\0\x08\0" + bytes(8)),
        "report-field-cut": broken("an opaque field that is cut off", more=b"\x05\0\x08\0" + bytes(7)),
        "report-no-driver": broken("no driver version", says=((3, None),)),
        "report-driver": broken("a driver version with more behind it", says=((3, b"590.12\0x\0"),)),
        "report-vbios": broken("a VBIOS version with more behind it", says=((6, b"\0\xa5\0\x96\1\0\0\1"),)),
        "report-status": broken("a status that is neither on nor off", says=((21, b"\1"),)),
        "report-flag": broken("an unknown mode", says=((36, b"\3\0"),)),
        "report-layout": broken("another version of the opaque data", says=((34, b"\2\0"),)),
        "report-switch": replace(
            machine("a switch's report for a GPU", board=(replace(answered(PAIR[2]), kind="gpu"),)),
            outcome=MALFORMED,
        ),
        "report-order": replace(
            machine("a switch before the GPUs", board=(PAIR[2], *PAIR[:2], PAIR[3])), outcome=MALFORMED
        ),
        "report-kind": replace(
            machine(
                "an unknown kind of device",
                document=HONEST.document(device_evidence=[{**answered().field(), "kind": "nic"}]),
            ),
            outcome=MALFORMED,
        ),
    }  # fmt: skip


def reference() -> dict[str, Case]:
    """Reference values. What cannot be verified is missing too."""
    rims = devices.rims(ONE)
    vbios, driver = rims
    answers = devices.answers(ONE, rims, NOW)
    evil = devicepki.resource(2, b"\xee" * 48)
    signed = driver.signature
    text = driver.text
    opening = text[: text.index(">") + 1]
    whole = devices.measured(HOPPER)
    signers = driver.chain
    unsigned = text.replace(signed, "")

    def values(about: str, *codes: str, rims: tuple[Rim, ...]) -> Case:
        return machine(about, *codes, given=written(answers, rims))

    def refused(about: str, changed: str | Rim) -> Case:
        data = changed.text if isinstance(changed, Rim) else changed
        assert data != text
        encoded = b64(data.encode())
        given = {"ocsp": [b64(each.der) for each in answers], "rims": [b64(vbios.text.encode()), encoded]}
        return machine(about, "gpu-collateral", "gpu-rim", given=given)

    bad = {
        "edited": ("a value changed after signing", text.replace(whole[7].hex(), whole[8].hex(), 1)),
        "version": ("the version changed after signing", text.replace(f'"{devices.DRIVER}"', '"590.13"')),
        "unsigned": ("no signature", unsigned),
        "two-signatures": ("the signature twice", text.replace(signed, signed * 2)),
        "signature-first": ("the signature before the content", unsigned.replace(opening, opening + signed)),
        "wrapped": ("the signed document inside another", f"{opening}{evil}{text}</SoftwareIdentity>"),
        "object": ("the signed content moved into the signature, another in its place",
                   f"{opening}<Payload>{evil}</Payload>"
                   + signed.replace("</ds:KeyInfo>", f"</ds:KeyInfo><ds:Object>{unsigned}</ds:Object>")
                   + "</SoftwareIdentity>"),
        "behind": ("a value added behind the signature", text.replace(signed, signed + evil)),
        "uri": ("a signature over a part by its id", driver.with_(uri="#x")),
        "form": ("another canonical form", driver.with_(canonicalization="http://www.w3.org/2001/10/xml-exc-c14n#")),
        "key-value": ("a key in the file",
                      text.replace("<ds:KeyInfo>", "<ds:KeyInfo><ds:KeyValue></ds:KeyValue>")),
        "stranger": ("signed with another key", driver.with_(signer="stranger")),
        "device-key": ("signed with a GPU's key and its certificates",
                       driver.with_(signers=GPU.certificates())),
        "signers-short": ("the root of the signer is left out", driver.with_(signers=signers[:-1])),
        "signers-root": ("the root of devices for the signer", driver.with_(signers=(*signers[:-1], ROOT))),
        "signers-ca": ("a signer that is a CA", driver.with_(signers=(signers[0].with_(ca=True), *signers[1:]))),
        "comment": ("a comment", text.replace("<Payload>", "<Payload><!-- x -->")),
        "declaration": ("a declaration before the document", '<?xml version="1.0"?>' + text),
        "entity": ("an entity", f'<!DOCTYPE x [<!ENTITY a "1">]>{text}'),
        "twice-index": ("an index twice, really signed", driver.with_(values=(*driver.values, driver.values[0]))),
        "short": ("a short digest, really signed", driver.with_(values=((7, bytes(32)), *driver.values[1:]))),
        "none": ("no values, really signed", driver.with_(values=())),
        "junk": ("something else", "<a/>"),
    }  # fmt: skip
    cases = {f"reference-{name}": refused(about, changed) for name, (about, changed) in bad.items()}
    return cases | {
        "reference-missing": machine(
            "no reference values", "gpu-rim", given=written(devices.answers(ONE, (), NOW), ())
        ),
        "reference-missing-driver": values("none for the driver", "gpu-rim", rims=(vbios,)),
        "reference-other-version": values(
            "those of another driver", "gpu-collateral", "gpu-rim", rims=(vbios, driver.with_(version="590.13"))
        ),
        "reference-unneeded": values(
            "more than the devices need", "gpu-collateral", rims=(*rims, driver.with_(version="590.13"))
        ),
        "reference-product": values(
            "those of another product", "gpu-collateral", "gpu-rim",
            rims=(vbios, driver.with_(product="LS10", signers=signers)),
        ),
        "reference-overlap": values(
            "two values for one index", "gpu-measurements",
            rims=(vbios, driver.with_(values=tuple(enumerate(whole)))),
        ),
        "reference-other-values": values(
            "other values, really signed", "gpu-measurements",
            rims=(vbios, driver.with_(values=((7, bytes(48)), *driver.values[1:]))),
        ),
    }  # fmt: skip


def revocation() -> dict[str, Case]:
    """Revocation answers."""
    rims = devices.rims(ONE)
    answers = devices.answers(ONE, rims, NOW)
    about_rom, about_provisioner, _, *about_signers = answers
    provisioner = devicepki.provisioner("GH100")
    other = TWO[1].boot_rom()
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    code = "gpu-revocation"

    def given(about: str, *codes: str, first: Answer, **changes: Any) -> Case:
        return machine(about, *codes, given=written((first, *answers[1:]), rims), **changes)

    def data(*encoded: str) -> Collateral:
        return {"ocsp": list(encoded), "rims": written((), rims)["rims"]}

    ders = written(answers, ())["ocsp"]
    return {
        "revocation-none": machine("no answers", code, given=data()),
        "revocation-one-missing": machine("an answer is missing", code, given=data(*ders[1:])),
        "revocation-signer-missing": machine(
            "no answer for a signer of reference values", code, given=data(*ders[:3], *ders[4:])
        ),
        "revocation-old": given("an answer that has expired", code, first=about_rom.with_(time=NOW - 7200)),
        "revocation-age": given(
            "an answer older than the policy allows", code, first=about_rom.with_(time=NOW - 600),
            nvidia={"max_revocation_age": 300},
        ),
        "revocation-age-default": given(
            "an answer of two days ago, which is still valid", code,
            first=about_rom.with_(time=NOW - 2 * 86400, valid_for=7 * 86400),
        ),
        "revocation-future": given("an answer from the future", code, first=about_rom.with_(time=NOW + 3600)),
        "revocation-unknown": given(
            "an authority that knows nothing", code, first=about_rom.with_(status="unknown")
        ),
        "revocation-stranger": given(
            "an answer that a stranger signed", code, first=about_rom.with_(signer="stranger")
        ),
        "revocation-sibling": given(
            "an answer that another authority signed", code, first=about_rom.with_(signer="root")
        ),
        "revocation-responder": given(
            "a responder that may not sign answers", code,
            first=about_rom.with_(responder=devicepki.responder(provisioner, purpose=usage)),
        ),
        "revocation-responder-stranger": given(
            "a responder that nobody named", code,
            first=about_rom.with_(responder=devicepki.responder(provisioner.with_(key="stranger"))),
        ),
        "revocation-same-number": given(
            "an answer about another authority's certificate with the same number", code,
            first=about_rom.with_(issuer=IDENTITY),
        ),
        "revocation-unneeded": machine(
            "an answer that nobody needs", "gpu-collateral", given=written((*answers, Answer(other, NOW)), rims)
        ),
        "revocation-other": machine(
            "an answer about another GPU", "gpu-collateral", code,
            given=written((Answer(other, NOW), *answers[1:]), rims),
        ),
        "revocation-twice": machine("an answer twice", "gpu-collateral", given=data(*ders, ders[0])),
        "revocation-junk": machine("something else", "gpu-collateral", given=data(*ders, b64(b"0"))),
        "revocation-trailing": machine(
            "a byte after an answer", "gpu-collateral", code, given=data(b64(about_rom.der + b"\0"), *ders[1:])
        ),
        "revoked-rom": given("a GPU is revoked", "gpu-revoked", first=about_rom.with_(status="revoked")),
        "revoked-authority": machine(
            "an authority above the GPUs is revoked", "gpu-revoked",
            given=written((about_rom, about_provisioner.with_(status="revoked"), *answers[2:]), rims),
        ),
        "revoked-signer": machine(
            "a signer of reference values is revoked", "gpu-revoked",
            given=written((*answers[:3], about_signers[0].with_(status="revoked"), *about_signers[1:]), rims),
        ),
        "revoked-relaxed": given(
            "a GPU is revoked, and the policy needs no answers", "gpu-revoked",
            first=about_rom.with_(status="revoked"), nvidia=RELAXED,
        ),
        "revoked-once": given(
            "a GPU was revoked two years ago", "gpu-revoked",
            first=about_rom.with_(status="revoked", time=NOW - 730 * 86400),
        ),
    }  # fmt: skip


def published(name: str) -> tuple[Evidence, ...]:
    """The devices of a published list of evidence."""
    return tuple(
        Evidence(
            "switch" if item["arch"] == "LS10" else "gpu",
            base64.b64decode(item["evidence"]),
            base64.b64decode(item["certificate"]),
        )
        for item in json.loads(read(name))
    )


def published_gpu(folder: str) -> Evidence:
    """The GPU whose report and chain were published in a folder."""
    report = bytes.fromhex(read(f"{folder}/hopperAttestationReport.txt").decode())
    return Evidence("gpu", report, read(f"{folder}/hopperCertChain.txt"))


def genuine() -> dict[str, Case]:
    """Published evidence of real devices. It is over old nonces, the only code where nothing else is wrong."""

    def replayed(about: str, *codes: str, nvidia: dict[str, Any] | None = None, **changes: Any) -> Case:
        chosen = RELAXED if nvidia is None else nvidia
        return machine(about, *codes, **{"given": NOTHING, "nvidia": chosen, "devices_allowed": False, **changes})

    gpu = published_gpu(f"{SDK}/unit")
    board = (*published(f"{NVTRUST}/ppcie/gpu_evidence.json"), *published(f"{NVTRUST}/ppcie/switch_evidence.json"))
    switch = published(f"{SDK}/switch_evidence_ls10.json")[0]
    rim = read(f"{SDK}/unit/switchVBIOSRim_NV_SWITCH_BIOS_5612_0002_890_9610550001.xml")
    with_switch = {**RELAXED, "switch_firmware": ["96.10.55.00.01"]}
    edited = rim.replace(b"96.10.55.00.01", b"96.10.55.00.02", 1)
    assert edited != rim
    return {
        "genuine-gpu": replayed("a real GPU's answer to another nonce", "gpu-nonce", board=(gpu,)),
        "genuine-gpu-strict": replayed(
            "a real GPU's answer to another nonce, without collateral", "gpu-nonce", "gpu-revocation", "gpu-rim",
            board=(gpu,), nvidia={},
        ),
        "genuine-gpu-simulated": replayed(
            "a real GPU's answer to another nonce, where simulated ones are allowed", "gpu-nonce", board=(gpu,),
            devices_allowed=True,
        ),
        "genuine-group": replayed("a real group of 8 GPUs and 4 switches", "gpu-nonce", board=board),
        "genuine-group-missing": replayed(
            "a real group without one of its GPUs", "gpu-count", "gpu-nonce", "gpu-topology", board=board[1:],
            needed=(8, 4),
        ),
        "genuine-group-twice": replayed(
            "a real group with one GPU twice", "gpu-duplicate", "gpu-nonce", "gpu-topology",
            board=(*board[:7], board[0], *board[8:]),
        ),
        "genuine-group-mixed": replayed(
            "a real group with one simulated GPU", "gpu-nonce", "gpu-topology", board=(GROUP[0], *board[1:]),
            devices_allowed=True,
        ),
        "genuine-mixed-simulated": replayed(
            "a simulated GPU with the chain of a real one", "gpu-signature",
            board=(replace(answered(), certificates=gpu.certificates),),
        ),
        "genuine-canned": replayed(
            "the report that software serves where there is no GPU", "gpu-driver", "gpu-nonce", "gpu-sample",
            board=(published_gpu(f"{NVTRUST}/local_gpu_verifier"),),
        ),
        "genuine-old-driver": replayed(
            "a driver that does not say which firmware runs", "gpu-driver", "gpu-fwid", "gpu-nonce",
            board=(published_gpu(f"{SDK}/sample_attestation_data/gpu"),),
        ),
        "genuine-switch": replayed(
            "a real switch that measures what NVIDIA's file says, beside a GPU that it is not linked with",
            "gpu-nonce", "gpu-sample", "gpu-topology", board=(gpu, switch), nvidia=with_switch,
            given={"ocsp": [], "rims": [b64(rim)]},
        ),
        "genuine-switch-edited": replayed(
            "the same, and NVIDIA's file was edited", "gpu-collateral", "gpu-nonce", "gpu-sample", "gpu-topology",
            board=(gpu, switch), nvidia=with_switch, given={"ocsp": [], "rims": [b64(edited)]},
        ),
        "genuine-rim-unneeded": machine(
            "a simulated GPU, and NVIDIA's reference values of a switch", "gpu-collateral",
            given={**collateral(*ONE), "rims": [*collateral(*ONE)["rims"], b64(rim)]},
            also=("gpu-revocation",),
        ),
    }  # fmt: skip


GROUPS: tuple[Callable[[], dict[str, Case]], ...] = (
    controls, counts, bindings, chains, firmware, topology, reports, reference, revocation, genuine,
)  # fmt: skip
