"""AMD SEV-SNP: the policy for reports, and its checks.

AMD signs no list of the TCB versions that are up to date, so a caller's policy names the lowest ones that it accepts.
Source for the bits of a guest's policy and of PLATFORM_INFO: `evidence.snp.report`. What SNP does not measure:
docs/THREAT_MODEL.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from privml.events.registers import LAUNCH
from privml.evidence.snp import report
from privml.evidence.snp.claims import ReportFacts
from privml.evidence.snp.tcb import PRODUCTS, words
from privml.statement.launch import BOUND, HASHED, OPEN, MeasuredLaunch, SnpMachine
from privml.verify import policyfield
from privml.verify.policyfield import hex_list, hexadecimal, number, records, restricted, setting, switch, text, texts
from privml.verify.rules import (
    COLLATERAL_AGE,
    COLLATERAL_CODES,
    TeeCase,
    TeeRules,
    any_of,
    checked_signature,
    refuses,
)
from privml.verify.snptcb import TcbFloor, below
from privml.verify.verdict import Refusal

NEVER = frozenset({"debug", "migration agent"})
"""Bits of a guest's policy that are never accepted: each gives the guest's memory to somebody else."""
LOOSENING = frozenset({"smt", "cxl"})
"""Bits of a guest's policy that allow something; all other bits demand something of the machine."""
DEMANDS = frozenset(report.POLICY_BITS) - LOOSENING - NEVER
ALIAS_CHECK = "alias check"
NO_AGENT = b"\xff" * 32
"""REPORT_ID_MA of a guest without a migration agent."""

_DAY = 24 * 60 * 60
_ABI = re.compile(r"(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})")
_FIRMWARE = re.compile(_ABI.pattern + r"\.(0|[1-9][0-9]{0,2})")


def _version_objection(form: re.Pattern[str], shape: str) -> Callable[[str], str]:
    def objection(value: str) -> str:
        good = form.fullmatch(value) and all(int(part) < 256 for part in value.split("."))
        return "" if good else f"got `{value[:40]}`, expected {shape} with numbers below 256"

    return objection


def _union(value: frozenset[str], default: frozenset[str]) -> frozenset[str]:
    return value | default


