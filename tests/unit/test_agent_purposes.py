"""Each purpose is quoted at its own stage: `key-release` in mid-boot, and only if a model is encrypted."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_guest import LIMIT, MRTD, TPM_LOG, a_config, driven, encrypted, guest

from privml.agent.attestorclient import AttestorClient, parts_of
from privml.agent.attestorstate import Attestor
from privml.agent.boot import Outcome as Worked
from privml.agent.wire import RefusedRequest
from privml.base.errors import EvidenceError, HostError
from privml.client import attested
from privml.events import stages
from privml.events.agent import digests, encode_log, failed_event
from privml.events.configuration import Config, decode, encode
from privml.events.event import Evidence
from privml.events.registers import TDX_REGISTERS, ZERO
from privml.events.replay import replay_digests, replay_tpm_as_rtmrs
from privml.events.stages import KEY_RELEASE, SERVE, STAGES, Stage
from privml.events.tcg import parse_log
from privml.evidence import merkle
from privml.evidence.document import Document
from privml.evidence.sections import TLS_KEY, Key, Keys
from privml.evidence.tdx import signature
from privml.sim import quote as sim
from privml.sim.tee import SimulatedTee
from privml.statement import predicate as predicates
from privml.statement.launch import Accepted, MeasuredLaunch, TdMachine
from privml.statement.predicate import Predicate
from privml.verify.anchor import Built, Expected
from privml.verify.policy import Policy
from privml.verify.verdict import Outcome, Verdict

KEYS = Keys((Key(*TLS_KEY, b"k" * 32),)).encode()
TREE = merkle.build([bytes(range(32)), bytes(32)])
NONCE = bytes(range(32))


@pytest.fixture
def tee(tmp_path: Path) -> SimulatedTee:
    (tmp_path / "tpm.log").write_bytes(TPM_LOG)
    (tmp_path / "mrtd").write_text(MRTD.hex())
    return SimulatedTee(tpm_log=tmp_path / "tpm.log", mrtd=tmp_path / "mrtd")


@pytest.fixture
def config() -> Config:
    """A configuration with an encrypted model."""
    return decode(encode(a_config(**encrypted())))


def quoted(attestor: Attestor) -> set[str]:
    """The purposes that can be quoted now; the others must be refused as not ready."""
    found = set()
    for purpose in (SERVE, KEY_RELEASE):
        try:
            attestor.quote(TREE.root, purpose)
        except RefusedRequest as refused:
            assert refused.code == "not-ready"
        else:
            found.add(purpose)
    return found


def predicted(config: Config) -> Predicate:
    """The prediction of a build."""
    events = stages.sequence(config)
    runtime = ZERO if config.rtmr3 == "unused" else replay_digests(digests(events))
    values = {**replay_tpm_as_rtmrs(parse_log(TPM_LOG)), "mrtd": MRTD, "rtmr3": runtime}
    registers = {register: Accepted((values[register],), Evidence.SOURCE) for register in TDX_REGISTERS}
    launch = MeasuredLaunch("tdx", "qemu", TdMachine(2, 2 << 30), registers)
    made = Predicate(config.name, config.variant, bytes(32), events, stages.purposes(config), launches=(launch,))
    return predicates.decode(predicates.encode(made))


def judged(parts: dict[str, object], config: Config, purpose: str) -> Verdict:
    """The verifier's judgement of a document made of ``parts``, for ``purpose``."""
    document = Document(nonce=NONCE, path=TREE.paths[0], **parts)  # type: ignore[arg-type]
    return attested.judge(
        document.encode(),
        Expected(predicted(config), Built("out/x")),
        Policy(
            purpose=purpose,
            allow_simulated=signature.root_der(sim.root_pem()),
            allow_unused_runtime=config.rtmr3 == "unused",
        ),
        now=int(time.time()),
        nonce=NONCE,
        tls_spki_sha256=Keys.decode(document.keys).find(*TLS_KEY),
    ).verdict


def proves(parts: dict[str, object], config: Config, purpose: str) -> None:
    """Require the verifier to accept the document for ``purpose`` only."""
    verdict = judged(parts, config, purpose)
    assert (verdict.outcome, verdict.refusals) == (Outcome.ACCEPTED_SIMULATED, ())
    other = {SERVE: KEY_RELEASE, KEY_RELEASE: SERVE}[purpose]
    codes = {refusal.code for refusal in judged(parts, config, other).refusals}
    assert {"purpose", "stage", "rtmr3", "agent-events"} <= codes


def decoded(parts: dict[str, object]) -> dict[str, object]:
    return {name: base64.b64decode(value) if isinstance(value, str) else value for name, value in parts.items()}


def test_each_purpose_can_be_quoted_only_at_its_stage(tee: SimulatedTee, config: Config) -> None:
    attestor = Attestor(config, tee)
    attestor.keys(KEYS)
    seen: list[tuple[str, int, set[str]]] = []
    for number, step in enumerate(stages.steps(config)):
        if number:
            attestor.stage(step.stage.name)
        seen.append((step.stage.name, 0, quoted(attestor)))
        for count, event in enumerate(step.events, 1):
            attestor.extend(event)
            seen.append((step.stage.name, count, quoted(attestor)))
    assert [name for name, count, _ in seen if not count] == [stage.name for stage in STAGES]
    assert [(name, count, found) for name, count, found in seen if found] == [
        ("keys", 0, {KEY_RELEASE}),
        ("ready", 1, {SERVE}),
    ]
    assert quoted(attestor) == {SERVE}  # from then on


