"""An SNP guest's attestor: reports by configfs-tsm, the host's certificates, no register; and the verdict on it."""

from __future__ import annotations

import dataclasses
import errno
import uuid
from pathlib import Path
from typing import Any

import attestation_samples as samples
import pytest
import snp_samples as snp
from agent_guest import a_config, driven

from privml.agent.attestorstate import Attestor
from privml.agent.place import Place
from privml.agent.tee import KNOWN, NoTee, detect
from privml.agent.wire import RefusedRequest
from privml.base.errors import EvidenceError
from privml.base.strictjson import canonical
from privml.client import attested
from privml.events import configuration
from privml.events.agent import replay
from privml.events.configuration import Config
from privml.events.registers import ZERO
from privml.events.stages import SERVE, sequence
from privml.evidence import merkle, quotefault
from privml.evidence.quotefault import QuoteError
from privml.evidence.sections import TLS_KEY, Key, Keys
from privml.evidence.snp.kernel import SnpTee, chain_in
from privml.evidence.tdx.kernel import TdxTee
from privml.evidence.tsm import KernelFiles
from privml.sim import snpreport as sim
from privml.verify.verdict import Outcome

REPORTS = Path("/configfs/tsm/report")
VCEK, VLEK, ASK, ARK = (
    "63da758d-e664-4564-adc5-f4b93be8accd", "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782", "c0b406a4-a803-4952-9743-3fb6014cd0ae",
)  # fmt: skip
KEYS = Keys((Key(*TLS_KEY, samples.SPKI),)).encode()


def table(*rows: tuple[str, bytes]) -> bytes:
    """A table of certificates as a host gives it."""
    head, body, at = b"", b"", 24 * (len(rows) + 1)
    for kind, data in rows:
        head += uuid.UUID(kind).bytes_le + (at + len(body)).to_bytes(4, "little") + len(data).to_bytes(4, "little")
        body += data
    return head + bytes(24) + body


WHOLE = table(*zip((VCEK, ASK, ARK), sim.certificates(), strict=True))


class Kernel(KernelFiles):
    """A model of configfs-tsm with the provider sev_guest, whose reports are simulated."""

    def __init__(self, extra: bytes | None = WHOLE) -> None:
        self.entries: dict[Path, dict[str, Any]] = {}
        self.provider = b"sev_guest\n"
        self.extra = extra
        self.error = 0

    def mkdir(self, path: Path) -> None:
        self.entries[path] = {"generation": 0}

    def rmdir(self, path: Path) -> None:
        del self.entries[path]

    def read(self, path: Path, limit: int) -> bytes:
        entry = self.entries[path.parent]
        if path.name == "provider":
            return self.provider
        if path.name == "generation":
            return b"%d\n" % entry["generation"]
        if path.name == "auxblob":
            if self.extra is None:
                raise OSError(errno.ENODATA, "No data available", str(path))
            return self.extra
        assert path.name == "outblob"
        if self.error:
            raise OSError(self.error, "", str(path))
        return sim.make_report(snp.DIGEST, entry["inblob"])

    def write(self, path: Path, data: bytes) -> None:
        entry = self.entries[path.parent]
        assert path.name == "inblob"
        entry["inblob"] = data
        entry["generation"] += 1


@pytest.fixture
def config() -> Config:
    return configuration.decode(configuration.encode(a_config(variant="production")))


def tee_of(kernel: Kernel) -> SnpTee:
    return SnpTee(reports=REPORTS, files=kernel, sleep=lambda _: None)


def judged(config: Config, attestor: Attestor, **changes: Any) -> Any:
    """The judgement of a document over the caller's nonce that ``attestor`` quotes for."""
    tree = merkle.build([samples.NONCE])
    parts = attestor.quote(tree.root, SERVE)
    body = {
        "format": "privml-attestation/v2", "nonce": samples.NONCE.hex(), "path": [], "certificates": [], **parts,
    }  # fmt: skip
    events = tuple(sequence(config))
    predicate = dataclasses.replace(
        snp.PREDICATE, variant=config.variant, agent_events=events, purposes={SERVE: len(events)}
    )
    given: dict[str, Any] = {
        "now": samples.NOW, "nonce": samples.NONCE, "tls_spki_sha256": samples.SPKI,
        "policy": dataclasses.replace(
            snp.SIMULATED, snp=dataclasses.replace(snp.WANTED, require_revocation=False)
        ),
        **changes,
    }  # fmt: skip
    return attested.judge(canonical(body), dataclasses.replace(snp.EXPECTED, predicate=predicate), **given)


