"""`log witness`: what is sent to witnesses, which answers count, and that callers then see the cosignatures."""

from __future__ import annotations

import base64
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import logged_fake
import pytest
import witness_fake
from published_fake import NOW
from test_cli_main import Outcome
from test_log_command import PROOF, Desk, desk  # noqa: F401 - fixture
from witness_fake import Answer, Witness, continues

from privml.base.times import time_text
from privml.publish import log as logs
from privml.publish import witness as client
from privml.statement import tlog
from privml.statement.tlog import Note

pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture
def pair() -> Iterator[tuple[Witness, Witness]]:
    with witness_fake.serving("w1") as first, witness_fake.serving("w2") as second:
        yield first, second


class Asking:
    """A log with two witnesses that know it, and the policy of its owner."""

    def __init__(self, desk: Desk, pair: tuple[Witness, Witness]) -> None:  # noqa: F811
        self.desk = desk
        self.first, self.second = pair
        for each in pair:
            each.logs.append(desk.log.key)
        self.policy()

    def policy(self, quorum: str = "group all all w1 w2\nquorum all\n", log: str = "") -> None:
        rows = f"log {log or self.desk.log.key.text}\n{self.first.row}{self.second.row}{quorum}"
        Path("policy.txt").write_text(rows)

    def ask(self, *words: str) -> Outcome:
        return self.desk.run("witness", "--policy", "policy.txt", *words)

    @property
    def cosigned(self) -> list[str]:
        note = Note.decode((self.desk.folder / logs.CHECKPOINT).read_bytes())
        return [name for name in ("w1", "w2") if note.signed_by(logged_fake.key(name))]


@pytest.fixture
def asking(desk: Desk, pair: tuple[Witness, Witness]) -> Asking:  # noqa: F811
    return Asking(desk, pair)


def test_a_new_witness_cosigns_at_once_and_the_proofs_show_it(asking: Asking) -> None:
    outcome = asking.ask()
    assert outcome.code == 0, outcome.stderr
    when = time_text(NOW)
    assert outcome.stdout.splitlines() == [
        "measurements: 3 entries, cosigned by w1, w2",
        f"  w1: cosigned at {when}",
        f"  w2: cosigned at {when}",
    ]
    assert asking.cosigned == ["w1", "w2"]
    proof = (asking.desk.folder / PROOF).read_bytes()
    assert proof.endswith((asking.desk.folder / logs.CHECKPOINT).read_bytes())
    [(body, status)] = asking.first.asked
    assert (body.startswith(b"old 0\n\nexample.org/measurements\n3\n"), status) == (True, 200)
    assert asking.desk.run("audit").code == 0


def test_a_log_that_grew_is_proven_from_what_the_witness_has(asking: Asking) -> None:
    assert asking.ask().code == 0
    asking.desk.publish("1.1")
    assert asking.desk.append().code == 0
    assert asking.cosigned == []
    assert asking.ask().code == 0
    assert asking.cosigned == ["w1", "w2"]
    assert [status for _, status in asking.first.asked] == [200, 409, 200]
    body = asking.first.asked[-1][0]
    assert body.startswith(b"old 3\n")
    assert len(body.partition(b"\n\n")[0].split(b"\n")) == 1 + len(tlog.consistency(asking.desk.log.rows[0], 3))
    assert asking.first.cosigned == {"example.org/measurements": (5, asking.desk.log.root(5))}


def test_who_cosigned_is_not_asked_again(asking: Asking) -> None:
    assert asking.ask().code == 0
    before = {path: path.read_bytes() for path in asking.desk.folder.rglob("*") if path.is_file()}
    outcome = asking.ask()
    assert outcome.code == 0
    assert "w1: cosigned already at " in outcome.stdout
    assert len(asking.first.asked) == len(asking.second.asked) == 1
    assert before == {path: path.read_bytes() for path in asking.desk.folder.rglob("*") if path.is_file()}


def test_a_lost_answer_is_asked_for_again(asking: Asking) -> None:
    """The witness has this very checkpoint: it cosigns it again without a proof."""
    assert asking.ask().code == 0
    note = (asking.desk.folder / logs.CHECKPOINT).read_bytes()
    (asking.desk.folder / logs.CHECKPOINT).write_bytes(b"".join(note.splitlines(keepends=True)[:5]))
    assert asking.cosigned == []
    assert asking.ask().code == 0
    assert [status for _, status in asking.first.asked] == [200, 409, 200]
    assert asking.first.asked[-1][0].startswith(b"old 3\n\n")
    assert (asking.desk.folder / logs.CHECKPOINT).read_bytes() == note