def test_without_an_encrypted_model_nothing_is_quoted_for_key_release(tee: SimulatedTee) -> None:
    config = decode(encode(a_config()))
    attestor = driven(Attestor(config, tee), config, KEYS, until="keys")
    assert quoted(attestor) == set()
    for step in stages.steps(config)[7:]:
        attestor.stage(step.stage.name)
        for event in step.events:
            attestor.extend(event)
    with pytest.raises(RefusedRequest, match="none for `key-release` in stage `ready`"):
        attestor.quote(TREE.root, KEY_RELEASE)


def test_quotes_prove_the_prefix_of_their_purpose(tee: SimulatedTee, config: Config) -> None:
    attestor = driven(Attestor(config, tee), config, KEYS, until="keys")
    early = decoded(attestor.quote(TREE.root, KEY_RELEASE))
    proves(early, config, KEY_RELEASE)
    for step in stages.steps(config)[7:]:
        attestor.stage(step.stage.name)
        for event in step.events:
            attestor.extend(event)
    late = decoded(attestor.quote(TREE.root, SERVE))
    proves(late, config, SERVE)
    assert late["eventlog"].startswith(early["eventlog"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("until", ["keys", "model"])
def test_a_failure_once_quotes_are_possible_is_extended(tee: SimulatedTee, config: Config, until: str) -> None:
    attestor = driven(Attestor(config, tee), config, KEYS, until=until)
    at = [stage.name for stage in STAGES].index(until) + 1
    extended = [event for step in stages.steps(config)[:at] for event in step.events]
    attestor.fail("the volume is wrong")
    assert tee.rtmr3() == replay_digests(digests([*extended, failed_event()]))
    with pytest.raises(RefusedRequest) as caught:
        attestor.quote(TREE.root, KEY_RELEASE)
    assert caught.value.code == "failed"


def test_unused_rtmr3_stays_zero_at_every_stage(tee: SimulatedTee) -> None:
    config = decode(encode(a_config(**encrypted(rtmr3="unused"))))
    attestor = driven(Attestor(config, tee), config, KEYS, until="keys")
    parts = decoded(attestor.quote(TREE.root, KEY_RELEASE))
    assert parts["eventlog"] == encode_log(stages.sequence(config)[:1])
    assert judged(parts, config, KEY_RELEASE).outcome is Outcome.ACCEPTED_SIMULATED
    assert tee.rtmr3() == ZERO


def test_a_boot_quotes_for_key_release_in_the_middle_and_for_serve_at_the_end() -> None:
    """With processes and sockets as in the guest: the boot runs the stages, the attestor's process quotes."""
    with guest(a_config(**encrypted())) as made:
        client = AttestorClient(made.layout)
        quotes: list[tuple[str, str, dict[str, object]]] = []

        def try_quotes(stage: str) -> None:
            for purpose, quote in (
                (SERVE, lambda: client.quote(TREE.root, timeout=LIMIT)),
                (KEY_RELEASE, lambda: parts_of(client.release_quote(TREE.root))),
            ):
                try:
                    quotes.append((stage, purpose, dict(quote())))
                except RefusedRequest as refused:
                    assert refused.code == "not-ready"
                except HostError:
                    assert (stage, purpose) == ("after", KEY_RELEASE)  # its socket is gone

        boot = made.boot(work={"keys": lambda: ("ok", "released"), "model": lambda: ("ok", "opened")})

        def watched(name: str, work: Callable[[], Worked]) -> Callable[[], Worked]:
            def both() -> Worked:
                if name != "platform":
                    try_quotes(name)
                result = work()
                if name != "platform":
                    try_quotes(name)
                return result

            return both

        boot._work = {name: watched(name, work) for name, work in boot._work.items()}
        assert boot.run(), made.said
        try_quotes("after")
        assert [(stage, purpose) for stage, purpose, _ in quotes] == [
            ("keys", KEY_RELEASE), ("keys", KEY_RELEASE), ("after", SERVE),
        ]  # fmt: skip
        config = decode(made.layout.config.read_bytes())
        proves(quotes[0][2], config, KEY_RELEASE)
        proves(quotes[-1][2], config, SERVE)


def test_boot_and_attestor_must_agree_on_the_stages() -> None:
    longer = (*STAGES[:4], Stage("later"), *STAGES[4:])
    with guest() as made:
        assert not made.boot(table=longer, work={"later": lambda: ("ok", "")}).run()
        assert made.said[-1] == ("privml: stage later failed: attestor: stage: got `later`, expected `gpu`")


def test_without_keys_quotes_still_end_with_their_stage(tee: SimulatedTee, config: Config) -> None:
    attestor = driven(Attestor(config, tee), config, None, until="services")
    with pytest.raises(RefusedRequest, match="stage `keys`: no keys have been set"):
        attestor.stage("keys")


def test_an_inconsistent_table_is_refused_at_start(tee: SimulatedTee, config: Config) -> None:
    with pytest.raises(ValueError, match="last stage has no purpose"):
        Attestor(config, tee, table=(*STAGES, Stage("more")))
    with pytest.raises(EvidenceError):
        Attestor(config, tee).keys(b"{}")
