"""A certificate signs only what its role allows, although the QVL would take any below the root."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import attestation_samples as samples
import dcap_qvl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from privml.base.strictjson import loads
from privml.evidence.claims import SignatureFailure
from privml.evidence.tdx import chain, signature
from privml.evidence.tdx import collateral as collaterals
from privml.evidence.tdx import quote as quotes
from privml.evidence.tdx.chain import PCK, PCK_CA, ROOT, TCB_SIGNING, Place, Role
from privml.evidence.tdx.claims import QuoteFacts
from privml.sim import pki, quote
from privml.verify.policy import Policy

PLACES = (chain.QUOTE, chain.PCK_CRL, chain.TCB_INFO, chain.QE_IDENTITY)
KEYS = {
    ROOT: quote.private_key("root"),
    PCK_CA: quote.private_key("processor"),
    PCK: quote.private_key("pck"),
    TCB_SIGNING: quote.private_key("tcb signing"),
}
STRANGER = quote.private_key("somebody else")
MADE = samples.document()
QUOTE = quotes.parse(MADE.evidence)
COLLATERAL = quote.collateral()
REAL_QUOTE = (samples.VECTORS / "tdx_quote.bin").read_bytes()
REAL_COLLATERAL = collaterals.decode(loads((samples.VECTORS / "tdx_quote_collateral.json").read_bytes()))
REAL_PEM = {
    chain.QUOTE: quotes.parse(REAL_QUOTE).signature.certificates,
    **{place: REAL_COLLATERAL[place.name].encode() for place in PLACES[1:]},
}
SIM_PEM = {
    chain.QUOTE: QUOTE.signature.certificates,
    **{place: COLLATERAL[place.name].encode() for place in PLACES[1:]},
}


def by_name(place: Place) -> str:
    return place.name


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def name(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(*part) for part in parts])


def subject(role: Role) -> x509.Name:
    """The role's name; of the two PCK CAs the one that the simulation has."""
    return chain.SIMULATION.subjects(role)[-1]


def issue(role: Role, **changes: Any) -> x509.Certificate:
    """A certificate as its row says, with ``changes``; signed by the issuer that its row names."""
    signer = role.issuer or role
    given: dict[str, Any] = {
        "subject": subject(role),
        "issuer": subject(signer),
        "key": KEYS[role],
        "issuer_key": KEYS[signer],
        "ca": role.ca,
        "signs": role.ca,
        "sgx": role.sgx_extension,
        "extensions": (),
        **changes,
    }
    builder = (
        x509.CertificateBuilder()
        .subject_name(given["subject"])
        .issuer_name(given["issuer"])
        .public_key(given["key"].public_key())
        .serial_number(77)
        .not_valid_before(pki.NOT_BEFORE)
        .not_valid_after(pki.NOT_AFTER)
    )
    if given["ca"] is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=given["ca"], path_length=None), critical=True)
    if given["signs"] is not None:
        builder = builder.add_extension(pki._usage(authority=given["signs"]), critical=True)
    if given["sgx"]:
        sgx = x509.UnrecognizedExtension(chain.SGX_EXTENSION, pki.sgx_extension())
        builder = builder.add_extension(sgx, critical=False)
    for extension in given["extensions"]:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(given["issuer_key"], hashes.SHA256(), ecdsa_deterministic=True)


HONEST = {
    role: x509.load_pem_x509_certificates(SIM_PEM[place])[at]
    for role, place, at in (
        (PCK, chain.QUOTE, 0),
        (PCK_CA, chain.QUOTE, 1),
        (ROOT, chain.QUOTE, 2),
        (TCB_SIGNING, chain.TCB_INFO, 0),
    )
}


def read(place: Place, data: bytes) -> chain.Chain:
    return chain.read(place, data, root=samples.ROOT, naming=chain.SIMULATION)


def accepted(place: Place, data: bytes) -> bool:
    try:
        read(place, data)
    except chain.ChainError as error:
        assert error.code == place.code
        assert error.found.startswith(f"{place.name}: ") and error.expected
        return False
    return True


def honest(place: Place) -> list[x509.Certificate]:
    return [HONEST[role] for role in place.role.chain()]


