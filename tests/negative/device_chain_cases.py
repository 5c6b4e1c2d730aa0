"""The cases of who a device is: roots, certificates, signatures, firmware, lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tests.negative import devicepki, forge
from tests.negative.case import Case
from tests.negative.device_case import GPU, NOTHING, ONE, PAIR, TWO, altered, bent, collateral, machine, says
from tests.negative.devicepki import RIM_ROOT, ROOT, Cert
from tests.negative.devices import LS10, Device
from tests.negative.forge import EVENTS


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


GROUPS: tuple[Callable[[], dict[str, Case]], ...] = (chains,)
