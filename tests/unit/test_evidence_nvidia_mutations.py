"""Every byte of GPU evidence and its collateral is read or refused (`tests.negative.altered`).

A sample of all changes here; with ``PRIVML_FULL=1`` every position. What is accepted has the same meaning: another
end of a PEM chain or file, or another spelling of the same XML.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections import Counter
from collections.abc import Callable

import gpu_samples as gpus
import pytest
from tests.negative import altered as mutator
from tests.published import read

from privml.base.errors import EvidenceError
from privml.evidence.certificates import UnfitError
from privml.evidence.document import DeviceEvidence
from privml.evidence.nvidia import ocsp, rim, roles, xml
from privml.evidence.nvidia.claims import DeviceFacts
from privml.sim import gpu, gpupki

FULL = os.environ.get("PRIVML_FULL") == "1"
XML_SPELLING = "XML spelling"
FILE_ENDING = "newlines behind a file"
RIM = read(f"{gpus.SDK}/unit/NV_GPU_DRIVER_GH100_550.144.03.xml")
RIM_TIME = 1_795_000_000
P384 = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
LEAF, ROM, *ABOVE = gpu.device_chain(gpu.GPUS[0])
ANSWER = gpupki.answer(ROM, ABOVE[0], gpupki.private_key("GH100 provisioner"), gpus.NOW)


def genuine(device: DeviceEvidence) -> bool:
    try:
        (found,) = gpus.check(device).devices
    except EvidenceError:
        return False
    return isinstance(found, DeviceFacts)


def report(device: DeviceEvidence) -> Callable[[bytes], str | None]:
    return lambda data: "another report" if genuine(dataclasses.replace(device, report=data)) else None


def chain(device: DeviceEvidence) -> Callable[[bytes], str | None]:
    core = device.certificates.rstrip(b"\n\0")

    def judge(data: bytes) -> str | None:
        if not genuine(dataclasses.replace(device, certificates=data)):
            return None
        ending = data.startswith(core) and data[len(core) :].decode() in mutator.PEM_ENDINGS
        return mutator.PEM_ENDING if ending else "another chain"

    return judge


def values(data: bytes) -> str | None:
    try:
        rim.read(data, root=rim.NVIDIA_RIM_ROOT_DER, naming=roles.NVIDIA, now=RIM_TIME, verified=roles.Verified())
    except UnfitError:
        return None
    if data.strip(b"\n") == RIM.strip(b"\n"):
        return FILE_ENDING
    same = xml.canonical(xml.parse(data)) == xml.canonical(xml.parse(RIM))
    return XML_SPELLING if same else "other reference values"


def answer(data: bytes) -> str | None:
    try:
        ocsp.check(ocsp.load(data), ROM, ABOVE, now=gpus.NOW)
    except UnfitError:
        return None
    return "another answer"


CASES: dict[str, tuple[bytes, Callable[[bytes], str | None], set[str]]] = {
    "report of a GPU": (gpus.R580.report, report(gpus.R580), set()),
    "report of a switch": (gpus.LS10.report, report(gpus.LS10), set()),
    "chain of a GPU": (gpus.R580.certificates, chain(gpus.R580), {mutator.PEM_ENDING}),
    "chain of a switch": (gpus.LS10.certificates, chain(gpus.LS10), {mutator.PEM_ENDING}),
    "reference values": (RIM, values, {XML_SPELLING, FILE_ENDING}),
    "revocation answer": (ANSWER, answer, set()),
}


@pytest.mark.parametrize("name", CASES)
def test_every_byte_is_read_or_refused(name: str) -> None:
    given, judge, neutral = CASES[name]
    rng = random.Random(name)
    assert judge(given) is not None
    tried: Counter[str] = Counter()
    count = 0 if FULL else 120
    for changed in (*mutator.ends(given), *mutator.altered(given, iter(mutator.positions(given, count, rng)), rng)):
        if changed == given:
            continue
        tried["all"] += 1
        kind = judge(changed)
        if kind is not None:
            assert kind in neutral, changed
            tried[kind] += 1
    assert tried["all"] > 500
    assert tried.keys() - {"all"} <= neutral


def test_a_signature_twin_is_the_same_devices_word_and_another_document() -> None:
    """(r, n - s) is valid too. It proves nothing else, and the quote covers the digest of the report."""
    data = gpus.R580.report
    s = int.from_bytes(data[-48:])
    twin = data[:-48] + (P384 - s).to_bytes(48)
    assert genuine(dataclasses.replace(gpus.R580, report=twin))
    honest = gpus.document()
    (device,) = honest.device_evidence
    changed = device.report[:-48] + (P384 - int.from_bytes(device.report[-48:])).to_bytes(48)
    other = dataclasses.replace(honest, device_evidence=(dataclasses.replace(device, report=changed),))
    assert {refusal.code for refusal in gpus.judge(given=other).refusals} == {"gpu-digest"}