def test_the_caller_sees_the_witnesses(asking: Asking) -> None:
    """The policy that asked is the policy that verifies."""
    from privml.statement import logpolicy
    from privml.statement.tlog import Proof

    assert asking.ask().code == 0
    policy = logpolicy.decode(Path("policy.txt").read_bytes(), "policy.txt")
    state, witnesses = policy.check(Proof.decode((asking.desk.folder / PROOF).read_bytes()), asking.desk.log.raw[1])
    assert (state.size, witnesses, policy.met(witnesses)) == (3, ("w1", "w2"), True)


def test_the_json_says_who_cosigned_and_why_others_did_not(asking: Asking) -> None:
    asking.second.logs.clear()
    asking.policy("group any any w1 w2\nquorum any\n")
    outcome = asking.ask("--json")
    assert outcome.code == 0, outcome.stderr
    told = json.loads(outcome.stdout)
    assert (told["entries"], told["cosigned"], told["quorum"]) == (3, ["w1"], True)
    assert [(row["name"], row["at"], bool(row["objection"])) for row in told["witnesses"]] == [
        ("w1", NOW, False),
        ("w2", None, True),
    ]


def test_too_few_witnesses_are_exit_5_and_what_was_signed_stays(asking: Asking) -> None:
    asking.second.logs.clear()
    outcome = asking.ask()
    assert outcome.code == 5
    assert "cosigned by w1, expected all: 2 of w1, w2" in outcome.stderr
    assert "w2: http://127.0.0.1:" in outcome.stderr
    assert "it does not know this log: ask its operator to add the log's key" in outcome.stderr
    assert asking.cosigned == ["w1"]


def begin_again(desk: Desk, *, longer: bool) -> None:  # noqa: F811
    """Another log by the same key: of the same length, or longer than what was cosigned."""
    shutil.rmtree(desk.folder / "log")
    other = desk.folder / "demo-cpu/0.1/release.json"
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(b"{}")
    if not longer:
        shutil.rmtree(desk.folder / "demo-cpu/1.0")
    assert desk.append("--origin", "example.org/measurements").code == 0


@pytest.mark.parametrize(
    ("longer", "said"),
    [
        (True, "the 4 entries do not continue the 3 that it cosigned: the log was cut or begun again"),
        (False, "it cosigned another log of 3 entries: somebody signs two"),
    ],
)
def test_a_second_log_is_refused_by_witnesses_and_said_aloud(asking: Asking, longer: bool, said: str) -> None:
    assert asking.ask().code == 0
    begin_again(asking.desk, longer=longer)
    outcome = asking.ask()
    assert outcome.code == 8
    assert f"w1: {asking.first.url}/prefix: {said}" in outcome.stderr
    assert asking.cosigned == []


def test_an_old_copy_of_the_log_is_refused(asking: Asking) -> None:
    shutil.copytree("measurements", "old")
    asking.desk.publish("1.1")
    assert asking.desk.append().code == 0
    assert asking.ask().code == 0
    outcome = asking.desk.run("witness", "old", "--policy", "policy.txt")
    assert outcome.code == 8
    assert "it cosigned 5 entries, and this log has 3: this copy is old, or there are two logs" in outcome.stderr


def by_other(answer: Answer) -> Answer:
    return answer[0], answer[1], answer[2].replace(b"w1.example/w", b"w9.example/w")


def changed(answer: Answer) -> Answer:
    name, encoded = answer[2].decode().rsplit(" ", 1)
    data = bytearray(base64.b64decode(encoded))
    data[-1] ^= 1
    return answer[0], answer[1], f"{name} {base64.b64encode(bytes(data)).decode()}\n".encode()


@pytest.mark.parametrize(
    ("bend", "said", "requests"),
    [
        (by_other, "its answer has no signature by w1.example/w+", 1),
        (changed, "the signature of w1.example/w is not that of its key", 1),
        (lambda it: (200, "text/plain", it[2] * 2), "2 signatures by w1.example/w+", 1),
        (lambda _: (200, "text/plain", b""), "its answer has no signature by", 1),
        (lambda _: (200, "text/plain", b"nonsense\n"), "a line after the blank one is not a signature", 1),
        (lambda it: (200, "text/plain", it[2] + "— x y\n".encode()), "signature of a note", 1),
        (lambda _: (200, "text/plain", b"x" * 70_000), "the answer is larger than 65536 bytes", 1),
        (lambda _: (409, "text/x.tlog.size", b"0\n"), "status 409 after 0 entries without another size", 1),
        (lambda _: (409, "text/x.tlog.size", b"03\n"), "status 409 after 0 entries without another size", 1),
        (lambda _: (409, "text/plain", b"1\n"), "status 409 after 0 entries without another size", 1),
        (lambda _: (302, "text/plain", b""), "status 302, expected 200", 1),
        (lambda _: (422, "text/plain", b""), "status 422, expected 200", 1),
        (lambda _: (400, "text/plain", b""), "status 400, expected 200: the request is malformed to it", 1),
        (lambda _: (403, "text/plain", b""), "it knows another key of this log", 1),
        (lambda _: (429, "text/plain", b""), "it was asked too often", 1),
        (lambda _: (500, "text/plain", b"\x1b[2J"), "status 500, expected 200", 1),
    ],
)
def test_an_answer_that_is_not_a_cosignature_is_said_and_not_taken(
    bend: Callable[[Answer], Answer], said: str, requests: int, asking: Asking
) -> None:
    asking.first.bend = bend
    outcome = asking.ask()
    assert outcome.code == 5
    assert said in outcome.stderr
    assert "\x1b" not in outcome.stderr
    assert len(asking.first.asked) == requests
    assert asking.cosigned == ["w2"]
    assert asking.desk.run("audit").code == 0