# --- the hole: what the library accepts -----------------------------------------------------------------------------


def library(collateral: Mapping[str, str], data: bytes = MADE.evidence) -> str:
    """The TCB status that the QVL alone gives, or its reason."""
    given = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(dict(collateral)))
    policy = dcap_qvl.QuotePolicy.claims_only(samples.NOW)
    verifier = dcap_qvl.QuoteVerifier(samples.ROOT)
    try:
        claims = json.loads(verifier.verify_with_policy(data, given, samples.NOW, policy).to_json())
    except ValueError as error:
        return str(error)
    return str(claims["tcb"]["status"])


def ours(collateral: Mapping[str, str], data: bytes = MADE.evidence) -> QuoteFacts | SignatureFailure:
    return signature.check(data, collateral, now=samples.NOW, simulated_root=samples.ROOT)


def refusals(checked: QuoteFacts | SignatureFailure) -> list[str]:
    return [refusal.code for refusal in samples.judge(MADE, signature=checked).verdict.refusals]


def outdated(monkeypatch: pytest.MonkeyPatch, kind: str) -> dict[str, str]:
    """Honest collateral that calls the platform OutOfDate, by its TCB info or by its QE identity."""
    value = getattr(pki, f"{kind}_json")()
    value["tcbLevels"][0]["tcbStatus"] = "OutOfDate"
    monkeypatch.setattr(pki, f"{kind}_json", lambda: value)
    return collaterals.decode(loads(pki.generate()["collateral.json"]))


@pytest.mark.parametrize("kind", ["tcb_info", "qe_identity"])
@pytest.mark.parametrize(
    ("roles", "library_accepts"),
    [
        ((PCK, PCK_CA), True),
        ((PCK, PCK_CA, ROOT), True),
        ((PCK, ROOT, PCK_CA), True),
        ((PCK, ROOT), False),
        ((PCK_CA, ROOT), False),
        ((ROOT,), False),
    ],
)
def test_a_leaked_key_cannot_call_its_platform_up_to_date(
    monkeypatch: pytest.MonkeyPatch, kind: str, roles: tuple[Role, ...], library_accepts: bool
) -> None:
    stated = outdated(monkeypatch, kind)
    assert library(stated) == "OutOfDate"
    assert refusals(ours(stated)) == ["tcb-status" if kind == "tcb_info" else "qe-status"]
    forged = {
        **stated,
        kind: COLLATERAL[kind],  # says UpToDate
        f"{kind}_signature": quote.sign(KEYS[roles[0]], COLLATERAL[kind].encode()).hex(),
        f"{kind}_issuer_chain": pem(*(HONEST[role] for role in roles)).decode(),
    }
    assert (library(forged) == "UpToDate") is library_accepts, library(forged)
    failure = ours(forged)
    assert isinstance(failure, SignatureFailure)
    assert failure.reason.startswith(f"{kind}_issuer_chain: ")
    assert refusals(failure) == ["collateral-role"]


@pytest.mark.parametrize("place", [chain.TCB_INFO, chain.QE_IDENTITY, chain.PCK_CRL], ids=by_name)
@pytest.mark.parametrize("text", ["x{0}", "{0}x", "{0}{0}", "{1}"], ids=["before", "behind", "twice", "no root"])
def test_other_collateral_chains_that_the_library_accepts(place: Place, text: str) -> None:
    whole = COLLATERAL[place.name]
    changed = {**COLLATERAL, place.name: text.format(whole, whole[: whole.index("-----END") + 26])}
    assert library(changed) == "UpToDate"
    assert refusals(ours(changed)) == ["collateral-role"]


def test_the_crl_issuer_is_the_very_pck_ca_of_the_quote() -> None:
    other = issue(PCK_CA)
    assert accepted(chain.PCK_CRL, pem(other, HONEST[ROOT]))
    changed = {**COLLATERAL, "pck_crl_issuer_chain": pem(other, HONEST[ROOT]).decode()}
    assert library(changed) == "UpToDate"
    failure = ours(changed)
    assert refusals(failure) == ["collateral-role"]
    assert isinstance(failure, SignatureFailure) and "the one in the quote" in failure.expected