@dataclass(frozen=True)
class SnpPolicy:
    """Acceptance criteria for an SNP guest and its platform. Defaults are strict.

    Two fields have no default that accepts a guest: ``min_tcb``, which nobody but the caller can choose, and
    ``allow_unmeasured_acpi``.
    """

    products: frozenset[str] = setting(
        texts(*PRODUCTS),
        frozenset({"Genoa", "Turin"}),
        "Accepted products. Milan is not a default: a published attack (arXiv 2605.12990) claims to extract the seed "
        "of its keys by software.",
        relaxes={"product"},
    )
    min_report_version: int = setting(
        number(min(report.VERSIONS), max(report.VERSIONS)),
        3,
        "The lowest accepted version of reports. Version 2 does not name the processor.",
        relaxes={"report-version"},
        strictest=max,
    )
    signing_keys: frozenset[str] = setting(
        texts("VCEK", "VLEK"),
        frozenset({"VCEK"}),
        "Accepted kinds of keys. A VCEK is one chip's, a VLEK is that of a cloud's whole fleet.",
        relaxes={"signing-key"},
    )
    fleets: frozenset[str] = setting(
        texts(), frozenset(), "Accepted providers that a VLEK may name. Empty: any provider.", sets={"fleet"}
    )
    chips: frozenset[bytes] = setting(
        hex_list(64),
        frozenset(),
        "Accepted chips by the report's CHIP_ID (64 bytes; of Turin the first 8, then zeros). Empty: any chip.",
        sets={"chip"},
    )
    min_tcb: frozenset[TcbFloor] = setting(
        records(TcbFloor),
        frozenset(),
        "The lowest accepted TCB version of each product, part by part. It is compared with all four TCB versions of "
        "a report. A product without one is refused, because AMD signs no list of versions that are up to date.",
        sets={"reported-tcb"},
    )
    min_firmware: str = setting(
        restricted(text(), _version_objection(_FIRMWARE, "MAJOR.MINOR.BUILD"), pattern=f"^{_FIRMWARE.pattern}$"),
        "0.0.0",
        "The lowest accepted version of the SNP firmware, current and committed.",
        sets={"snp-firmware"},
    )
    min_abi: str = setting(
        restricted(text(), _version_objection(_ABI, "MAJOR.MINOR"), pattern=f"^{_ABI.pattern}$"),
        "0.0",
        "The lowest accepted ABI version that the guest's policy demands of the firmware.",
        sets={"snp-abi"},
    )
    platform_must: frozenset[str] = setting(
        texts(*report.PLATFORM_BITS),
        frozenset({ALIAS_CHECK}),
        "What PLATFORM_INFO must say. By default: memory was checked for aliases, which BadRAM needs.",
        relaxes={"platform-info"},
        strictest=_union,
    )
    platform_must_not: frozenset[str] = setting(
        texts(*report.PLATFORM_BITS), frozenset(), "What PLATFORM_INFO must not say.", sets={"platform-info"}
    )
    mitigations: bytes = setting(
        hexadecimal(8),
        bytes(8),
        "Bits that both mitigation vectors must have, at the launch and now (a number, its highest byte first). "
        "Reports before version 5 have none.",
        sets={"mitigations"},
    )
    policy_may: frozenset[str] = setting(
        texts(*sorted(LOOSENING)),
        frozenset({"smt"}),
        "What the guest's policy may allow. Debugging and a migration agent are never accepted.",
        relaxes={"snp-policy"},
    )
    policy_must: frozenset[str] = setting(
        texts(*sorted(DEMANDS)),
        frozenset(),
        "What the guest's policy must demand of the machine.",
        sets={"snp-policy"},
    )
    vmpl: int = setting(
        number(0, 3),
        0,
        "The privilege level at which the report was requested, exactly. 0: no other software runs above the guest.",
        relaxes={"vmpl"},
        strictest=lambda _, default: default,
    )
    host_data: bytes = setting(hexadecimal(32), bytes(32), "The expected HOST_DATA.", sets={"host-data"})
    id_key: bytes = setting(hexadecimal(48), bytes(48), "The expected ID_KEY_DIGEST.", sets={"id-key"})
    author_key: bytes = setting(hexadecimal(48), bytes(48), "The expected AUTHOR_KEY_DIGEST.", sets={"author-key"})
    family_id: bytes = setting(hexadecimal(16), bytes(16), "The expected FAMILY_ID.", sets={"family-id"})
    image_id: bytes = setting(hexadecimal(16), bytes(16), "The expected IMAGE_ID.", sets={"image-id"})
    guest_svn: int = setting(number(0, (1 << 32) - 1), 0, "The expected GUEST_SVN.", sets={"guest-svn"})
    require_revocation: bool = setting(
        switch(),
        True,
        "Refuse reports that come without the revocation list of AMD's root.",
        relaxes={"revocation-missing"},
    )
    max_collateral_age_days: int = setting(
        number(1, 3650),
        400,
        "The highest accepted age of the revocation list.",
        relaxes={"collateral-age"},
        strictest=min,
    )
    boots: frozenset[str] = setting(
        texts(BOUND, HASHED),
        frozenset({BOUND}),
        "Accepted firmware. `bound` can start nothing but the kernel whose hash is measured; `hashed`, a "
        "distribution's own, checks that hash but can also start other programs of the host.",
        relaxes={"snp-boot-unbound"},
    )
    allow_unmeasured_acpi: bool = setting(
        switch(),
        False,
        "Accept guests whose ACPI tables are the host's. They hold code that the guest's kernel runs, and nothing "
        "measures them.",
        relaxes={"acpi-unmeasured"},
    )

    def __post_init__(self) -> None:
        policyfield.check(self)


@refuses(
    {
        "report-signature": "the report is not signed by the key of its certificate",
        "snp-chain": "the certificates are not exactly a VCEK or VLEK, its issuer and AMD's root of that product",
        "report-certificate": "the certificate is of another chip, processor, TCB version or kind of key",
        "revocation-list": "the revocation list is not one that AMD's root signed",
        **COLLATERAL_CODES,
    }
)
def signature(case: TeeCase[SnpPolicy]) -> Iterator[Refusal]:
    """Check that a key of AMD's signed exactly this report."""
    yield from checked_signature(case, "report-signature", "report")


