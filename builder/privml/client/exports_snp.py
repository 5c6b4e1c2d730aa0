"""Values of SEV-SNP guests of a published version in the form that go-sev-guest reads.

Source: google/go-sev-guest proto/check.proto, and what validate/validate.go does with its fields. Trustee has no form
here: the names and encodings of its claims about SNP differ between its versions, and could not be confirmed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.client.exporting import AGENT, Export, Target, comments, proto_bytes, publishable, refuse
from privml.events.registers import LAUNCH
from privml.evidence.snp.report import POLICY_BITS
from privml.evidence.snp.tcb import PRODUCTS
from privml.statement.launch import MeasuredLaunch
from privml.verify import snp
from privml.verify.anchor import Expected
from privml.verify.policy import Policy
from privml.verify.snp import NO_AGENT, SnpPolicy
from privml.verify.snptcb import TcbFloor

TEE = "snp"
_POLICY_ONE = 1 << 17


@dataclass(frozen=True)
class Values:
    """The launch digest (48 bytes) of one machine size."""

    shape: str
    digest: bytes


@dataclass(frozen=True)
class SnpExport(Export[Values]):
    """The values of each size, with the policy for SNP guests and its lowest TCB version, which is of one product."""

    policy: SnpPolicy
    floor: TcbFloor


def accepted(expected: Expected, root_sha256: str, policy: Policy) -> SnpExport:
    """The values of ``expected`` if ``policy`` accepts its version, image and launches, else ``Refused``.

    ``MeasurementError`` if the version has no value for a launch digest.
    """
    anchor, wrong = publishable(expected, policy)
    launches = [launch for launch in expected.predicate.launches if launch.tee == TEE]
    wrong += dict.fromkeys(
        f"{each.code}: got {each.got}, expected {each.expected}"
        for launch in launches
        for each in snp.launch_refusals(launch, policy.snp)
    )
    floors = sorted(policy.snp.min_tcb, key=lambda floor: floor.product)
    if len(floors) != 1:
        found = ", ".join(floor.product for floor in floors) or "none"
        wrong.append(f"reported-tcb: got {found}, expected a lowest TCB version of one product (snp.min_tcb)")
    wrong += [
        f"product: got {floor.product}, expected one that the policy accepts"
        for floor in floors
        if floor.product not in policy.snp.products
    ]
    if any(policy.snp.id_key) and any(policy.snp.author_key):
        # validateKeys of go-sev-guest does not look at the ID key once it trusts the author key.
        wrong.append("author-key: got snp.id_key and snp.author_key, expected one: the tool would take either")
    refuse(expected, wrong)
    if not launches:
        raise MeasurementError(f"{expected.predicate.name} {anchor.version} has no prediction for an SEV-SNP guest")
    return SnpExport(anchor, root_sha256, tuple(map(_values, launches)), policy.snp, floors[0])


def _values(launch: MeasuredLaunch) -> Values:
    found = launch.accepted(LAUNCH)
    if len(found) != 1:
        raise MeasurementError(f"LAUNCH on {launch.label} has {len(found)} values, expected one")
    return Values(launch.label, found[0])


def _go_sev_guest(export: SnpExport, head: Sequence[str]) -> str:
    [values], policy = export.values, export.policy
    lines = [
        *comments(head),
        "root_of_trust {",
        f'  product_line: "{export.floor.product}"',
        "  check_crl: true",
        "}",
        "policy {",
        *(f"  {name}: {value}" for name, value in _fields(values, policy, export.floor)),
        f"  vmpl {{ value: {policy.vmpl} }}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _fields(values: Values, policy: SnpPolicy, floor: TcbFloor) -> Iterator[tuple[str, str]]:
    yield "policy", str(_guest_policy(policy))
    yield "minimum_guest_svn", str(policy.guest_svn)
    for name, value in (
        ("measurement", values.digest),
        ("host_data", policy.host_data),
        ("family_id", policy.family_id),
        ("image_id", policy.image_id),
        ("report_id_ma", NO_AGENT),
        *(("chip_id", chip) for chip in policy.chips if len(policy.chips) == 1),
    ):
        yield name, proto_bytes(value)
    suffix = "_turin" if floor.product == "Turin" else ""
    for name in ("minimum_tcb", "minimum_launch_tcb"):
        yield name + suffix, str(_tcb(floor))
    major, minor, build = policy.min_firmware.split(".")
    yield "minimum_version", f'"{major}.{minor}"'
    yield "minimum_build", build
    if any(policy.id_key):
        yield "require_id_block", "true"
        yield "trusted_id_key_hashes", proto_bytes(policy.id_key)
    if any(policy.author_key):
        yield "require_author_key", "true"
        yield "trusted_author_key_hashes", proto_bytes(policy.author_key)


def _guest_policy(policy: SnpPolicy) -> int:
    """The guest's policy of which no more may be allowed, and no less demanded; the ABI version is the lowest."""
    major, minor = map(int, policy.min_abi.split("."))
    bits = sum(1 << POLICY_BITS[word] for word in policy.policy_may | policy.policy_must)
    return _POLICY_ONE | bits | major << 8 | minor


def _tcb(floor: TcbFloor) -> int:
    """TCB_VERSION as a number."""
    return sum(floor.parts[part] << 8 * place for part, place in PRODUCTS[floor.product].parts.items())


TARGETS: Mapping[str, Target[SnpExport]] = {
    "go-sev-guest": Target(
        accepted,
        "Configuration for go-sev-guest's `check -config`",
        (
            "Other machine sizes and other products: a file holds one of each.",
            "What PLATFORM_INFO must say, such as the check of memory for aliases, and mitigation vectors.",
            "That a guest has no ID key and no author key, beyond the one of them that your policy names.",
            "The kind of key, fleets, the report's version, and chips, unless your policy names exactly one.",
            "The firmware's version and build as one: the tool wants at least this build of any later version, too.",
            "An exact GUEST_SVN: the tool takes higher ones.",
            "What the guest's policy must demand, beyond a single socket, in versions that do not know the bit.",
            "The host's ACPI tables, which nothing measures and your policy accepts.",
            AGENT,
        ),
        "tests parse it by protobuf's text format with the fields of check.proto; the tool was not run.",
        _go_sev_guest,
        one_size=True,
    ),
}
"""Every verifier of SNP guests that is exported for, by the name of its format."""
