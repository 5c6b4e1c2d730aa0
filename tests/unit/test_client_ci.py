"""`verify --ci`: the attestation of a workflow next to a version.

The signature is checked on a real bundle, by a workflow of GitHub's under Sigstore's staging root. A bundle over a
statement of ours cannot be made without that service: there, `Pretended` stands in for the check of the signature.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import published_whole
import pytest
from published_fake import NAME, NOW, Fake
from test_cli_main import Outcome, as_found, place  # noqa: F401 - fixtures
from test_client_trust import ALLOWED, BASE, TRUST, codes, fake, here, judged, put  # noqa: F401 - fixtures

from privml.base import keyless
from privml.base.dsse import decode as envelope_in
from privml.base.errors import EvidenceError
from privml.base.strictjson import b64
from privml.client.ci import Workflow, workflow_of
from privml.publish import check
from privml.statement import attestation, intoto

VECTORS = Path(__file__).resolve().parents[1] / "vectors/publishing/sigstore_sigstore-python"
BUNDLE = (VECTORS / "a.dsse.staging-rekor-v2.txt.sigstore.json").read_bytes()
ROOT = (VECTORS / "staging_trusted_root.json").read_bytes()
REPOSITORY, REF = "sigstore-conformance/extremely-dangerous-public-oidc-beacon", "refs/heads/main"
BY = f"https://github.com/{REPOSITORY}/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main"
OURS = f"{NAME}/1.1/ci.sigstore.json"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is asked for and no connection made."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


# --- the signature, on a real bundle --------------------------------------------------------------------------------


def payload(data: bytes = BUNDLE, repository: str = REPOSITORY, ref: str = REF) -> tuple[bytes, str]:
    return keyless.Workflows(ROOT, "root").payload(data, repository, ref, "bundle")


def test_a_real_bundle_is_read_without_a_network() -> None:
    assert payload() == (attestation.payload_of(BUNDLE, "bundle"), BY)
    assert json.loads(payload()[0])["subject"][0]["name"] == "a.txt"


@pytest.mark.parametrize(
    ("repository", "ref"),
    [
        (REPOSITORY[:-1], REF),
        (f"{REPOSITORY}x", REF),
        (REPOSITORY.upper(), REF),
        ("sigstore-conformance/.*", REF),
        (REPOSITORY, "refs/heads/mai"),
        (REPOSITORY, "refs/heads/main2"),
        (REPOSITORY, "refs/heads/.*"),
        (REPOSITORY, "main"),
        (REPOSITORY, ""),
    ],
)
def test_repository_and_ref_are_compared_exactly(repository: str, ref: str) -> None:
    with pytest.raises(EvidenceError, match="not a valid signature of a workflow of"):
        payload(repository=repository, ref=ref)


def test_another_issuer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyless, "GITHUB_ISSUER", "https://issuer.example")
    with pytest.raises(EvidenceError, match="OIDCIssuerV2"):
        payload()


def test_another_trusted_root_does_not_vouch_for_it() -> None:
    production = (VECTORS.parents[1] / "modelsigning/sigstore-root.json").read_bytes()
    with pytest.raises(EvidenceError, match="not a valid signature"):
        keyless.Workflows(production, "root").payload(BUNDLE, REPOSITORY, REF, "bundle")


def test_no_changed_byte_of_a_bundle_gives_another_payload() -> None:
    workflows = keyless.Workflows(ROOT, "root")
    taken = 0
    for at in range(0, len(BUNDLE), 97):
        changed = BUNDLE[:at] + bytes([BUNDLE[at] ^ 1]) + BUNDLE[at + 1 :]
        try:
            found = workflows.payload(changed, REPOSITORY, REF, "bundle")
        except EvidenceError:
            continue
        assert found == payload()
        taken += 1
    assert taken < 12  # what nothing needs: the log's number for the entry, a second name of its key


# --- the statement, with the check of the signature left out --------------------------------------------------------


class Pretended(keyless.Workflows):
    """Takes every bundle for one of the workflow of its repository and ref."""

    def __init__(
        self, ref: str = "refs/tags/demo-cpu/1.1", read: Callable[[bytes], bytes] = lambda data: data
    ) -> None:
        self.ref = ref
        self.read = read

    def payload(self, data: bytes, repository: str, ref: str, what: str) -> tuple[bytes, str]:
        if (repository, ref) != ("owner/name", self.ref):
            raise EvidenceError(f"{what}: not a valid signature of a workflow of {repository} at {ref}")
        return self.read(attestation.payload_of(data, what)), f"https://github.com/{repository}/x.yml@{ref}"


PRETENDED = Workflow("owner/name", None, Pretended())


def statement(fake: Fake, version: str = "1.1") -> dict[str, Any]:  # noqa: F811
    found: dict[str, Any] = json.loads(envelope_in(fake.files[f"{NAME}/{version}/statement.dsse.json"]).payload)
    return found


def bundle(said: Any, **changes: Any) -> bytes:
    """A bundle as the action writes it, without what only the check of the signature reads."""
    envelope = {
        "payload": b64(json.dumps(said, indent=1).encode()),
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"sig": "AAAA"}],
    }
    outer = {"mediaType": attestation.MEDIA_TYPE, "verificationMaterial": {}, "dsseEnvelope": envelope}
    return json.dumps({**outer, **changes}).encode() + b"\n"


def test_a_version_that_the_workflow_attested_is_accepted_and_said(fake: Fake) -> None:  # noqa: F811
    said = statement(fake)
    # The action keeps neither the order of subjects nor the spelling of JSON.
    fake.files[OURS] = bundle({**said, "subject": said["subject"][::-1]})
    verdict = judged(fake, workflow=PRETENDED)
    assert not verdict.refusals
    assert str(verdict.anchor).endswith(", no rebuilder asked, attested by CI of owner/name")
    by = "https://github.com/owner/name/x.yml@refs/tags/demo-cpu/1.1"
    assert f"attested by {by}: it made the same, on that service's runners" in verdict.notes
    told = verdict.anchor.to_dict()  # type: ignore[union-attr]
    assert told["ci_asked"] is True
    assert told["ci"] == {"repository": "owner/name", "ref": "refs/tags/demo-cpu/1.1", "workflow": by}


def other_subject(said: dict[str, Any]) -> None:
    said["subject"][0]["digest"]["sha256"] = "00" * 32


def renamed_subject(said: dict[str, Any]) -> None:
    said["subject"][0]["name"] += "x"


def one_less(said: dict[str, Any]) -> None:
    del said["subject"][0]


def one_more(said: dict[str, Any]) -> None:
    said["subject"].append({"name": "more", "digest": {"sha256": "00" * 32}})


def other_register(said: dict[str, Any]) -> None:
    said["predicate"]["launches"][0]["registers"]["mrtd"]["accepted"][0] = "00" * 48


def other_manifest(said: dict[str, Any]) -> None:
    said["predicate"]["manifest_sha256"] = "00" * 32


def other_type(said: dict[str, Any]) -> None:
    said["predicateType"] += "0"


def unknown_field(said: dict[str, Any]) -> None:
    said["more"] = 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (other_subject, "it attests other artefacts"),
        (renamed_subject, "it attests other artefacts"),
        (one_less, "it attests other artefacts"),
        (one_more, "it attests other artefacts"),
        (other_register, ""),
        (other_manifest, "it attests other measurements"),
        (other_type, "predicateType"),
        (unknown_field, "more"),
    ],
)
def test_an_attestation_of_something_else_does_not_count(
    change: Callable[[dict[str, Any]], None],
    what: str,
    fake: Fake,  # noqa: F811
) -> None:
    said = statement(fake)
    change(said)
    fake.files[OURS] = bundle(said)
    [refusal] = judged(fake, workflow=PRETENDED).refusals
    assert refusal.code == "ci-identity"
    assert what in refusal.got
    assert refusal.expected == "an attestation by a workflow of owner/name at refs/tags/demo-cpu/1.1"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        bundle({}),
        bundle({}, mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"),
        bundle({}, dsseEnvelope={"payload": "e30=", "payloadType": "text/plain"}),
        bundle({}, dsseEnvelope={"payload": "e30", "payloadType": "application/vnd.in-toto+json"}),
        b"[" * 100_000,
        b" " * (attestation.MAX_BUNDLE + 1),
    ],
)
def test_a_malformed_bundle_shows_nothing(data: bytes, fake: Fake) -> None:  # noqa: F811
    fake.files[OURS] = data
    assert codes(fake, workflow=PRETENDED) == {"ci-identity"}


@pytest.mark.parametrize(
    "kind", ["application/vnd.dev.sigstore.bundle+json;version=0.2", attestation.MEDIA_TYPE + "+x"]
)
def test_another_form_of_bundle_is_refused(kind: str, fake: Fake) -> None:  # noqa: F811
    fake.files[OURS] = bundle(statement(fake), mediaType=kind)
    [refusal] = judged(fake, workflow=PRETENDED).refusals
    assert (refusal.code, "mediaType" in refusal.got) == ("ci-identity", True)


def test_the_workflow_must_have_run_for_this_version_s_tag_or_the_given_ref(fake: Fake) -> None:  # noqa: F811
    fake.files[OURS] = bundle(statement(fake))
    assert codes(fake, "1.1", workflow=PRETENDED) == set()
    assert codes(fake, "1.0", workflow=PRETENDED) == {"ci-identity"}
    main = Pretended("refs/heads/main")
    assert codes(fake, "1.1", workflow=Workflow("owner/name", None, main)) == {"ci-identity"}
    assert codes(fake, "1.1", workflow=Workflow("owner/name", "refs/heads/main", main)) == set()
    assert codes(fake, "1.1", workflow=Workflow("owner/other", "refs/heads/main", main)) == {"ci-identity"}


def test_two_readers_must_agree(fake: Fake) -> None:  # noqa: F811
    fake.files[OURS] = bundle(statement(fake))
    differs = Workflow("owner/name", None, Pretended(read=lambda data: data + b"\n"))
    [refusal] = judged(fake, workflow=differs).refusals
    assert "two readers disagree about what is signed" in refusal.got


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def words(here: Path) -> tuple[str, ...]:  # noqa: F811
    (here / "sigstore.json").write_bytes(ROOT)
    return (*BASE, *ALLOWED, *TRUST, "--ci-root", "sigstore.json", "--ci")


def test_a_version_without_an_attestation_is_refused(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(capsys, *words, "owner/name")
    assert outcome.code == 8
    assert "ci-identity: the version is not attested by the workflow that you asked for" in outcome.stdout
    assert f"    got      no {OURS}\n" in outcome.stdout


def test_a_real_attestation_of_something_else_is_refused(
    words: tuple[str, ...],
    here: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The whole way with the real check of the signature, up to the statement, which is not ours."""
    (here / "measurements" / OURS).write_bytes(BUNDLE)
    outcome = Outcome(capsys, *words, f"{REPOSITORY}@{REF}")
    assert outcome.code == 8
    assert "got      statement.predicateType: got `https://slsa.dev/provenance/v1`" in outcome.stdout
    outcome = Outcome(capsys, *words, REPOSITORY)
    assert outcome.code == 8
    assert f"not a valid signature of a workflow of {REPOSITORY} at refs/tags/demo-cpu/1.1" in outcome.stdout