@refuses(
    {
        "report-version": "the report's version is lower than the policy allows",
        "signing-key": "the kind of key that signed the report is not accepted",
        "chip": "the chip is not in the policy's list",
        "snp-firmware": "the version of the SNP firmware is lower than the policy allows",
        "platform-info": "the platform's configuration is not accepted",
        "mitigations": "a mitigation that the policy requires is not in place",
        "product": "the processor's product is not accepted",
        "fleet": "the provider that the VLEK names is not in the policy's list",
        "reported-tcb": "a part of a TCB version is lower than the policy allows, or the policy has no lowest one",
        "revocation-missing": "there is no revocation list of AMD's root",
        **COLLATERAL_AGE,
    }
)
def platform(case: TeeCase[SnpPolicy]) -> Iterator[Refusal]:
    """Check the processor, its firmware and configuration, and the collateral's age."""
    checked, policy, fields = case.signature, case.policy, case.claims.fields
    version = _number(fields["report-version"])
    if version < policy.min_report_version:
        yield Refusal("report-version", str(version), f"{policy.min_report_version} or later")
    key = _number(fields["signing-key"])
    kind = "a masked key" if key & 2 else report.SIGNING_KEYS[key >> 2 & 7]
    if kind not in policy.signing_keys:
        yield Refusal("signing-key", kind, any_of(policy.signing_keys))
    if policy.chips and fields["chip"] not in policy.chips:
        yield Refusal("chip", fields["chip"].hex(), any_of(chip.hex() for chip in policy.chips))
    floor = bytes(map(int, policy.min_firmware.split(".")))
    for name in ("current-firmware", "committed-firmware"):
        if fields[name] < floor:
            found = ".".join(map(str, fields[name]))
            yield Refusal("snp-firmware", f"{found}, {name}", f"{policy.min_firmware} or later")
    info = _words(fields["platform-info"], report.PLATFORM_BITS)
    yield from _required("platform-info", info, policy.platform_must, policy.platform_must_not)
    wanted = int.from_bytes(policy.mitigations)
    for name in ("launch-mitigations", "current-mitigations"):
        bits = _number(fields[name])
        if wanted & ~bits:
            yield Refusal("mitigations", f"{name} 0x{bits:x}", f"the bits 0x{wanted:x}")
    if isinstance(checked, ReportFacts):
        yield from _certified(checked, policy)


def _certified(checked: ReportFacts, policy: SnpPolicy) -> Iterator[Refusal]:
    """Check what only a valid certificate says."""
    if checked.product not in policy.products:
        yield Refusal("product", checked.product, any_of(policy.products))
    if checked.csp is not None and policy.fleets and checked.csp not in policy.fleets:
        yield Refusal("fleet", checked.csp, any_of(policy.fleets))
    for found, floor in below(checked, policy.min_tcb):
        wanted = f"a lowest TCB version of {checked.product} in the policy (snp.min_tcb)"
        if floor is not None:
            wanted = f"at least {words(floor.parts)} in each part"
        yield Refusal("reported-tcb", found, wanted)
    if checked.revocation is None:
        if policy.require_revocation:
            yield Refusal("revocation-missing", "none", f"the revocation list of ARK-{checked.product}")
        return
    age = (checked.time - checked.revocation.issued) // _DAY
    # A simulation's list never changes, so only a genuine one has an age.
    if checked.root_sha256 in RULES.genuine_roots and age > policy.max_collateral_age_days:
        wanted = f"at most {policy.max_collateral_age_days} days"
        yield Refusal("collateral-age", f"{checked.revocation.name}, {age} days", wanted)