def test_a_witness_that_names_another_size_each_time_is_left(asking: Asking) -> None:
    sizes = iter([b"1\n", b"2\n", b"1\n", b"2\n", b"1\n"])
    asking.first.bend = lambda _: (409, "text/x.tlog.size", next(sizes))
    outcome = asking.ask()
    assert (outcome.code, "it names another size each time, 4 times" in outcome.stderr) == (5, True)
    assert len(asking.first.asked) == 4


def test_lines_of_unknown_keys_are_left_out(asking: Asking) -> None:
    text = Note.decode(asking.desk.log.checkpoint).text
    asking.first.bend = lambda it: (it[0], it[1], logged_fake.cosignature("w3", text).encode() + it[2])
    assert asking.ask().code == 0
    note = Note.decode((asking.desk.folder / logs.CHECKPOINT).read_bytes())
    assert [name for name, _ in note.signatures] == ["example.org/measurements", "w1.example/w", "w2.example/w"]


def test_nobody_there_and_nobody_who_answers(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privml.publish.witness.TIMEOUT", 0.5)
    monkeypatch.setattr(client.ask, "__defaults__", (0.5,))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asking.first.url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with socket.create_server(("127.0.0.1", 0)) as closed:
            asking.second.url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        asking.policy()
        outcome = asking.ask()
    assert outcome.code == 5
    assert "cosigned by nobody, expected all: 2 of w1, w2" in outcome.stderr
    assert "w1: http://127.0.0.1" in outcome.stderr and "no complete answer within 0.5 s" in outcome.stderr
    assert "Connection refused" in outcome.stderr


@pytest.mark.parametrize(
    ("rows", "code", "said"),
    [
        ("", 2, "--policy: nowhere.txt cannot be read"),
        ("quorum none\n", 9, "no log, expected at least one"),
        (f"log {logged_fake.key('other', tlog.LOG_KIND).text}\nquorum none\n", 2, "does not have this log"),
        ("LOG\nquorum none\n", 2, "no witness in policy.txt has an address"),
        (f"LOG\nwitness w {logged_fake.key('w1').text} ftp://x/\nquorum w\n", 2, "expected https://HOST"),
        (f"LOG\nwitness w {logged_fake.key('w1').text} https://a:b@x/\nquorum w\n", 2, "holds a user or password"),
    ],
)
def test_a_policy_that_cannot_be_used(rows: str, code: int, said: str, asking: Asking) -> None:
    file = "policy.txt" if rows else "nowhere.txt"
    Path("policy.txt").write_text(rows.replace("LOG", f"log {asking.desk.log.key.text}"))
    outcome = asking.desk.run("witness", "--policy", file)
    assert (outcome.code, outcome.stdout) == (code, "")
    assert said in outcome.stderr
    assert asking.first.asked == []


def test_a_damaged_log_is_sent_to_nobody(asking: Asking) -> None:
    (asking.desk.folder / "log/tile/0/000.p/3").write_bytes(b"x")
    assert asking.ask().code == 9
    shutil.rmtree(asking.desk.folder / "log")
    assert asking.ask().code == 2
    assert asking.first.asked == []


# --- proofs of consistency ------------------------------------------------------------------------------------------


def test_every_earlier_size_of_every_small_tree_is_proven_and_no_other() -> None:
    leaves = [tlog.leaf_hash(bytes([number])) for number in range(40)]
    roots = [tlog.root_of(leaves[:size]) for size in range(41)]
    for size in range(1, 41):
        assert tlog.consistency(leaves[:size], 0) == ()
        for before in range(1, size + 1):
            proof = tlog.consistency(leaves[:size], before)
            assert continues(before, size, roots[before], roots[size], proof), (before, size)
            assert not continues(before, size, roots[before - 1], roots[size], proof)
            for at in range(len(proof)):
                other = (*proof[:at], bytes(32), *proof[at + 1 :])
                assert not continues(before, size, roots[before], roots[size], other)
