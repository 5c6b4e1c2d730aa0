"""No verb prints control characters or forged lines from an untrusted file."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attestation_samples as samples
import image_fake
import pytest
from image_volume import gpt, volume
from test_cli_main import Outcome, as_found, image, place  # noqa: F401 - fixtures
from test_image_manifest import sample
from test_measure_pe import make_uki
from test_readers_files import DSTACK, LOG, OLD_LOG, QUOTE

from privml.base.strictjson import canonical
from privml.evidence.bundle import Bundle
from privml.evidence.capture import Capture
from privml.lock.lockfile import serialise
from privml.output.prediction import statement_of
from privml.statement import intoto

FORGED = "FORGED: accepted"
# OSC and CSI sequences in C0 and C1, line ends of every kind, bidirectional controls, an invisible character.
HOSTILE = f"\x1b]0;owned\x07\x1b[2J\x9b1m\x85\u2028\u202e\u2066\u200b\r\n{FORGED}\n\x1b[1A"

# Canonical JSON has ASCII keys.
HOSTILE_KEY = f"\x1b[2J\x07\r\n{FORGED}"


def check(outcome: Outcome, *, as_json: bool) -> None:
    for text in (outcome.stdout, outcome.stderr):
        for line in text.split("\n"):
            assert line.isprintable(), line
            assert not line.startswith(FORGED), text
    if as_json:
        assert outcome.stdout.isascii()


def with_hostile_text(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Copies of the document, each with one text or key made hostile; only the first item of a list is changed."""
    if isinstance(value, str):
        yield at, value + HOSTILE
    elif isinstance(value, list) and value:
        for place_, item in with_hostile_text(value[0], f"{at}[0]"):
            yield place_, [item, *value[1:]]
    elif isinstance(value, dict):
        for key, item in value.items():
            for place_, changed in with_hostile_text(item, f"{at}.{key}"):
                yield place_, {**copy.deepcopy(value), key: changed}
        if value:
            first, *rest = value
            yield f"{at}.{first} (key)", {first + HOSTILE_KEY: value[first], **{key: value[key] for key in rest}}


def documents(place: Path) -> dict[str, Any]:  # noqa: F811
    """Every kind of JSON that a verb reads from others, in a good form."""
    made = sample(place / "good")
    (place / "good/manifest.json").write_bytes(made.encode())
    report = json.loads(DSTACK)
    report["event_log"] = json.loads(report["event_log"]) if isinstance(report["event_log"], str) else []
    return {
        "manifest": json.loads(made.encode()),
        "prediction": json.loads(intoto.encode(statement_of(made, samples.PREDICATE))),
        "document": json.loads(samples.document().encode()),
        "lock": json.loads(serialise(image_fake.make(place / "fake").lock)),
        "collateral": samples.sim.collateral(),
        "policy": {"format": "privml-policy/v1", "tdx": {"rejected_advisories": ["INTEL-SA-1"], "min_tcb_date": ""}},
        "report": report,
        "bundle": json.loads(
            Bundle(
                samples.document().encode(),
                samples.NONCE,
                samples.SPKI,
                samples.NOW,
                {"tdx": samples.sim.collateral()},
            ).encode()
        ),
    }


VERBS = {
    "measure": [["measure", "{}"], ["measure", "{}", "--events"]],
    "explain": [["explain", "{}"], ["explain", "log", "--against", "{}"], ["explain", "{}", "--against", "log"]],
    "diff": [["diff", "{}", "log"], ["diff", "prediction.json", "{}"], ["diff", "lock.json", "{}"]],
    "verify": [
        ["verify", "{}", "--expect", "good"],
        ["verify", "document.json", "--expect", "good", "--collateral", "{}"],
        ["verify", "document.json", "--expect", "good", "--allow-simulated", "{}"],
        ["verify", "document.json", "--expect", "good", "--policy", "{}"],
    ],
    "inspect": [
        ["inspect", "{}"],
        ["inspect", "document.json", "--collateral", "{}"],
        ["inspect", "document.json", "--registers", "{}"],
    ],
}
IMAGE_VERBS = [
    ["inspect", "bad"],
    ["inspect", "bad", "--packages"],
    ["measure", "bad", "--replay", "capture"],
    ["verify", "document.json", "--expect", "bad"],
]


