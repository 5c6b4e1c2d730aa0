"""The cases of GPUs and switches. Devices, authorities and the guest around them really sign what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.negative import device_chain_cases, device_collateral_cases, devicepki, devices, forge
from tests.negative.case import HONEST, MALFORMED, Case
from tests.negative.device_case import (
    GPU,
    GROUP,
    NOTHING,
    NVTRUST,
    ONE,
    PAIR,
    RELAXED,
    SDK,
    TWO,
    Board,
    Collateral,
    altered,
    answered,
    bent,
    collateral,
    log,
    machine,
    needs,
    published,
    published_gpu,
    says,
    swapped,
    twin,
    written,
)
from tests.negative.devicepki import IDENTITY, ROOT
from tests.negative.devices import HOPPER, LS10, PPCIE, Device, Evidence
from tests.negative.forge import EVENTS, NONCE, NOW, b64
from tests.published import read


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
    controls, counts, bindings, *device_chain_cases.GROUPS, firmware, topology, reports,
    *device_collateral_cases.GROUPS, genuine,
)  # fmt: skip