CRLS = {
    "root_ca_crl": (ROOT, PCK_CA),
    "pck_crl": (PCK_CA, ROOT),
}


@pytest.mark.parametrize(("field", "role", "other"), [(field, *roles) for field, roles in CRLS.items()], ids=CRLS)
def test_a_revocation_list_has_exactly_its_issuer(field: str, role: Role, other: Role) -> None:
    wanted = f"{field}: "
    wrong = {
        "of the other issuer": pki._crl(subject(other), KEYS[other]),
        "named for the other issuer": pki._crl(subject(other), KEYS[role]),
        "signed by the other issuer": pki._crl(subject(role), KEYS[other]),
        "signed by a stranger": pki._crl(subject(role), STRANGER),
        "another thing": HONEST[role].public_bytes(Encoding.DER),
        "with a byte behind": pki._crl(subject(role), KEYS[role]) + b"\0",
        "empty": b"",
    }
    for said, der in wrong.items():
        failure = ours({**COLLATERAL, field: der.hex()})
        assert isinstance(failure, SignatureFailure), said
        assert failure.reason.startswith(wanted), said
        assert refusals(failure) == ["collateral-role"], said
    again = pki._crl(subject(role), KEYS[role])
    assert refusals(ours({**COLLATERAL, field: again.hex()})) == []


QUOTE_CHAINS = {
    "no root": pem(HONEST[PCK], HONEST[PCK_CA]),
    "wrong order": pem(HONEST[PCK], HONEST[ROOT], HONEST[PCK_CA]),
    "another root": pem(HONEST[PCK], HONEST[PCK_CA], issue(ROOT)),
    "one more": pem(HONEST[PCK], HONEST[PCK_CA], HONEST[TCB_SIGNING], HONEST[ROOT]),
    "text between": pem(HONEST[PCK]) + b"text\n" + pem(HONEST[PCK_CA], HONEST[ROOT]),
}


@pytest.mark.parametrize("data", QUOTE_CHAINS.values(), ids=QUOTE_CHAINS)
def test_other_chains_in_a_quote_that_the_library_accepts(data: bytes) -> None:
    changed = quote.assemble(MADE.evidence[48:632], pki.certification(KEYS[PCK], data))
    assert library(COLLATERAL, changed) == "UpToDate"
    failure = ours(COLLATERAL, changed)
    assert isinstance(failure, SignatureFailure)
    assert failure.code == "pck-chain"
    assert refusals(failure) == ["pck-chain"]


def test_a_chain_next_to_the_quote_is_not_used() -> None:
    """The library has a tenth field of collateral and prefers its PCK chain to the one in the quote."""
    beside = {**COLLATERAL, "pck_certificate_chain": SIM_PEM[chain.QUOTE].decode()}
    certificates = pem(HONEST[TCB_SIGNING], HONEST[ROOT])
    other = quote.assemble(MADE.evidence[48:632], pki.certification(KEYS[PCK], certificates))
    assert library(beside, other) == "UpToDate"
    assert refusals(ours(beside, other)) == ["pck-chain"]
    useless = {**COLLATERAL, "pck_certificate_chain": "x"}
    assert library(useless) != "UpToDate"
    assert refusals(ours(useless)) == []


def test_a_quote_with_another_kind_of_certificate() -> None:
    own = pki.certification(KEYS[PCK], SIM_PEM[chain.QUOTE])
    at = own.index(b"-----BEGIN") - 6
    failure = ours(COLLATERAL, quote.assemble(MADE.evidence[48:632], own[:at] + b"\4\0" + own[at + 2 :]))
    assert isinstance(failure, SignatureFailure)
    assert (failure.code, failure.reason) == ("pck-chain", "quote: certification data of type 4")


def test_missing_chains_are_refused_and_not_an_error() -> None:
    assert refusals(ours({})) == ["collateral-role"]
    assert refusals(ours({**COLLATERAL, "tcb_info_issuer_chain": "\ud800"})) == ["collateral-role"]


# --- honest chains --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES, ids=by_name)
def test_the_simulated_and_the_real_chain(place: Place) -> None:
    assert read(place, SIM_PEM[place]).certificates[-1] == samples.ROOT
    found = chain.read(place, REAL_PEM[place], root=signature.INTEL_ROOT_DER, naming=chain.INTEL)
    assert found.role is place.role
    assert len(found.certificates) == len(place.role.chain())


