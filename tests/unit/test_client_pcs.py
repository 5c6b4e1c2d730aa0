"""Collateral from a service: routes, the bytes that Intel signed, and everything a service can send instead."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote, unquote

import attestation_samples as samples
import pcs_fake
import pytest
from pcs_fake import FEBRUARY_2026, INTEL, PCK_CRL, QE, ROOT_CRL, TCB, Service

from privml.base.deadline import Cutoff
from privml.base.errors import EvidenceError, HostError, PrivmlError, Refused, UsageError
from privml.base.http import Connections
from privml.base.wayout import WayOut
from privml.client import collateral as cached
from privml.client import pcs
from privml.evidence.tdx import collateral as nine
from privml.evidence.tdx import contents, signature
from privml.evidence.tdx.claims import QuoteFacts
from privml.evidence.tdx.platform import Platform
from privml.sim import pki
from privml.sim import quote as sim

SIMULATED = cached.anchors(samples.ROOT)[1]
SIMULATED_PLATFORM = Platform(pki.FMSPC.hex(), "processor")


@pytest.fixture
def service(no_proxy: None) -> Iterator[Service]:
    with pcs_fake.running(Service()) as running:
        yield running


def fetch(service: Service, **changes: object) -> cached.Entry:
    arguments: dict[str, object] = {"now": FEBRUARY_2026, **changes}
    return cached.fetch(pcs.service(service.url), INTEL, cached.INTEL, **arguments)  # type: ignore[arg-type]


def test_intels_answers_become_the_nine_fields(service: Service) -> None:
    entry = fetch(service)
    assert set(entry.fields) == set(nine.FIELDS)
    assert entry.platform == INTEL
    assert (entry.contents.evaluation_number, entry.fetched, entry.source) == (18, FEBRUARY_2026, service.url)
    tcb = pcs_fake.intel_answers()[TCB][2].decode()
    assert entry.fields["tcb_info"] in tcb
    assert json.loads(entry.fields["tcb_info"]) == json.loads(tcb)["tcbInfo"]
    assert [part.name for part in entry.contents.parts[:4]] == [
        "TCB info",
        "QE identity",
        "PCK revocation list",
        "root revocation list",
    ]
    assert contents.date(entry.contents.expires_first.expires) == "2026-02-11 15:46 UTC"  # TCB info's nextUpdate


def test_the_routes_are_those_of_the_api(service: Service) -> None:
    fetch(service)
    assert service.asked == [
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        "/tdx/certification/v4/tcb?fmspc=90C06F000000&update=early",
        "/tdx/certification/v4/qe/identity?update=early",
        "/sgx/certification/v4/rootcacrl",
    ]
    service.asked.clear()
    fetch(service, update="standard")
    assert [path.rpartition("update=")[2] for path in service.asked[1:3]] == ["standard", "standard"]


def test_intels_own_service_sends_the_roots_list_from_another_host(service: Service) -> None:
    assert pcs.service().root_crl == "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    assert pcs.service("https://api.trustedservices.intel.com/sgx/certification/v4/") == pcs.service()
    where = pcs.Service(service.url, f"{service.url}/IntelSGXRootCA.der")
    fields = pcs.fetch(where, INTEL, root=cached.INTEL.root)
    assert fields == fetch(service).fields


def test_a_simulated_quote_is_judged_with_what_was_fetched(no_proxy: None) -> None:
    """End to end, with the spellings of an older PCCS: hex lists, upper case, other header, spaces in the JSON."""
    with pcs_fake.running(Service(pcs_fake.answers_of(sim.collateral()))) as service:
        entry = cached.fetch(pcs.service(service.url), SIMULATED_PLATFORM, SIMULATED, now=samples.NOW)
    assert entry.fields == sim.collateral()
    quote = samples.document().evidence
    found = signature.check(quote, entry.fields, now=samples.NOW, simulated_root=samples.ROOT)
    assert isinstance(found, QuoteFacts)
    assert found.tcb_status == "UpToDate"


def test_the_platform_of_a_quote_is_read_from_its_certificates() -> None:
    quote = (samples.VECTORS / "tdx_quote.bin").read_bytes()
    assert cached.locate(quote, cached.anchors()) == (Platform("b0c06f000000", "platform"), cached.INTEL)
    simulated = samples.document().evidence
    assert cached.locate(simulated, cached.anchors(samples.ROOT)) == (SIMULATED_PLATFORM, SIMULATED)
    with pytest.raises(Refused, match="pck-chain"):
        cached.locate(simulated, cached.anchors())


# --- a service that fails -------------------------------------------------------------------------------------------


TCB_TEXT = pcs_fake.intel_answers()[TCB][2].decode().strip()
MORE = f'{TCB_TEXT[:-1]},"more":1}}'.encode()
CHAIN = pcs_fake.intel_answers()[TCB][1]["TCB-Info-Issuer-Chain"]
END = "-----END CERTIFICATE-----"
HALF = quote(unquote(CHAIN).partition(END)[0] + END)
PCK_CHAIN = pcs_fake.intel_answers()[PCK_CRL][1]["SGX-PCK-CRL-Issuer-Chain"]
CUT = TCB_TEXT[: TCB_TEXT.rindex('"') - 2].encode()
OTHER_TCB = (pcs_fake.PCS / "tcb_info_00a06d080000.json").read_bytes()
TOO_MUCH = nine.MAX_FIELD + 1
PROCESSOR_CRL = (pcs_fake.PCS / "pck_crl_processor.crl").read_bytes()
PROCESSOR_CHAIN = (pcs_fake.PCS / "pck_crl_processor_chain.txt").read_text().strip()

Bend = Callable[[Service], None]
BENT: dict[str, tuple[Bend, type[PrivmlError], str]] = {
    "404": (lambda s: s.change(TCB, status=404), HostError, "status 404, expected 200"),
    "500": (lambda s: s.change(QE, status=500), HostError, "qe/identity.*status 500"),
    "redirect": (lambda s: s.change(QE, status=302, Location="/elsewhere"), HostError, "more than 0 redirects"),
    "oversized": (lambda s: s.change(ROOT_CRL, body=b"0" * TOO_MUCH), EvidenceError, "larger than 1048576 bytes"),
    "no chain": (lambda s: s.change(TCB, X_Other="1"), EvidenceError, "no header TCB-Info-Issuer-Chain"),
    "empty chain": (lambda s: s.change(TCB, TCB_Info_Issuer_Chain=""), EvidenceError, "percent-encoded PEM"),
    "text around": (lambda s: s.change(TCB, TCB_Info_Issuer_Chain=f"x{CHAIN}"), EvidenceError, "nothing else"),
    "wrong chain": (lambda s: s.change(TCB, TCB_Info_Issuer_Chain=PCK_CHAIN), Refused, "collateral-role: tcb_info"),
    "half a chain": (
        lambda s: s.change(TCB, TCB_Info_Issuer_Chain=HALF),
        Refused,
        "collateral-role: tcb_info_issuer_chain: 1 certificates",
    ),
    "other CA": (
        lambda s: s.change(PCK_CRL, body=PROCESSOR_CRL, SGX_PCK_CRL_Issuer_Chain=PROCESSOR_CHAIN),
        Refused,
        "collateral-platform: got FMSPC 90C06F000000, processor CA, expected FMSPC 90C06F000000, platform CA",
    ),
    "list of another CA": (lambda s: s.change(PCK_CRL, body=PROCESSOR_CRL), Refused, "collateral-role: pck_crl"),
    "other FMSPC": (lambda s: s.change(TCB, body=OTHER_TCB), Refused, "collateral-platform: got FMSPC 00A06D080000"),
    "not a list": (lambda s: s.change(ROOT_CRL, body=b"<html>"), EvidenceError, "root_ca_crl: neither DER nor hex"),
    "not JSON": (lambda s: s.change(TCB, body=b"<html>"), EvidenceError, "tcbInfo: Expecting value"),
    "a third member": (
        lambda s: s.change(TCB, body=MORE), EvidenceError, "`tcbInfo` and `signature`",
    ),
    "twice the member": (
        lambda s: s.change(TCB, body=('{"tcbInfo":{},' + TCB_TEXT[1:]).encode()), EvidenceError, "given twice",
    ),
    "altered": (
        lambda s: s.change(TCB, body=TCB_TEXT.replace('DataNumber":18', 'DataNumber":19').encode()),
        Refused,
        "collateral-signature: tcb_info is not signed",
    ),
    "spaced out": (
        lambda s: s.change(TCB, body=json.dumps(json.loads(TCB_TEXT)).encode()), Refused, "collateral-signature",
    ),
    "short signature": (
        lambda s: s.change(TCB, body=CUT + b'"}'), Refused, "63 bytes, expected 64",
    ),
    "signature in base64": (
        lambda s: s.change(TCB, body=CUT + b'=="}'), EvidenceError, "not in hex",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BENT)
def test_what_a_service_sends_instead_is_named(service: Service, name: str) -> None:
    bend, error, message = BENT[name]
    bend(service)
    with pytest.raises(error, match=message) as found:
        fetch(service)
    assert found.value.exit_code == error.exit_code
    assert f"127.0.0.1:{service.port}" in found.value.message


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (FEBRUARY_2026 + 60 * 86400, "collateral-expired: TCB info: valid to 2026-02-11"),
        (FEBRUARY_2026 - 60 * 86400, "collateral-future: TCB info: issued 2026-01-12"),
    ],
)
def test_collateral_of_another_time_is_refused(service: Service, now: int, message: str) -> None:
    with pytest.raises(Refused, match=message):
        fetch(service, now=now)


STRETCHING = (
    pcs_fake.slow_head,
    pcs_fake.slow_body,
    pcs_fake.slow_chunks,
    pcs_fake.slow_trailers,
    pcs_fake.endless_continue,
)


@pytest.mark.parametrize("behave", STRETCHING)
def test_no_server_can_stretch_a_fetch(no_proxy: None, behave: Callable[..., None]) -> None:
    start = time.monotonic()
    with pcs_fake.stretching(behave) as url, pytest.raises(HostError, match=r"no complete response within 0\.3 s"):
        pcs.fetch(pcs.service(url), INTEL, root=cached.INTEL.root, timeout=0.3)
    assert time.monotonic() - start < 20


def test_nobody_answers(no_proxy: None) -> None:
    with pcs_fake.running(Service()) as gone:
        pass
    with pytest.raises(HostError, match="Connection refused") as found:
        fetch(gone)
    assert "--from DIR" in (found.value.hint or "")


def test_a_deadline_that_has_passed_lets_nobody_connect() -> None:
    with Cutoff(0.001) as deadline:
        time.sleep(0.01)
        assert deadline.passed
        with (
            pytest.raises(TimeoutError, match="not complete within"),
            Connections(WayOut(), deadline=deadline) as connections,
        ):
            connections.get("http://127.0.0.1:9/")


@pytest.mark.parametrize(
    "address", ["ftp://host", "host:8081", "https://", "https://host/?a=b", "https://host#x", "http://[::1"]
)
def test_another_address_is_no_service(address: str) -> None:
    with pytest.raises(UsageError, match="expected https://HOST"):
        pcs.service(address)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError, match="holds a user or password") as found:
        pcs.service("https://user:secret@pccs.example:8081")
    assert "secret" not in str(found.value.message) + str(found.value.hint)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"m":{"a":1},"signature":"AB"}', '{"a":1}'),
        (b' { "signature" : "ab" , "m" : {"a": "}\\"{", "b":[ ]} } \n', '{"a": "}\\"{", "b":[ ]}'),
        ('{"m":{"é":"ü"},"signature":"ab"}'.encode(), '{"é":"ü"}'),
    ],
)
def test_a_member_is_cut_out_as_sent(body: bytes, expected: str) -> None:
    assert pcs.signed_member(body, "m") == (expected, "ab")


def test_a_chain_in_other_spellings_is_the_same() -> None:
    root = cached.INTEL.root
    expected = pcs.issuer_chain(CHAIN, root)
    pem = unquote(CHAIN)
    first, _, second = pem.partition("-----END CERTIFICATE-----")
    swapped = f"{second.strip()}\n{first}-----END CERTIFICATE-----"
    for other in (pem.replace("\n", "\r\n"), pem.rstrip(), swapped):
        assert pcs.issuer_chain(quote(other), root) == expected