def test_a_document_of_an_snp_guest_is_accepted_as_a_simulation(config: Config) -> None:
    attestor = driven(Attestor(config, tee_of(Kernel())), config, KEYS)
    found = judged(config, attestor)
    assert found.verdict.refusals == ()
    assert found.verdict.outcome is Outcome.ACCEPTED_SIMULATED
    assert found.keys is not None
    refused = judged(config, attestor, policy=snp.POLICY).verdict
    assert {each.code for each in refused.refusals} == {"simulated"}


def test_without_the_host_s_certificates_the_caller_has_them(config: Config) -> None:
    attestor = driven(Attestor(config, tee_of(Kernel(extra=None))), config, KEYS)
    assert [each.code for each in judged(config, attestor).verdict.refusals] == ["collateral-missing"]
    given = {"certificates": host_s_certificates(), **sim.collateral()}
    accepted = judged(config, attestor, collateral=given, policy=snp.SIMULATED).verdict
    assert accepted.outcome is Outcome.ACCEPTED_SIMULATED


def host_s_certificates() -> str:
    tee = tee_of(Kernel())
    tee.quote(bytes(64))
    found = tee.collateral()
    assert found is not None
    return found["certificates"]


def test_a_log_that_the_report_does_not_cover_is_refused(config: Config) -> None:
    """Only the report data binds the stages: an attestor that lost its events says so itself, or is refused."""
    attestor = driven(Attestor(config, tee_of(Kernel())), config, KEYS)
    attestor.fail("the engine exited")
    with pytest.raises(RefusedRequest, match="the engine exited"):
        attestor.quote(bytes(32), SERVE)


def test_an_attestor_that_is_started_again_parks(config: Config) -> None:
    places: list[Place] = []
    driven(Attestor(config, tee_of(Kernel()), keep=places.append), config, KEYS)
    again = Attestor(config, tee_of(Kernel()), place=places[-1])
    assert again.parked == "the attestor was started again: no register of snp shows what was extended before"
    before = Attestor(config, tee_of(Kernel()), place=places[0])  # nothing was extended yet
    assert before.parked == ""


def test_the_value_of_no_register_is_tracked(config: Config) -> None:
    tee = tee_of(Kernel())
    assert tee.rtmr3() == ZERO
    driven(Attestor(config, tee), config, KEYS)
    assert tee.rtmr3() == replay(sequence(config))
    assert tee.boot_log() == b""
    assert tee.collateral() is None  # no report yet


def test_the_provider_tells_which_tee_it_is() -> None:
    kernel = Kernel()
    td, guest = TdxTee(reports=REPORTS, files=kernel), tee_of(kernel)
    assert detect([lambda: td, lambda: guest]) is guest
    kernel.provider = b"other\n"
    none = detect([lambda: td, lambda: guest])
    assert isinstance(none, NoTee) and none.why == quotefault.OTHER_PROVIDER
    assert {tee.__name__ for tee in KNOWN if isinstance(tee, type)} == {"TdxTee", "SnpTee"}


def test_a_report_that_the_host_refuses_is_a_named_fault() -> None:
    kernel = Kernel()
    kernel.error = errno.EIO
    with pytest.raises(QuoteError) as failed:
        tee_of(kernel).quote(bytes(64))
    assert failed.value.fault == quotefault.REFUSED
    assert kernel.entries == {}


def test_the_table_gives_the_chain_as_far_as_it_goes() -> None:
    leaf, issuer, root = sim.certificates()
    assert chain_in(WHOLE) == (leaf, issuer, root)
    assert chain_in(table((ARK, root), (VLEK, leaf), (ASK, issuer))) == (leaf, issuer, root)
    assert chain_in(table((VCEK, leaf), (ARK, root))) == (leaf,)
    assert chain_in(table((ASK, issuer))) == ()
    assert chain_in(table((VCEK, leaf), (VLEK, leaf))) == ()  # which key signed is not the table's to say
    assert chain_in(b"") == ()


@pytest.mark.parametrize(
    "data",
    [b"\1", WHOLE[:30], b"\1" * 24 * 32 + bytes(24), table((VCEK, bytes(16 * 1024 + 1)))],
)
def test_a_malformed_table_is_no_chain(data: bytes) -> None:
    tee = tee_of(Kernel(extra=data))
    tee.quote(bytes(64))
    assert tee.collateral() is None


def test_a_row_outside_the_table_is_malformed() -> None:
    with pytest.raises(EvidenceError, match="row 0 is outside"):
        chain_in(uuid.UUID(VCEK).bytes_le + b"\xff\0\0\0\1\0\0\0" + bytes(24))
    with pytest.raises(EvidenceError, match="no end"):
        chain_in(uuid.UUID(VCEK).bytes_le + bytes(8))