@pytest.mark.parametrize(
    "wanted",
    ["owner", "owner/", "/name", "owner/name@", "owner/name@main", "owner/na me", "owner/name/x", "o*/n", ""],
)
def test_words_that_name_no_workflow_are_refused(
    wanted: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(capsys, *words, wanted)
    assert (outcome.code, outcome.stdout) == (2, "")


def test_the_options_belong_together_and_to_trust(
    words: tuple[str, ...],
    here: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--ci", "owner/name")
    assert outcome.code == 2
    assert "--ci and --ci-root belong together" in outcome.stderr
    assert Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--ci-root", "sigstore.json").code == 2
    assert Outcome(capsys, *BASE, *ALLOWED, *TRUST, "--ci", "owner/name", "--ci-root", "nowhere").code == 2
    outcome = Outcome(capsys, *BASE, "--expect", ".", "--ci", "owner/name", "--ci-root", "sigstore.json")
    assert outcome.code == 2
    assert "--ci is for published measurements" in outcome.stderr
    (here / "sigstore.json").write_bytes(b"{}")
    outcome = Outcome(capsys, *words, "owner/name")
    assert (outcome.code, outcome.stdout) == (9, "")
    assert "--ci-root sigstore.json: the trusted root is malformed" in outcome.stderr


def test_without_the_extra_nothing_is_judged(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the version has no attestation that could be checked."""
    monkeypatch.setitem(sys.modules, "sigstore.verify", None)
    outcome = Outcome(capsys, *words, "owner/name")
    assert (outcome.code, outcome.stdout) == (5, "")
    assert "privml-build[sigstore]" in outcome.stderr


def test_a_ref_is_kept_as_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(ROOT)
    found = workflow_of("Owner/na.me@refs/tags/a@b", tmp_path / "root")
    assert (found.repository, found.ref) == ("Owner/na.me", "refs/tags/a@b")


# --- the gate -------------------------------------------------------------------------------------------------------


def test_the_gate_takes_an_attestation_of_this_version_and_lets_it_be_added(tmp_path: Path) -> None:
    made = published_whole.whole()
    made.publish("1.0", published_whole.build())
    made.write(tmp_path / "before")
    shutil.copytree(tmp_path / "before", tmp_path / "now")
    path = f"{NAME}/1.0/ci.sigstore.json"
    place = tmp_path / "now" / path  # noqa: F811
    said = statement(made, "1.0")
    for data, wrong in (
        (bundle(said), []),
        (BUNDLE, [f"{path}: statement.predicateType"]),
        (bundle({**said, "subject": said["subject"][1:]}), [f"{path}: it attests other artefacts"]),
        (b"{}", [f"{path}.mediaType"]),
    ):
        place.write_bytes(data)
        found = check.check(tmp_path / "now", NOW, tmp_path / "before").wrong
        assert [line[: len(start)] for line, start in zip(found, wrong, strict=True)] == wrong
    shutil.copytree(tmp_path / "now", tmp_path / "bad")
    place.write_bytes(bundle(said))
    assert check.check(tmp_path / "now", NOW, tmp_path / "bad").wrong == []


def test_a_release_may_not_name_it(fake: Fake) -> None:  # noqa: F811
    from privml.statement import release

    found = release.decode(fake.files[f"{NAME}/1.1/release.json"])
    for name in ("ci.sigstore.json", "statement.tlog-proof"):
        named = dataclasses.replace(found, files={**found.files, name: release.File.of(b"x")})
        with pytest.raises(EvidenceError, match="which no list of files may"):
            release.decode(named.encode())
    assert intoto.decode(json.dumps(statement(fake)).encode()).predicate.name == NAME
