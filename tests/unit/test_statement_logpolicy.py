"""Policies for logs: the format, the quorum, and what a proof shows under one; also proofs that others made."""

from __future__ import annotations

import itertools

import pytest
from logged_fake import LOG, ORIGIN, UNWITNESSED, WITNESSED, WITNESSES, cosignature, key, policy, policy_text, prove
from published_fake import signer

from privml.base.errors import EvidenceError
from privml.statement import logpolicy
from privml.statement.logpolicy import Group
from privml.statement.tlog import LOG_KIND, Note, NoteKey, Proof

ENTRY = b"entry"

# By other code, with keys from public seeds: a log of 300 entries, three witnesses, and the proof of its first entry.
THEIR_POLICY = b"""\
log privml-build.dev/log+6baf91b8+AY77PwvLLefsLzb/Uy4YGFnflXplHzIrzJMuUz71yABC
witness w1 witness1.example/w+667feeeb+BAaShbDMXnzNvg2N8iTwILWX3/wqP0N5Y0SX6h0tLgEq
witness w2 witness2.example/w+83f78644+BFb1Dy91P9dm4uyc4XFbV5iA3mFkr6cj+QGkRtJgSmiO
witness w3 witness3.example/w+6904cf56+BEinygposIIK8L5GkcewuOEe7SnrsiYAxGIoWu0PgqkO
group all-witnesses 2 w1 w2 w3
quorum all-witnesses
"""
THEIR_PROOF = """\
c2sp.org/tlog-proof@v1
index 0
yiCHi1BAKOpQxLfsRkn52pTsCXha78zDTzNqhazrqvc=
ypXDcfvvHM1v9ZftViO1h5QVPtudEN3hotUo1Pgyta4=
5hV/8YriFlPhDOp7ICGjjUda9wPgJHGz0+yRlFxZveM=
b1sgRvsmBgPv2QFzOeTbJSRoBuplQnc/QYDpUmHJzPE=
hNCOfBeKvtymulULrJ/MYODWozuae1Mu89BOyeH2hCI=
q8goKOfEmVxcwT/Sb9SlghBsh8wU0KRDTQw0J5YZo4g=
ryowxIMoXaNjF+aDoN5jfswIh+0m46V/qOAJMYnlCMI=
HzT0MDjZ8YFwUybjrBcQlepuqQx/BbQiqqX5pXJ2JU8=
c81plTPhb8hdylcHbj5Pvq2RbV4kURaS5INDrP0ZuEw=

privml-build.dev/log
300
HQe8RJyZssrtD8pGvNjrVDO9U0siKuuFocmNDOS1vEw=

— privml-build.dev/log a6+RuEYA0FCbSa+P435qxvNO3qRyhAct44tpoPR2YsnsRGKMxzB+3iJkoxTa4tGo0u6pwHfMV2sQl0jH+GahVNGATwU=
— witness1.example/w Zn/u6wAAAABrDMkAM962RkHCRprDLe7jH7k1n808IPsmVN49POTHxpwjX0fm6v1o1DF1ryx2UQgPhk9q2LiMS2Yon8RPfK3UAHvDDQ==
— witness2.example/w g/eGRAAAAABrDMkBuXRvbo5ujjvUcsT32mQ9cGEE4+CZQrOteMZhhUffarHq2CbFnx0A+KueWs2qZSuuWk0yHeYORMmY2+E8VIytAw==
— witness3.example/w aQTPVgAAAABrDMkCpVRz9ujnSDPEynnLFHjVWv0mOw8mBNpZasQtzSbjkY5x5yerIe0KNATwdzlwfOpdhq2dmNWVL0rsVuyJysxGAA==
"""  # noqa: E501
THEIR_ENTRY = (
    b'{"format":"privml-log-entry/v1","kind":"release","name":"demo-cpu",'
    b'"payload_sha256":"d2f726fa7dc0d35d081ad4852f1fb7ebc2e54167c588e54f517ea45693511007","version":"v1"}'
)


def test_a_proof_and_policy_that_others_made_are_read() -> None:
    found = logpolicy.decode(THEIR_POLICY, "policy")
    state, witnesses = found.check(Proof.decode(THEIR_PROOF.encode()), THEIR_ENTRY)
    assert (state.origin, state.size, witnesses) == ("privml-build.dev/log", 300, ("w1", "w2", "w3"))
    assert found.met(witnesses)
    with pytest.raises(EvidenceError, match="does not lead"):
        found.check(Proof.decode(THEIR_PROOF.encode()), THEIR_ENTRY + b" ")


