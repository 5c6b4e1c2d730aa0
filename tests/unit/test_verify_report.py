"""A verdict on a terminal: the refused machine's own words stay words."""

from __future__ import annotations

import dataclasses

import attestation_samples as samples
import pytest

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields
from privml.evidence.claims import SignatureFailure
from privml.verify.anchor import ExpectedModel
from privml.verify.report import render


@pytest.mark.parametrize(
    "reason", ["\x1b[H\x1b[2JACCEPTED: demo-cpu", "\nACCEPTED: demo-cpu", "\u2028ACCEPTED", "\u202e"]
)
def test_a_refused_machine_writes_no_line_of_the_report(reason: str) -> None:
    verdict = samples.judge(signature=SignatureFailure("quote-signature", reason, "good")).verdict
    text = render(verdict)
    assert {refusal.code for refusal in verdict.refusals} == {"quote-signature"}
    assert text.replace("\n", "").isprintable()
    lines = text.splitlines()
    assert lines[0].startswith("REFUSED: ")
    assert all(line.startswith("  ") for line in lines[1:])


def test_a_malformed_document_writes_no_line_of_the_error() -> None:
    for value in ({"a": "\x1b[2Jx\nACCEPTED"}, {"a": "v1", "\x1b[2J\nACCEPTED": 1}):
        fields = Fields(value, "document")
        with pytest.raises(EvidenceError) as caught:
            fields.text("a", one_of=("v1",))
            fields.end()
        assert caught.value.message.isprintable()
        assert str(caught.value) == caught.value.message


def test_the_second_line_says_model_revision_and_signer() -> None:
    models = (ExpectedModel("small", "0.1.2", f"key {'ab' * 32}"), ExpectedModel("other"))
    expected = dataclasses.replace(samples.EXPECTED, models=models)
    verdict = samples.judge(expected=expected).verdict
    assert render(verdict).splitlines()[1:3] == [
        f"  model: small, revision 0.1.2, signed by key {'ab' * 32}",
        "  model: other, no revision, not signed",
    ]
    assert verdict.to_dict()["models"] == [
        {"name": "small", "revision": "0.1.2", "signer": f"key {'ab' * 32}"},
        {"name": "other", "revision": None, "signer": None},
    ]
