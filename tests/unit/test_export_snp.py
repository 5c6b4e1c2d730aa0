"""`export` of launches under SEV-SNP for go-sev-guest, read back by protobuf's own parser, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import protobuf_tables
import pytest
import snp_samples as snp
from google.protobuf import text_format
from protobuf_tables import BOOL, BYTES, STRING, UINT32, UINT64
from published_fake import NAME, NOW
from published_whole import build, whole
from test_cli_main import Outcome, as_found, place  # noqa: F401 - fixtures
from test_client_trust import put
from test_export_command import ROOT, anchor

from privml.base.errors import MeasurementError, Refused
from privml.client import exports_snp
from privml.client.exports_snp import TARGETS, SnpExport
from privml.statement.launch import HASHED, OPEN, FilledBy
from privml.statement.predicate import Predicate
from privml.verify.anchor import Expected
from privml.verify.policy import Policy
from privml.verify.snp import SnpPolicy
from privml.verify.snptcb import TcbFloor

ONE = "2 vcpus, CPU 0xa10f10"
FORM = "go-sev-guest"
# The fields of its proto/check.proto, without those of products and of certificates.
MESSAGES: dict[str, list[tuple[str, int, int | str, bool]]] = {
    "Config": [("root_of_trust", 1, "RootOfTrust", False), ("policy", 2, "Policy", False)],
    "Policy": [
        ("minimum_guest_svn", 1, UINT32, False), ("policy", 2, UINT64, False), ("family_id", 3, BYTES, False),
        ("image_id", 4, BYTES, False), ("vmpl", 5, "UInt32Value", False), ("minimum_tcb", 6, UINT64, False),
        ("minimum_launch_tcb", 7, UINT64, False), ("platform_info", 8, "UInt64Value", False),
        ("require_author_key", 9, BOOL, False), ("report_data", 10, BYTES, False), ("measurement", 11, BYTES, False),
        ("host_data", 12, BYTES, False), ("report_id", 13, BYTES, False), ("report_id_ma", 14, BYTES, False),
        ("chip_id", 15, BYTES, False), ("minimum_build", 16, UINT32, False), ("minimum_version", 17, STRING, False),
        ("permit_provisional_firmware", 18, BOOL, False), ("require_id_block", 19, BOOL, False),
        ("trusted_author_key_hashes", 21, BYTES, True), ("trusted_id_key_hashes", 23, BYTES, True),
        ("minimum_tcb_turin", 25, UINT64, False), ("minimum_launch_tcb_turin", 26, UINT64, False),
    ],
    "RootOfTrust": [
        ("cabundle_paths", 2, STRING, True), ("check_crl", 4, BOOL, False), ("disallow_network", 5, BOOL, False),
        ("product_line", 6, STRING, False),
    ],
    "UInt32Value": [("value", 1, UINT32, False)],
    "UInt64Value": [("value", 1, UINT64, False)],
}  # fmt: skip


def config() -> Any:
    """An empty message of the tool's configuration."""
    return protobuf_tables.empty("check", "Config", MESSAGES)


def exported(predicate: Predicate = snp.PREDICATE, policy: Policy = snp.POLICY, **changes: Any) -> SnpExport:
    return exports_snp.accepted(Expected(predicate, anchor(**changes)), ROOT, policy)


def parsed(policy: SnpPolicy = snp.WANTED, predicate: Predicate = snp.PREDICATE) -> Any:
    export = exported(predicate, Policy(snp=policy)).only(ONE)
    return text_format.Parse(TARGETS[FORM].text(export), config())


def test_the_configuration_parses_and_has_every_value() -> None:
    made = parsed()
    policy = made.policy
    assert policy.measurement == snp.DIGEST
    assert (policy.policy, policy.vmpl.value, policy.minimum_guest_svn) == (0x30000, 0, 0)
    assert policy.HasField("vmpl"), "0 is compared, too"
    assert not policy.HasField("platform_info")
    assert policy.minimum_tcb == policy.minimum_launch_tcb == int.from_bytes(snp.sim.TCB, "little")
    assert (policy.host_data, policy.family_id, policy.image_id) == (bytes(32), bytes(16), bytes(16))
    assert policy.report_id_ma == b"\xff" * 32
    assert (policy.minimum_version, policy.minimum_build, policy.permit_provisional_firmware) == ("0.0", 0, False)
    assert (policy.require_id_block, policy.require_author_key, policy.chip_id) == (False, False, b"")
    assert (made.root_of_trust.product_line, made.root_of_trust.check_crl) == ("Genoa", True)
    assert not made.root_of_trust.disallow_network


def test_a_callers_policy_is_in_it() -> None:
    mine = dataclasses.replace(
        snp.WANTED,
        chips=frozenset({b"\1" * 64}),
        min_firmware="1.55.39",
        min_abi="1.51",
        policy_may=frozenset(),
        policy_must=frozenset({"single socket"}),
        vmpl=2,
        host_data=b"\2" * 32,
        author_key=b"\4" * 48,
        guest_svn=7,
    )
    policy = parsed(mine).policy
    assert policy.policy == 1 << 17 | 1 << 20 | 1 << 8 | 51
    assert (policy.minimum_version, policy.minimum_build, policy.minimum_guest_svn) == ("1.55", 39, 7)
    assert (policy.vmpl.value, policy.host_data, policy.chip_id) == (2, b"\2" * 32, b"\1" * 64)
    assert (policy.require_author_key, list(policy.trusted_author_key_hashes)) == (True, [b"\4" * 48])
    assert (policy.require_id_block, list(policy.trusted_id_key_hashes)) == (False, [])
    policy = parsed(dataclasses.replace(mine, author_key=bytes(48), id_key=b"\3" * 48)).policy
    assert (policy.require_id_block, list(policy.trusted_id_key_hashes)) == (True, [b"\3" * 48])
    assert not policy.require_author_key