@refuses(
    {
        "snp-policy": "the guest's policy is not accepted (a debuggable guest can be read by its host)",
        "snp-abi": "the guest's policy demands an older firmware than the caller's policy allows",
        "vmpl": "the report was requested at another privilege level",
        "host-data": "HOST_DATA differs",
        "id-key": "ID_KEY_DIGEST differs",
        "author-key": "AUTHOR_KEY_DIGEST differs",
        "family-id": "FAMILY_ID differs",
        "image-id": "IMAGE_ID differs",
        "guest-svn": "GUEST_SVN differs",
        "migration-agent": "a migration agent is bound to the guest",
    }
)
def guest(case: TeeCase[SnpPolicy]) -> Iterator[Refusal]:
    """Check the guest's fields. A field's name is its refusal code."""
    fields, policy = case.claims.fields, case.policy
    bits = _words(fields["snp-policy"], report.POLICY_BITS)
    yield from _required("snp-policy", bits, policy.policy_must, NEVER | (LOOSENING - policy.policy_may))
    minor, major = fields["snp-policy"][:2]
    if (major, minor) < tuple(map(int, policy.min_abi.split("."))):
        yield Refusal("snp-abi", f"{major}.{minor}", f"{policy.min_abi} or later")
    for name, found, wanted in (
        ("vmpl", _number(fields["vmpl"]), policy.vmpl),
        ("guest-svn", _number(fields["guest-svn"]), policy.guest_svn),
    ):
        if found != wanted:
            yield Refusal(name, str(found), str(wanted))
    exact = {
        "host-data": policy.host_data,
        "id-key": policy.id_key,
        "author-key": policy.author_key,
        "family-id": policy.family_id,
        "image-id": policy.image_id,
        "migration-agent": NO_AGENT,
    }
    for name, value in exact.items():
        if fields[name] != value:
            yield Refusal(name, fields[name].hex(), value.hex())
    if _number(fields["signing-key"]) & 1 and not any(fields["author-key"]):
        yield Refusal("author-key", "an author key without a digest", "no author key")


@refuses(
    {
        "snp-boot-unbound": "the launch digest does not bind what the firmware starts",
        "acpi-unmeasured": "the host's ACPI tables are not measured, and the guest's kernel runs their code",
    }
)
def launch(case: TeeCase[SnpPolicy]) -> Iterator[Refusal]:
    """Check what the launch digest of the expected image covers."""
    if case.launch is not None:
        yield from launch_refusals(case.launch, case.policy)


def launch_refusals(launch: MeasuredLaunch, policy: SnpPolicy) -> Iterator[Refusal]:
    """Why ``policy`` does not accept a predicted launch, whatever a report says."""
    if not isinstance(launch.machine, SnpMachine):
        return
    boot = launch.machine.boot
    if boot not in policy.boots:  # no policy can name `open`
        found = "open, a launch digest without the kernel's hash" if boot == OPEN else boot
        yield Refusal("snp-boot-unbound", found, any_of(policy.boots))
    if not policy.allow_unmeasured_acpi:
        yield Refusal("acpi-unmeasured", "ACPI tables of the host", "a policy that accepts them by name")


def notes(case: TeeCase[SnpPolicy]) -> Iterator[str]:
    """Notes on the platform, and on what an SNP report does not show."""
    checked = case.signature
    if isinstance(checked, ReportFacts):
        of = f", {checked.csp}" if checked.csp is not None else f", chip {case.claims.fields['chip'].hex()[:16]}.."
        yield f"{checked.product} {checked.stepping}, {checked.role}{of}, TCB {words(checked.tcbs['reported'])}"
        if checked.revocation is None:
            yield "revocation: no list was given, so a revoked certificate of AMD's would not be seen"
    bits = _words(case.claims.fields["snp-policy"], report.POLICY_BITS)
    yield f"guest policy: {', '.join(sorted(bits)) or 'nothing'}"
    yield "SNP has no run-time registers: only the report data covers the agent's log"


def _number(value: bytes) -> int:
    return int.from_bytes(value, "little")


def _words(value: bytes, bits: dict[str, int]) -> frozenset[str]:
    return frozenset(name for name, bit in bits.items() if _number(value) >> bit & 1)


def _required(
    code: str, found: frozenset[str], must: Collection[str], must_not: Collection[str]
) -> Iterator[Refusal]:
    """One refusal if a word of ``must`` is missing or one of ``must_not`` is there."""
    missing, wrong = sorted(set(must) - found), sorted(found & set(must_not))
    if missing or wrong:
        wanted = [*missing, *(f"not {word}" for word in wrong)]
        yield Refusal(code, ", ".join(sorted(found)) or "nothing", ", ".join(wanted))


RULES = TeeRules[SnpPolicy](
    vendor="AMD",
    genuine_roots=frozenset(product.root_sha256 for product in PRODUCTS.values()),
    registers={LAUNCH: "firmware, kernel, or number or kind of processors differ"},
    unlogged={LAUNCH: "the launch digest has no log: firmware, kernel, or number or kind of processors differ"},
    signature=signature,
    checks=(platform, guest, launch),
    notes=notes,
)
