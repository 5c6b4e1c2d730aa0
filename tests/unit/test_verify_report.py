"""A verdict on a terminal: the refused machine's own words stay words."""

from __future__ import annotations

import dataclasses

import attestation_samples as samples
import pytest

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields
from privml.evidence.claims import SignatureFailure
from privml.verify.anchor import ExpectedData, ExpectedModel
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


def test_the_next_lines_say_models_and_data_and_which_keys_open_them() -> None:
    key = "`data/corpus`, generation 2, of broker partner"
    models = (
        ExpectedModel("small", "0.1.2", f"key {'ab' * 32}", key.replace("data/", "model/")),
        ExpectedModel("other"),
    )
    data = (ExpectedData("corpus", key), ExpectedData("terms"))
    expected = dataclasses.replace(samples.EXPECTED, models=models, data=data)
    verdict = samples.judge(expected=expected).verdict
    assert render(verdict).splitlines()[1:5] == [
        f"  model: small, revision 0.1.2, signed by key {'ab' * 32}, encrypted with {models[0].key}",
        "  model: other, no revision, not signed",
        f"  data: corpus, encrypted with {key}",
        "  data: terms, not encrypted",
    ]
    found = verdict.to_dict()
    assert found["models"] == [
        {"name": "small", "revision": "0.1.2", "signer": f"key {'ab' * 32}", "key": models[0].key},
        {"name": "other", "revision": None, "signer": None, "key": None},
    ]
    assert found["data"] == [{"name": "corpus", "key": key}, {"name": "terms", "key": None}]
