"""The committed simulated PKI is its generator's output and says SIMULATED everywhere."""

from __future__ import annotations

import ast
from pathlib import Path

import attestation_samples as samples
import pytest
from cryptography import x509

from privml.base.errors import EvidenceError
from privml.events.registers import MRTD, RTMRS, TDX_REGISTERS
from privml.evidence.tdx import quote as quotes
from privml.sim import pki, quote

DIRECTORY = Path(pki.__file__).with_name("pki")


def test_the_committed_files_are_regenerated_byte_for_byte() -> None:
    generated = pki.generate()
    assert {path.name for path in DIRECTORY.iterdir()} == set(generated)
    for name, data in generated.items():
        assert (DIRECTORY / name).read_bytes() == data, f"{name}: run `python -m privml.sim.pki`"


def test_every_subject_says_simulated() -> None:
    made = quotes.parse(quote.make_quote(dict.fromkeys(TDX_REGISTERS, bytes(48)), bytes(64)))
    collateral = quote.collateral()
    chains = [
        made.signature.certificates,
        collateral["tcb_info_issuer_chain"].encode(),
        collateral["qe_identity_issuer_chain"].encode(),
        collateral["pck_crl_issuer_chain"].encode(),
        quote.root_pem(),
    ]
    for chain in chains:
        for certificate in x509.load_pem_x509_certificates(chain):
            for attribute in certificate.subject:
                assert "SIMULATED" in str(attribute.value)


def test_a_quote_carries_what_it_was_given() -> None:
    registers = {register: bytes([number]) * 48 for number, register in enumerate(TDX_REGISTERS, 1)}
    parsed = quotes.parse(quote.make_quote(registers, bytes(range(64))))
    assert parsed.body.mr_td == registers[MRTD]
    assert parsed.body.rtmrs == tuple(registers[register] for register in RTMRS)
    assert parsed.body.report_data == bytes(range(64))
    assert parsed.padding == 0


def test_a_quote_is_deterministic() -> None:
    given = dict.fromkeys(TDX_REGISTERS, bytes(48))
    assert quote.make_quote(given, bytes(64)) == quote.make_quote(given, bytes(64))


@pytest.mark.parametrize(("size", "report_data"), [(47, bytes(64)), (48, bytes(63))])
def test_wrong_sizes_are_refused(size: int, report_data: bytes) -> None:
    with pytest.raises(EvidenceError):
        quote.make_quote(dict.fromkeys(TDX_REGISTERS, bytes(size)), report_data)


def test_the_guest_closure_has_no_certificate_code() -> None:
    """`sim.quote` runs under emulation: the certificate half of `cryptography` stays out of its imports."""
    tree = ast.parse(Path(quote.__file__).read_text())
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in imported if "x509" in name or "serialization" in name]


def test_a_second_signer_is_not_accepted_as_the_platform() -> None:
    """A QE report over another attestation key is refused although the PCK signed it."""
    from privml.evidence.tdx import signature

    forged = pki.certification(quote.private_key("processor"), b"")
    made = samples.document()
    body = made.evidence[48:632]
    data = quote.assemble(body, forged)
    assert not hasattr(
        signature.check(data, quote.collateral(), now=samples.NOW, simulated_root=samples.ROOT), "ppid"
    )