def test_a_real_quote_and_its_collateral_have_one_pck_ca() -> None:
    found = chain.check(REAL_PEM[chain.QUOTE], REAL_COLLATERAL, root=signature.INTEL_ROOT_DER, naming=chain.INTEL)
    assert found.pck_crl.certificates == found.quote.certificates[1:]
    assert isinstance(signature.check(REAL_QUOTE, REAL_COLLATERAL, now=1_750_420_000), QuoteFacts)


def test_the_chain_of_a_real_v5_quote() -> None:
    data = quotes.parse((samples.VECTORS / "tdx_quote_v5.bin").read_bytes()).signature.certificates
    chain.read(chain.QUOTE, data, root=signature.INTEL_ROOT_DER, naming=chain.INTEL)


@pytest.mark.parametrize("place", PLACES, ids=by_name)
def test_each_root_has_its_own_names(place: Place) -> None:
    with pytest.raises(chain.ChainError, match="CN=Intel SGX"):
        chain.read(place, REAL_PEM[place], root=signature.INTEL_ROOT_DER, naming=chain.SIMULATION)
    with pytest.raises(chain.ChainError, match="CN=SIMULATED"):
        chain.read(place, SIM_PEM[place], root=samples.ROOT, naming=chain.INTEL)
    with pytest.raises(chain.ChainError, match="a last certificate with SHA-256"):
        chain.read(place, REAL_PEM[place], root=samples.ROOT, naming=chain.SIMULATION)


def test_the_rows_are_what_the_certificates_say() -> None:
    assert [role for role in chain.ROLES if role.issuer is None] == [ROOT]
    real = {role: x509.load_pem_x509_certificates(REAL_PEM[place])[0] for place in PLACES for role in [place.role]}
    real[ROOT] = x509.load_der_x509_certificate(signature.INTEL_ROOT_DER)
    for certificates, naming in ((HONEST, chain.SIMULATION), (real, chain.INTEL)):
        assert set(certificates) == set(chain.ROLES)
        for role, certificate in certificates.items():
            assert certificate.subject in naming.subjects(role)
            assert len(naming.subjects(role)) == (2 if role is PCK_CA else 1)
    said = {attribute.value for name in chain.INTEL.subjects(PCK_CA) for attribute in name}
    assert said == {
        *("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"),
        *("Intel Corporation", "Santa Clara", "CA", "US"),
    }


def test_both_pck_cas_are_accepted() -> None:
    for found in chain.SIMULATION.subjects(PCK_CA):
        assert accepted(chain.PCK_CRL, pem(issue(PCK_CA, subject=found), HONEST[ROOT]))


# --- a matrix of chains ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES, ids=by_name)
def test_only_one_order_of_certificates_is_accepted(place: Place) -> None:
    """Every order and number, up to four, of the four honest certificates."""
    sequences = [roles for size in range(5) for roles in itertools.product(chain.ROLES, repeat=size)]
    assert len(sequences) == 341
    found = [roles for roles in sequences if accepted(place, pem(*(HONEST[role] for role in roles)))]
    assert found == [place.role.chain()]


def _names(role: Role) -> dict[str, x509.Name]:
    """Subjects that differ from the role's in one thing."""
    parts = [(attribute.oid, str(attribute.value)) for attribute in subject(role)]
    return {
        **{f"named {other.name}": subject(other) for other in chain.ROLES if other is not role},
        **{f"part {at} changed": name(*parts[:at], (oid, text + "x"), *parts[at + 1 :])
           for at, (oid, text) in enumerate(parts)},
        **{f"part {at} left out": name(*parts[:at], *parts[at + 1 :]) for at in range(len(parts))},
        **{f"part {at} twice": name(*parts[: at + 1], *parts[at:]) for at in range(len(parts))},
        "other order": name(*reversed(parts)),
        "other case": name((parts[0][0], parts[0][1].lower()), *parts[1:]),
        "space behind": name((parts[0][0], parts[0][1] + " "), *parts[1:]),
        "one more": name(*parts, (NameOID.ORGANIZATIONAL_UNIT_NAME, "x")),
        "Intel's": chain.INTEL.subjects(role)[0],
        "empty": x509.Name([]),
        "in one set": x509.Name([x509.RelativeDistinguishedName([x509.NameAttribute(*part) for part in parts])]),
    }  # fmt: skip


