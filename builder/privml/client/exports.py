"""Values of TDs of a published version in the forms that other verifiers read, with what each does not check.

Only a version that the caller's policy accepts is exported: `accepted` makes the values, and nothing else does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from privml.base.errors import MeasurementError
from privml.base.strictjson import b64
from privml.client.exporting import AGENT, Export, Target, comments, proto_bytes, publishable, refuse
from privml.events import types
from privml.events.registers import MRTD, RTMR1, RTMR2, RTMR3, RTMRS
from privml.statement.launch import MeasuredLaunch
from privml.verify.anchor import Expected
from privml.verify.policy import Policy
from privml.verify.tdx import TdxPolicy

TEE = "tdx"
_TEE_TYPE = "81000000"


@dataclass(frozen=True)
class Values:
    """The registers of one machine size: the accepted values of MRTD, and RTMR0 to RTMR3, 48 bytes each."""

    shape: str
    mrtd: tuple[bytes, ...]
    rtmrs: tuple[bytes, ...]


@dataclass(frozen=True)
class TdxExport(Export[Values]):
    """The values of each size, with the policy for TDs.

    ``single`` are digests (hex) of single events, by the names that Trustee's default policy has for them: of the
    program that the firmware starts, and of its kernel's parameters.
    """

    policy: TdxPolicy
    single: Mapping[str, str]


def accepted(expected: Expected, root_sha256: str, policy: Policy) -> TdxExport:
    """The values of ``expected`` if ``policy`` accepts its version and its image, else ``Refused`` with each reason.

    ``MeasurementError`` if the version has no value for a register of a TD.
    """
    anchor, wrong = publishable(expected, policy)
    predicate = expected.predicate
    launches = [launch for launch in predicate.launches if launch.tee == TEE]
    refuse(expected, [*wrong, *runtime_unused(expected, policy)])
    if not launches:
        raise MeasurementError(f"{predicate.name} {anchor.version} has no prediction for a TD")
    values = tuple(_values(launch, predicate.runtime_of(launch, policy.purpose)) for launch in launches)
    return TdxExport(anchor, root_sha256, values, policy.tdx, _single_events(launches))


def runtime_unused(expected: Expected, policy: Policy) -> list[str]:
    """Why ``policy`` does not accept the use of RTMR3 on a TD; empty if it does."""
    unused = any(launch.runtime_unused for launch in expected.predicate.launches)
    if not unused or policy.allow_unused_runtime:
        return []
    return ["runtime-unused: got RTMR3 that stays zero, expected one extended with the agent's events"]


def _values(launch: MeasuredLaunch, runtime: bytes) -> Values:
    rtmrs = []
    for register in (MRTD, *RTMRS):
        found = launch.accepted(register)
        if not found or (register != MRTD and len(found) > 1):
            raise MeasurementError(
                f"{register.upper()} on {launch.label} has {len(found)} values, expected one",
                hint="other verifiers need a value for each register",
            )
        rtmrs.append(runtime if register == RTMR3 else found[0])
    return Values(launch.label, launch.accepted(MRTD), tuple(rtmrs[1:]))


_SINGLE = {
    "tdvfkernel": (RTMR1, types.EV_EFI_BOOT_SERVICES_APPLICATION, ""),
    "tdvfkernelparams": (RTMR2, types.EV_EVENT_TAG, "LoadOptions"),
}


def _single_events(launches: Sequence[MeasuredLaunch]) -> dict[str, str]:
    """The events of `_SINGLE` (register, type, part of the origin) that are one and the same on all sizes."""
    found = {}
    for name, (register, kind, word) in _SINGLE.items():
        rows = {
            tuple(each.digest.hex() for each in launch.of(register) if each.type == kind and word in each.origin)
            for launch in launches
        }
        if len(rows) == 1 and len(row := rows.pop()) == 1:
            found[name] = row[0]
    return found


# -- Trustee: a message for its reference value provider service -----------------------------------------------------


def _trustee(export: TdxExport, head: Sequence[str]) -> str:
    """JSON has no comments; the service ignores members of a message that it does not know."""
    lists: dict[str, list[str]] = {"mr_td": _each(value for one in export.values for value in one.mrtd)}
    for number in range(len(RTMRS)):
        lists[f"rtmr_{number}"] = _each(one.rtmrs[number] for one in export.values)
    lists["xfam"] = sorted(xfam.hex() for xfam in export.policy.xfams)
    payload = b64(json.dumps({**lists, **export.single}, sort_keys=True).encode())
    message = {"about": list(head), "version": "0.1.0", "type": "sample", "payload": payload}
    return json.dumps(message, indent=1) + "\n"


def _each(values: Iterator[bytes]) -> list[str]:
    """Each value once, in the order of the sizes."""
    return [value.hex() for value in dict.fromkeys(values)]


# -- Trustee: a policy that compares a size whole --------------------------------------------------------------------

_CLAIMS = ("executables", "hardware", "configuration")
_OTHERS = ("file-system", "instance-identity", "runtime-opaque", "storage-opaque", "sourced-data")


def _trustee_policy(export: TdxExport, head: Sequence[str]) -> str:
    policy = export.policy
    shapes = [
        {
            "mr_td": [value.hex() for value in one.mrtd],
            **{f"rtmr_{n}": each.hex() for n, each in enumerate(one.rtmrs)},
        }
        for one in export.values
    ]
    listed_shapes = json.dumps(shapes, indent="\t")
    exact = {
        "td_attributes": policy.td_attributes,
        "mr_config_id": policy.mr_config_id,
        "mr_owner": policy.mr_owner,
        "mr_owner_config": policy.mr_owner_config,
        "mrsigner_seam": policy.mr_signer_seam,
        "seam_attributes": policy.seam_attributes,
    }
    listed = {"xfam": policy.xfams, "mr_seam": policy.mr_seams}
    claims = {name.replace("-", "_"): name for name in (*_CLAIMS, *_OTHERS)}
    statuses = json.dumps(sorted(policy.tcb_statuses))
    lines = [
        *comments(head),
        "package policy",
        "",
        "import rego.v1",
        "",
        "# Values of EAR's trustworthiness vector (AR4SI) when nothing is recognised.",
        "default executables := 33",
        "",
        "default hardware := 97",
        "",
        "default configuration := 36",
        "",
        *(line for name in _OTHERS for line in (f"default {name.replace('-', '_')} := 0", "")),
        "trust_claims := {",
        *(f'\t"{name}": {rule},' for rule, name in claims.items()),
        "}",
        "",
        f"shapes := {listed_shapes}",
        "",
        "# All five registers are those of one machine size.",
        "measured if {",
        "\tsome shape in shapes",
        "\tinput.tdx.quote.body.mr_td in shape.mr_td",
        *(f"\tinput.tdx.quote.body.rtmr_{n} == shape.rtmr_{n}" for n in range(len(RTMRS))),
        "}",
        "",
        "executables := 3 if measured",
        "",
        "hardware := 2 if {",
        "\tmeasured",
        f'\tinput.tdx.quote.header.tee_type == "{_TEE_TYPE}"',
        f'\tinput.tdx.quote.header.vendor_id == "{policy.qe_vendor.hex()}"',
        f"\tinput.tdx.tcb_status in {statuses}",
        '\tinput.tdx.collateral_expiration_status == "0"',
        "}",
        "",
        "configuration := 2 if {",
        "\tmeasured",
        *(f'\tinput.tdx.quote.body.{name} == "{value.hex()}"' for name, value in exact.items()),
        *(
            f"\tinput.tdx.quote.body.{name} in {json.dumps(sorted(value.hex() for value in values))}"
            for name, values in listed.items()
            if values
        ),
        "}",
    ]
    return "\n".join(lines) + "\n"


# -- go-tdx-guest: the configuration of its tool `check` -------------------------------------------------------------


def _go_tdx_guest(export: TdxExport, head: Sequence[str]) -> str:
    """The field that allows or forbids debug TDs has had three names: `td_attributes`, compared exactly, says it."""
    [values], policy = export.values, export.policy
    rows = [
        *(("any_mr_td", value) for value in values.mrtd),
        *(("rtmrs", value) for value in values.rtmrs),
        ("td_attributes", policy.td_attributes),
        ("mr_config_id", policy.mr_config_id),
        ("mr_owner", policy.mr_owner),
        ("mr_owner_config", policy.mr_owner_config),
        *(("xfam", value) for value in _single(policy.xfams)),
        *(("mr_seam", value) for value in _single(policy.mr_seams)),
        *((("minimum_tee_tcb_svn", policy.min_tee_tcb_svn),) if any(policy.min_tee_tcb_svn) else ()),
    ]
    lines = [
        *comments(head),
        "policy {",
        "  header_policy {",
        f"    qe_vendor_id: {proto_bytes(policy.qe_vendor)}",
        "  }",
        "  td_quote_body_policy {",
        *(f"    {name}: {proto_bytes(value)}" for name, value in rows),
        "  }",
        "}",
        "root_of_trust {",
        "  check_crl: true",
        "  get_collateral: true",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _single(values: frozenset[bytes]) -> tuple[bytes, ...]:
    """The value of a field that can have only one; none if the policy accepts several."""
    return tuple(values) if len(values) == 1 else ()


TARGETS: Mapping[str, Target[TdxExport]] = {
    "trustee": Target(
        accepted,
        "Reference values for Trustee (RVPS message of type `sample`)",
        (
            "RTMR0 and RTMR3: Trustee's default policy reads neither. Use the policy of `--format trustee-policy`.",
            "Whether values belong together: each register is compared alone, so those of two sizes or versions mix.",
            "Signatures: whoever may register values decides what is accepted. Registering replaces a name's values.",
            "Revocation: values stay for months. Register empty lists under the same names to take them back.",
            AGENT,
        ),
        "not validated by Trustee itself; a test reads the message as its `sample` extractor does.",
        _trustee,
    ),
    "trustee-policy": Target(
        accepted,
        "Policy for Trustee's attestation service",
        (
            "Floors, dates, advisories and machines of your policy: of a TCB only status and expiry are compared.",
            "MRSERVICETD.",
            AGENT,
        ),
        "tests evaluate it with the Rego interpreter rego-cpp on claims as Trustee makes them, and regorus, the one "
        "of Trustee, gave the same for them; Trustee was not run.",
        _trustee_policy,
    ),
    "go-tdx-guest": Target(
        accepted,
        "Configuration for go-tdx-guest's `check -config`",
        (
            "Other machine sizes: a file holds one.",
            "XFAM and MRSEAM, unless your policy names exactly one of each: a file can hold only one.",
            "MRSIGNERSEAM, the TDX module's attributes, and MRSERVICETD.",
            "Statuses, dates and advisories of your policy: the tool has rules of its own.",
            "Quotes of version 5, which the tool does not read.",
            AGENT,
        ),
        "tests parse it by protobuf's text format with the fields of checkconfig.proto; the tool was not run.",
        _go_tdx_guest,
        one_size=True,
    ),
}
"""Every verifier of TDs that is exported for, by the name of its format."""