def test_the_example_of_the_specification_has_the_quorum_that_it_describes() -> None:
    keys = {f"{side}{at}": key(f"{side}{at}").text for side in "XY" for at in (1, 2, 3)}
    text = f"""
# two organisations
  log {LOG.text} https://log.example/
witness X1 {keys["X1"]}
\twitness\tX2 {keys["X2"]}\t https://x2.example/ \n witness X3 {keys["X3"]}
group X-witnesses 2 X1 X2 X3

witness Y1 {keys["Y1"]}
witness Y2 {keys["Y2"]}
witness Y3 {keys["Y3"]}
group Y-witnesses any Y1 Y2 Y3
   # both
group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""
    found = logpolicy.decode(text.encode(), "policy")
    assert found.groups == {
        "X-witnesses": Group(2, ("X1", "X2", "X3")),
        "Y-witnesses": Group(1, ("Y1", "Y2", "Y3")),
        "X-and-Y": Group(2, ("X-witnesses", "Y-witnesses")),
    }
    for number in range(7):
        for seen in itertools.combinations(keys, number):
            sides = [name[0] for name in seen]
            assert found.met(seen) is (sides.count("X") >= 2 and sides.count("Y") >= 1)


def test_a_quorum_is_none_a_witness_or_a_group() -> None:
    assert UNWITNESSED.met(()) and UNWITNESSED.asked == "none"
    one = policy("", "w2")
    assert (one.met(("w2",)), one.met(("w1", "w3")), one.asked) == (True, False, "witness w2")
    assert (WITNESSED.met(("w1", "w3")), WITNESSED.met(("w3",)), WITNESSED.asked) == (
        True,
        False,
        "all: 2 of w1, w2, w3",
    )
    # A name that is no witness of the policy adds nothing.
    assert not WITNESSED.met(("w3", "x", "none", "all-others"))


LINE = f"log {LOG.text}\n"
MORE = NoteKey("w9.example/w", key("w1").key, 4).text
OTHER = NoteKey("other.example", LOG.key, LOG_KIND).text
LONE = NoteKey("lone.example", LOG.key, 4).text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "its last line has no end"),
        ("\n", "no quorum"),
        ("quorum none\n", "no log, expected at least one"),
        (LINE, "no quorum; `quorum none` asks for no witness"),
        (policy_text()[:-1], "its last line has no end"),
        (policy_text() + "quorum all\n", "policy:7: a second quorum"),
        (policy_text() + "quorum none\n", "a second quorum"),
        (policy_text().replace("quorum all", "quorum other"), "`other` is no witness or group of a line above"),
        (policy_text().replace("quorum all", "Quorum all"), "policy:6: got `Quorum` and 1 more words"),
        (policy_text().replace("quorum all", "quorum all w1"), "got `quorum` and 2 more words"),
        (policy_text().replace("quorum all", "quorum"), "got `quorum` and 0 more words"),
        (f"quorum w1\n{policy_text('', 'none')}", "policy:1: `w1` is no witness"),
        (policy_text("group all 0 w1 w2"), "got `0`, expected all, any, or 1 to 2"),
        (policy_text("group all 3 w1 w2"), "got `3`"),
        (policy_text("group all 02 w1 w2"), "got `02`"),
        (policy_text("group all +1 w1 w2"), "got `\\+1`"),
        (policy_text("group all \u0662 w1 w2"), "expected all, any"),
        (policy_text("group all most w1 w2"), "got `most`"),
        (policy_text("group all 1"), "got `group` and 2 more words"),
        (policy_text("group all any w1 w1"), "`w1` is a member twice"),
        (policy_text("group a any w1\ngroup all any w1 w2"), "`w1` is a member twice"),
        (policy_text("group a any w1\ngroup b any a\ngroup all any a"), "`a` is a member twice"),
        (policy_text("group all any all"), "`all` is no witness or group of a line above"),
        (policy_text("group a any none", "a"), "`none` is no witness"),
        (policy_text("group none any w1", "none"), "the name `none` is taken"),
        (policy_text("group w1 any w2", "w1"), "the name `w1` is taken"),
        (policy_text().replace("witness w2", "witness w1"), "the name `w1` is taken"),
        (policy_text().replace("witness w2", "witness none"), "the name `none` is taken"),
        (policy_text(f"witness w9 {MORE}", "w9"), "the key of w9.example/w is there twice"),
        (f"log {OTHER}\n{policy_text()}", "is there twice"),
        (policy_text(f"witness w9 {LONE}", "w9"), "the key of lone.example is there twice"),
        (policy_text().replace("log ", "log log "), "key of a note"),
        (policy_text().replace(LOG.text, key("w7").text), r"not of kind 1 \(Ed25519 over the text\)"),
        (policy_text().replace(key("w2").text, LOG.text), r"not of kind 4 \(Ed25519 cosignature v1\)"),
        (policy_text().replace(" ", "\r"), "is 0x0d, expected text without control characters"),
        (policy_text() + "# \0\n", "is 0x00"),
        (policy_text() + "# \x7f\n", "is 0x7f"),
        (policy_text().replace("w1 ", "w1\u00a0", 1), "got `witness`"),
        (policy_text() + "#" * (1 << 16) + "\n", "more than 65536 bytes"),
    ],
)  # fmt: skip
def test_a_malformed_policy_is_refused(text: str, what: str) -> None:
    with pytest.raises(EvidenceError, match=what):
        logpolicy.decode(text.encode(), "policy")


def test_names_are_any_octets() -> None:
    data = (
        policy_text().encode().replace(b"w2", "zeugin-\u00e4".encode(), 1).replace(b"w2 ", "zeugin-\u00e4 ".encode())
    )
    data = data.replace("zeugin-\u00e4.".encode(), b"w2.")
    assert "zeugin-\u00e4" in logpolicy.decode(data, "policy").witnesses
    raw = policy_text().encode().replace(b"witness w3", b"witness \xff").replace(b"w2 w3", b"w2 \xff")
    assert [*logpolicy.decode(raw, "policy").witnesses] == ["w1", "w2", "\\xff"]


def test_only_witnesses_of_the_policy_count_and_each_once() -> None:
    for number in range(4):
        for names in itertools.combinations(WITNESSES, number):
            proof = Proof.decode(prove(ENTRY, [*names, "stranger"]))
            assert WITNESSED.check(proof, ENTRY)[1] == names
    with pytest.raises(EvidenceError, match="2 signatures by"):
        WITNESSED.check(Proof.decode(prove(ENTRY, ["w1", "w1"])), ENTRY)


def test_a_bad_signature_of_a_known_key_spoils_the_checkpoint() -> None:
    proof = Proof.decode(prove(ENTRY, ["w1", "w2"]))
    other = cosignature("w3", Note.decode(proof.checkpoint).text + "x")
    for line in (other, key("w3").line(bytes(72)), key("w3").line(b"short"), key("w3").line(b"\xff" * 72)):
        bad = Proof(proof.index, proof.hashes, proof.checkpoint + line.encode())
        with pytest.raises(EvidenceError, match=r"the signature of w3\.example/w is not that of its key"):
            WITNESSED.check(bad, ENTRY)


def test_a_time_that_is_not_one_is_no_cosignature() -> None:
    proof = Proof.decode(prove(ENTRY))
    line = cosignature("w1", Note.decode(proof.checkpoint).text, 1 << 63)
    with pytest.raises(EvidenceError, match="is not that of its key"):
        WITNESSED.check(Proof(proof.index, proof.hashes, proof.checkpoint + line.encode()), ENTRY)


def test_a_signature_over_the_text_alone_is_no_cosignature() -> None:
    """The log's owner cannot pass off another signature of the witness's key."""
    proof = Proof.decode(prove(ENTRY))
    text = Note.decode(proof.checkpoint).text
    line = key("w1").line(bytes(8) + signer("w1").sign(text.encode()))
    with pytest.raises(EvidenceError, match="is not that of its key"):
        WITNESSED.check(Proof(proof.index, proof.hashes, proof.checkpoint + line.encode()), ENTRY)


def test_a_log_is_known_by_key_and_origin() -> None:
    with pytest.raises(EvidenceError, match=r"signed by no log of the policy; it is of example\.org/measurements"):
        WITNESSED.check(Proof.decode(prove(ENTRY, WITNESSES, by="other")), ENTRY)
    both = logpolicy.decode(f"log {key('other', LOG_KIND).text}\n{policy_text()}".encode(), "policy")
    for by in ("log", "other"):
        state, found = both.check(Proof.decode(prove(ENTRY, WITNESSES, by=by)), ENTRY)
        assert (state.origin, found) == (ORIGIN, WITNESSES)
