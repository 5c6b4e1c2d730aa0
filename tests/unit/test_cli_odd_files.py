"""Files of the wrong kind, given to each verb: the message names the file, and nothing is read without a bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from privml.base.errors import EvidenceError, MeasurementError, UsageError
from privml.cli import diff, verify
from privml.cli.policy import policy_of
from privml.evidence import bundle, document
from privml.image.target import resolve
from privml.readers import files


def test_a_document_larger_than_the_limit_is_read_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    data = verify._start_of(path)
    assert len(data) == bundle.MAX_BUNDLE + 1
    for decode in (document.parse, bundle.decode):
        with pytest.raises(EvidenceError, match="bytes, expected at most"):
            decode(data)


def test_an_error_of_a_parser_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "short.efi"
    path.write_bytes(b"MZ")
    with pytest.raises(MeasurementError, match=r"short\.efi: PE header offset"):
        files.read(path)


def test_a_file_given_as_an_image_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "demo-cpu"
    path.write_bytes(b"\x7fELF")
    with pytest.raises(UsageError, match="is a file, but neither a recipe nor the directory of an image"):
        resolve(str(path))


def test_diff_of_a_path_that_does_not_exist_does_not_call_it_an_image(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file or directory `"):
        diff.given(str(tmp_path / "nothing"))


def test_a_simulated_root_that_is_not_a_certificate_is_named_without_the_librarys_words(tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    path.write_bytes(b"not a certificate")
    with pytest.raises(UsageError, match=r"root\.pem: not a certificate in PEM or DER") as caught:
        policy_of(path)
    assert "ASN" not in caught.value.message