KINDS = ["manifest", "prediction", "document", "lock", "collateral", "policy", "report", "bundle"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_of_every_document(
    kind: str,
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: samples.NOW)
    monkeypatch.setattr("privml.cli.inspect_file.time.time", lambda: samples.NOW)
    good = documents(place)
    for name, value in good.items():
        (place / f"{name}.json").write_bytes(canonical(value))
    (place / "log").write_bytes(samples.boot_log(samples.extends(2 << 30)))
    (place / "capture").write_bytes(BINARY["a capture"])
    if kind in ("manifest", "prediction"):
        sample(place / "bad")
    tried = 0
    for at, changed in with_hostile_text(good[kind]):
        (place / "bad.json").write_bytes(json.dumps(changed).encode())
        commands = [words for each in VERBS.values() for words in each]
        if kind == "manifest":
            (place / "bad/manifest.json").write_bytes(canonical(changed))
            commands = IMAGE_VERBS
        elif kind == "prediction":
            (place / "bad/manifest.json").write_bytes((place / "good/manifest.json").read_bytes())
            (place / "bad/prediction.json").write_bytes(canonical(changed))
            (place / "bad.json").write_bytes(canonical(changed))
            commands += IMAGE_VERBS
        elif kind == "lock":
            commands = [words for words in commands if words[0] == "diff"]
        for words in commands:
            for extra in ([], ["--json"]):
                outcome = Outcome(capsys, *(word.format("bad.json") for word in words), *extra)
                assert outcome.code is not None, (at, words)
                check(outcome, as_json=bool(extra))
                tried += 1
    assert tried > 10


def test_a_manifest_that_is_accepted_is_described_without_its_control_characters(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Decoders may accept such text, so `inspect` must escape it."""
    sample(place / "image")
    for name in ("root.raw", "model.raw"):
        (place / "image" / name).write_bytes(volume("p\x1b[2J\n\u202e", None))
    (place / "image/uki.efi").write_bytes(make_uki())
    again = _resealed(place / "image")
    value = json.loads(again)
    value["kernel"] += HOSTILE
    (place / "image/manifest.json").write_bytes(canonical(value))
    outcome = Outcome(capsys, "inspect", "image")
    assert outcome.code == 0, outcome.stderr
    assert r"kernel 6.99\x1b]0;owned\x07" in outcome.stdout
    assert r"p\x1b[2J\n\u202e" in outcome.stdout
    check(outcome, as_json=False)
    check(Outcome(capsys, "inspect", "image", "--json"), as_json=True)


def _resealed(folder: Path) -> bytes:
    """The sample's manifest for the artefacts now in ``folder``."""
    from dataclasses import replace

    from privml.output.artefacts import artefact

    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    made = sample(folder)
    for name, data in kept.items():
        (folder / name).write_bytes(data)
    return replace(made, artefacts={name: artefact(folder / name) for name in made.artefacts}).encode()


NAMES = "\x1b[2J\n\x9b\u202e" + FORGED
BINARY = {
    "GPT names": gpt([(NAMES, 40, 50), ("b\x07", 51, 60)]).ljust(1 << 16, b"\0"),
    "GPT names of a partition outside the disk": gpt([(NAMES, 40, 1 << 40)]).ljust(1 << 16, b"\0"),
    "a UKI's command line": make_uki(cmdline=HOSTILE.encode("utf-8")),
    "a UKI's section names": make_uki().replace(b".osrel", b"\x1b[2J\n\x9b"),
    "a firmware log": OLD_LOG.replace(b"\0g\0r\0u\0b", b"\0\x1b\0[\0\n\0J").replace(b"grub", b"\x1b[2J"),
    "a quote": QUOTE.replace(b"-----BEGIN CERTIFICATE-----", b"\x1b]0;owned\x07\n" + b"-" * 13),
    "bytes": HOSTILE.encode() * 40,
    "an Azure report": b"HCLA" + HOSTILE.encode() * 40,
    "a capture": Capture({}, {"quote.bin": HOSTILE}).encode(),
    "text": b'{"kind": "' + HOSTILE.encode() + b'"}',
    "hexadecimal": QUOTE.hex().encode() + b"\x1b[2J",
}


@pytest.mark.parametrize("name", BINARY)
def test_control_characters_in_binary_files_are_escaped(
    name: str,
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind, value in documents(place).items():
        (place / f"{kind}.json").write_bytes(canonical(value))
    (place / "log").write_bytes(LOG)
    (place / "bad").write_bytes(BINARY[name])
    (place / "capture").write_bytes(BINARY["a capture"])
    commands = [words for each in VERBS.values() for words in each]
    for words in [*commands, ["measure", "good", "--replay", "{}"]]:
        for extra in ([], ["--json"]):
            outcome = Outcome(capsys, *(word.format("bad") for word in words), *extra)
            check(outcome, as_json=bool(extra))


@pytest.mark.parametrize(
    "recipe",
    [f"schema: 2\ndescription: {HOSTILE}\n", 'schema: 2\n"\\u001b[2J\\nFORGED: accepted": 1\n', f"# {HOSTILE}\n"],
)
def test_control_characters_in_a_recipe_are_escaped(
    recipe: str,
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    (place / "bad.yaml").write_text(recipe)
    for words in (["lint", "bad.yaml"], ["image", "bad.yaml"], ["lock", "bad.yaml", "--check"]):
        outcome = Outcome(capsys, *words)
        assert outcome.code == 3
        check(outcome, as_json=False)


def test_control_characters_in_arguments_are_escaped(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (
        [HOSTILE],
        ["measure", HOSTILE],
        ["measure", f"--{HOSTILE}"],
        ["verify", HOSTILE],
        ["explain", HOSTILE],
    ):
        outcome = Outcome(capsys, *words)
        assert outcome.code in (2, 3)
        for line in (outcome.stdout + outcome.stderr).split("\n"):
            assert line.isprintable()