def variants(role: Role) -> dict[str, x509.Certificate]:
    """Certificates of ``role`` that its authority really signed, or that say so, with one thing wrong."""
    constraint = x509.NameConstraints(permitted_subtrees=[x509.DNSName("x")], excluded_subtrees=None)
    return {
        **{said: issue(role, subject=found) for said, found in _names(role).items()},
        "CA by neither": issue(role, ca=None, signs=None),
        "CA by constraints only": issue(role, ca=True, signs=False),
        "CA by usage only": issue(role, ca=False, signs=True),
        "no constraints": issue(role, ca=None),
        "no usage": issue(role, signs=None),
        "other CA flag": issue(role, ca=not role.ca, signs=not role.ca),
        "other SGX extension": issue(role, sgx=not role.sgx_extension),
        "critical extension": issue(role, extensions=[constraint]),
        "signed by itself": issue(role, issuer_key=KEYS[role] if role.issuer else STRANGER),
        "signed by a stranger": issue(role, issuer_key=STRANGER),
        "stranger's key, signed by a stranger": issue(role, key=STRANGER, issuer_key=STRANGER),
        **{f"signed by {other.name}": issue(role, issuer_key=KEYS[other])
           for other in chain.ROLES if other not in (role, role.issuer or role)},
        **{f"issuer {said}": issue(role, issuer=found) for said, found in _names(role.issuer or role).items()},
    }  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=by_name)
def test_one_certificate_that_is_not_as_its_row_says(place: Place) -> None:
    count = 0
    for at, role in enumerate(place.role.chain()):
        for said, certificate in variants(role).items():
            given = honest(place)
            given[at] = certificate
            assert not accepted(place, pem(*given)), f"{role.name}: {said}"
            count += 1
        given = honest(place)
        given[at] = issue(role)  # the control: the same builder with nothing wrong, and another serial number
        assert accepted(place, pem(*given)) is (role is not ROOT), role.name
    assert count > 35 * len(place.role.chain())


WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "wrong order": (lambda: pem(HONEST[ROOT], HONEST[TCB_SIGNING]), "a last certificate with SHA-256"),
    "extra": (lambda: pem(HONEST[TCB_SIGNING], HONEST[ROOT], HONEST[ROOT]), "3 certificates, expected 2"),
    "no root": (lambda: pem(HONEST[TCB_SIGNING]), "1 certificates, expected 2: TCB signing, root CA"),
    "root signed again": (lambda: pem(HONEST[TCB_SIGNING], issue(ROOT)), "expected the root certificate"),
    "PCK CA": (lambda: pem(HONEST[PCK_CA], HONEST[ROOT]), "CN=SIMULATED privml-build PCK Processor CA"),
    "PCK": (lambda: pem(HONEST[PCK], HONEST[ROOT]), "unreadable or not issued by the next one"),
    "SGX extension": (lambda: pem(issue(TCB_SIGNING, sgx=True), HONEST[ROOT]), "is one with the SGX extension"),
    "CA": (lambda: pem(issue(TCB_SIGNING, ca=True, signs=True), HONEST[ROOT]), "is a CA, by basic constraints"),
    "half a CA": (lambda: pem(issue(TCB_SIGNING, ca=True), HONEST[ROOT]), "neither clearly a CA"),
    "critical": (
        lambda: pem(issue(TCB_SIGNING, extensions=[x509.PolicyConstraints(0, 0)]), HONEST[ROOT]),
        "the critical extension 2.5.29.36",
    ),
    "forged": (lambda: pem(issue(TCB_SIGNING, issuer_key=STRANGER), HONEST[ROOT]), "not signed with the key"),
    "not a certificate": (
        lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + pem(HONEST[ROOT]),
        "certificate 1 of 2 is unreadable",
    ),
    "not base64": (
        lambda: b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n" + pem(HONEST[ROOT]),
        "not base64",
    ),
    "long": (lambda: pem(*[HONEST[ROOT]] * 40), "at most 16384"),
    "empty": (lambda: b"", "0 certificates"),
}