def test_of_several_chips_none_is_named() -> None:
    """The tool knows one; the file's head says that others are accepted."""
    two = frozenset({b"\1" * 64, b"\2" * 64})
    assert parsed(dataclasses.replace(snp.WANTED, chips=two)).policy.chip_id == b""


def test_the_parts_of_turin_s_versions_lie_elsewhere() -> None:
    floor = TcbFloor("Turin", fmc=1, bl=2, tee=3, snp=4, ucode=5)
    made = parsed(dataclasses.replace(snp.WANTED, min_tcb=frozenset({floor})))
    assert made.root_of_trust.product_line == "Turin"
    assert made.policy.minimum_tcb_turin == made.policy.minimum_launch_tcb_turin == 0x0500000004030201
    assert (made.policy.minimum_tcb, made.policy.minimum_launch_tcb) == (0, 0)


REFUSED: dict[str, Callable[[], object]] = {
    "acpi-unmeasured": lambda: exported(
        policy=Policy(snp=dataclasses.replace(snp.WANTED, allow_unmeasured_acpi=False))
    ),
    "reported-tcb": lambda: exported(policy=Policy(snp=dataclasses.replace(snp.WANTED, min_tcb=frozenset()))),
    "snp-boot-unbound": lambda: exported(launches(snp.launch(boot=HASHED))),
    "product": lambda: exported(policy=Policy(snp=dataclasses.replace(snp.WANTED, products=frozenset({"Milan"})))),
    "author-key": lambda: exported(
        policy=Policy(snp=dataclasses.replace(snp.WANTED, id_key=b"\3" * 48, author_key=b"\4" * 48))
    ),
    "variant": lambda: exported(dataclasses.replace(snp.PREDICATE, variant="development")),
    "index-expired": lambda: exported(expiries={"timestamp": NOW}),
}


def launches(*some: Any) -> Predicate:
    return dataclasses.replace(snp.PREDICATE, launches=some)


@pytest.mark.parametrize("code", REFUSED)
def test_what_verify_refuses_is_not_exported(code: str) -> None:
    with pytest.raises(Refused, match=f"{NAME} 1.1 is not exported: {code}: got "):
        REFUSED[code]()


def test_a_digest_without_the_kernel_is_never_exported() -> None:
    """Whatever the policy says."""
    loose = Policy(snp=dataclasses.replace(snp.WANTED, boots=frozenset({"bound", "hashed"})))
    assert exported(launches(snp.launch(boot=HASHED)), loose).values
    with pytest.raises(Refused, match="snp-boot-unbound: got open"):
        exported(launches(snp.launch(boot=OPEN)), loose)


def test_two_products_are_not_one_file() -> None:
    two = frozenset({snp.FLOOR, TcbFloor("Turin")})
    with pytest.raises(Refused, match="got Genoa, Turin, expected a lowest TCB version of one product"):
        exported(policy=Policy(snp=dataclasses.replace(snp.WANTED, min_tcb=two)))


def test_a_launch_without_a_value_is_no_export() -> None:
    with pytest.raises(MeasurementError, match="has no prediction for an SEV-SNP guest"):
        exported(launches(*snp.PREDICATE.launches[:1]))
    open_ = dataclasses.replace(snp.launch(), registers={"launch": FilledBy("somebody")}, events=())
    with pytest.raises(MeasurementError, match=r"LAUNCH on .* has 0 values"):
        exported(launches(open_))


def test_the_head_says_what_is_not_checked() -> None:
    lines = TARGETS[FORM].text(exported().only(ONE)).splitlines()
    assert lines[0].startswith(f"# {TARGETS[FORM].title}: {NAME} version 1.1 (serial 2)")
    for said in TARGETS[FORM].unchecked:
        assert f"# - {said}" in lines


def test_the_verb_writes_it(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    monkeypatch.setattr("privml.cli.export.time.time", lambda: NOW)
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    (place / "state").mkdir()
    fake = whole(NAME)
    fake.publish("1.1", build(NAME, 0, snp.PREDICATE))
    put(fake, place / "measurements")
    floor = '{product = "Genoa", fmc = 0, bl = 10, tee = 0, snp = 23, ucode = 84}'
    (place / "p.toml").write_text(
        f'format = "privml-policy/v1"\n[snp]\nallow_unmeasured_acpi = true\nmin_tcb = [{floor}]\n'
    )
    words = ("export", f"{NAME}@1.1", "--trust", "measurements/root.json")
    assert Outcome(capsys, *words, "--format", FORM).code == 8
    asked = Outcome(capsys, *words, "--format", FORM, "--policy", "p.toml")
    assert (asked.code, "--shape is missing: a file holds one machine size" in asked.stderr) == (2, True)
    done = Outcome(capsys, *words, "--format", FORM, "--policy", "p.toml", "--shape", ONE)
    assert text_format.Parse(done.stdout, config()).policy.measurement == snp.DIGEST
    td = Outcome(capsys, *words, "--format", "trustee-policy")
    assert td.code == 0
    assert snp.DIGEST.hex() not in td.stdout