@pytest.mark.parametrize(("make", "said"), WRONG.values(), ids=WRONG)
def test_the_reason_says_what_is_wrong(make: Callable[[], bytes], said: str) -> None:
    with pytest.raises(chain.ChainError) as caught:
        read(chain.TCB_INFO, make())
    assert said in str(caught.value)


# --- every byte -----------------------------------------------------------------------------------------------------

ENDINGS = {b"", b"\n", b"\n\n", b"\0", b"\n\0", b"\n\n\0"}


@pytest.mark.parametrize("pem", [SIM_PEM, REAL_PEM], ids=["simulated", "real"])
def test_no_byte_can_be_added_or_taken_away(pem: dict[Place, bytes]) -> None:
    place = chain.TCB_INFO
    root, naming = (samples.ROOT, chain.SIMULATION) if pem is SIM_PEM else (signature.INTEL_ROOT_DER, chain.INTEL)
    whole = pem[place]
    core = whole.rstrip(b"\n\0")

    def passes(data: bytes) -> bool:
        try:
            chain.read(place, data, root=root, naming=naming)
        except chain.ChainError:
            return False
        return True

    for at in range(len(whole) + 1):
        for changed in (
            whole[:at] + whole[at + 1 :],
            *(whole[:at] + extra + whole[at:] for extra in (b"\n", b"\r", b" ", b"\0", b"-", b"=", b"A", b"#")),
            *(whole[:at] + bytes([byte]) + whole[at + 1 :] for byte in (0, 0x0A, 0x20, 0x3D, 0x41)),
        ):
            fine = changed.startswith(core) and changed[len(core) :] in ENDINGS
            assert passes(changed) is fine, (at, changed[max(0, at - 8) : at + 8])
    for size in range(5):
        for ending in itertools.product((b"\n", b"\0", b" "), repeat=size):
            assert passes(core + b"".join(ending)) is (b"".join(ending) in ENDINGS)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"CERTIFICATE", b"X509 CERTIFICATE"),
        lambda data: data.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"),
        lambda data: b"".join(line[:32] + b"\n" + line[32:] + b"\n" for line in data.splitlines()),
        lambda data: data.lower(),
        lambda data: b"subject=/CN=Intel SGX TCB Signing\n" + data,
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.decode().encode("utf-16"),
    ],
)
def test_another_spelling_is_refused(change: Callable[[bytes], bytes]) -> None:
    for place in PLACES:
        assert accepted(place, SIM_PEM[place])
        assert not accepted(place, change(SIM_PEM[place]))


def test_a_key_of_another_kind() -> None:
    """Everything right but the curve: the root signed it, so it is the library that must refuse it."""
    leaf = issue(TCB_SIGNING, key=ec.generate_private_key(ec.SECP384R1()))
    assert accepted(chain.TCB_INFO, pem(leaf, HONEST[ROOT]))
    failure = ours({**COLLATERAL, "tcb_info_issuer_chain": pem(leaf, HONEST[ROOT]).decode()})
    assert refusals(failure) == ["quote-signature"]


def test_a_root_that_the_caller_names_has_the_simulations_names() -> None:
    """A root of another PKI is an anchor too, but its certificates have no role here."""
    root = issue(ROOT, subject=name((NameOID.COMMON_NAME, "x")), issuer=name((NameOID.COMMON_NAME, "x")))
    with pytest.raises(chain.ChainError, match="certificate 2 of 2 is CN=x"):
        chain.read(
            chain.TCB_INFO,
            pem(issue(TCB_SIGNING, issuer=root.subject), root),
            root=root.public_bytes(Encoding.DER),
            naming=chain.SIMULATION,
        )


def test_a_policy_without_the_simulation_says_simulated() -> None:
    failure = ours({})
    assert isinstance(failure, SignatureFailure)
    verdict = samples.judge(MADE, signature=failure, policy=Policy()).verdict
    assert [refusal.code for refusal in verdict.refusals] == ["simulated"]
