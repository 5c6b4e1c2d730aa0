"""The cases: one change each, with the outcome and exactly the refusal codes that a verifier must give."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.negative import device_cases, forge, pki
from tests.negative.case import (
    HONEST,
    MALFORMED,
    PLATFORM,
    REFUSED,
    SIMULATED,
    Case,
    guest,
    malformed,
    sent,
    with_,
)
from tests.negative.forge import EVENTS, NONCE, REMOVED, SPKI, Guest, jcs
from tests.negative.pki import Certificate, Platform

FLIPPED = b"\x5a"


def platform(about: str, *codes: str, **changes: Any) -> Case:
    """A guest on another platform, with that platform's own collateral."""
    other = PLATFORM.with_(**changes)
    return Case(about, HONEST.with_(platform=other).document(), REFUSED, codes, collateral=other.collateral())


def collateral(about: str, *codes: str, **fields: str) -> Case:
    """The honest guest with other collateral fields."""
    return with_(about, *codes, collateral={**PLATFORM.collateral(), **fields})


def from_platform(about: str, *codes: str, **changes: Any) -> Case:
    """The honest guest with the collateral of another platform."""
    return with_(about, *codes, collateral=PLATFORM.with_(**changes).collateral())


def swap(first: str, second: str) -> dict[str, Any]:
    fields = HONEST.fields()
    return {first: fields[second], second: fields[first]}


def cut(name: str, at: int) -> str:
    return forge.b64(base64.b64decode(HONEST.fields()[name])[:at])


def log_of(*events: tuple[str, bytes], numbers: tuple[int, ...] | None = None) -> bytes:
    lines = [json.loads(line) for line in forge.agent_lines(events)]
    for at, line in enumerate(lines):
        line["seq"] = at if numbers is None else numbers[at]
    return b"".join(jcs(line) + b"\n" for line in lines)


def certified(*blocks: bytes, signer: str = "pck") -> dict[str, Any]:
    """A quote with this PEM chain."""
    return {"certification": PLATFORM.certification(b"".join(blocks), signer)}


CONFIG, MODEL, ENGINE, READY = EVENTS
PCK, PCK_CA, ROOT = PLATFORM.chain()
SGX = PLATFORM.sgx_extension()
TCB = pki.issue(Certificate("TCB Signing", "tcb signing", serial=4))
STRANGER_ROOT = pki.issue(Certificate("Root CA", "stranger", issuer_key="stranger", serial=1, ca=True))
COLLATERAL = PLATFORM.collateral()
OTHER_CALLER = forge.leaf(bytes(32))
LATE = int(datetime(2050, 6, 1, tzinfo=UTC).timestamp())
EARLY = int(datetime(2025, 6, 1, tzinfo=UTC).timestamp())
VECTORS = Path(__file__).resolve().parents[1] / "vectors/attestation"
PUBLISHED = (VECTORS / "tdx_quote.bin").read_bytes()
PUBLISHED_COLLATERAL = (VECTORS / "tdx_quote_collateral.json").read_text()
PUBLISHED_TIME = 1_750_420_000


def controls() -> dict[str, Case]:
    """Honest evidence, which must be accepted."""

    def accepted(about: str, given: Guest = HONEST, **changes: Any) -> Case:
        return replace(Case(about, given.document(), SIMULATED), **changes)

    two_pass = HONEST.with_(mrtd=forge.MRTD_TWO_PASS)
    key_release = HONEST.with_(purpose="key-release", stage="keys", events=EVENTS[:1])
    return {
        "honest": accepted("the honest guest"),
        "honest-other-shape": accepted("the image's other machine size", HONEST.with_(memory=2 << 30)),
        "honest-two-pass": accepted("the second accepted MRTD", two_pass),
        "honest-alone": accepted("a nonce that is alone in its quote", HONEST.with_(siblings=())),
        "honest-right": accepted(
            "a nonce that is right of another", HONEST.with_(siblings=(("left", OTHER_CALLER),))
        ),
        "honest-key-release": accepted(
            "the purpose that was asked for", key_release, purpose="key-release"
        ),
        "honest-no-log": accepted("no boot log, which only explains", HONEST.with_(bootlog=b"")),
        "honest-false-log": accepted("a boot log of something else, which only explains", HONEST.with_(bootlog=b"x")),
        "honest-padded": accepted("zeros behind the quote, as services send them", HONEST.with_(after=bytes(64))),
        "honest-v5": accepted("a version 5 quote with a TD 1.5 report", HONEST.with_(version=5)),
        "honest-carried": replace(
            Case("collateral in the document", b"", SIMULATED),
            document=HONEST.document(collateral={"tdx": COLLATERAL}),
            collateral=None,
        ),
        "honest-more-keys": accepted("another key of the guest", HONEST.with_(keys=more_keys())),
        "honest-spaced": accepted(
            "other JSON spelling", document=json.dumps(HONEST.fields(), indent=1).encode()
        ),
    }  # fmt: skip


def more_keys() -> bytes:
    rows = [("receipt", "ed25519", "77" * 32), ("tls", "spki-sha256", SPKI.hex())]
    return jcs({"v": 2, "keys": [{"use": use, "alg": alg, "key": key} for use, alg, key in rows]})


def binding() -> dict[str, Case]:
    """Nonce, path, sections and the connection's key."""
    other = HONEST.with_(nonce=bytes(31) + b"\1")
    honest = HONEST.fields()
    foreign = other.fields()
    return {
        "nonce-other": with_("a document for another caller", "nonce", document=other.document()),
        "nonce-replayed": with_("the caller's nonce is a new one", "nonce", nonce=bytes(31) + b"\2"),
        "nonce-none": with_("the caller has no nonce", "nonce", nonce=None),
        "nonce-put-in": sent("another nonce put into the document", "nonce", "report-data", nonce="42" * 32),
        "nonce-own-put-in": with_(
            "the caller's nonce put into a document for another", "report-data",
            document=other.document(nonce=NONCE.hex()),
        ),
        "path-gone": sent("the path is left out", "report-data", path=[]),
        "path-side": sent(
            "a sibling on the other side", "report-data", path=[{"side": "left", "hash": OTHER_CALLER.hex()}]
        ),
        "path-hash": sent("another sibling", "report-data", path=[{"side": "right", "hash": "00" * 32}]),
        "path-longer": sent("one step more", "report-data", path=[*honest["path"], *honest["path"]]),
        "path-elsewhere": guest(
            "a path that the quote's root is not the end of", "report-data",
            report_data=Guest(siblings=()).bound(),
        ),
        "key-other": with_("another key holds the connection", "tls-key", spki=bytes(32)),
        "key-none": with_("the caller has no connection", "tls-key", spki=None),
        "key-not-attested": guest("no TLS key among the keys", "tls-key", keys=jcs({"v": 2, "keys": []})),
        "key-other-use": guest(
            "the key is attested for receipts only", "tls-key",
            keys=jcs({"v": 2, "keys": [{"use": "receipt", "alg": "ed25519", "key": SPKI.hex()}]}),
        ),
        "keys-put-in": sent("other keys put in", "report-data", keys=forge.b64(more_keys())),
        "keys-attackers": with_(
            "the attacker's key put in, on the attacker's connection", "report-data", spki=bytes(32),
            document=HONEST.document(keys=foreign_keys(bytes(32))),
        ),
        "log-of-another": sent(
            "the agent's log of another boot", "agent-events", "report-data",
            eventlog=HONEST.with_(events=(CONFIG, MODEL, READY)).fields()["eventlog"],
        ),
        "quote-of-another": sent("another guest's quote", "report-data", evidence=foreign["evidence"]),
        "report-data-zero": guest("a quote over nothing", "report-data", report_data=bytes(64)),
        "report-data-upper": guest(
            "bytes in the upper half of the report data", "report-data",
            report_data=HONEST.bound()[:32] + b"\1" * 32,
        ),
        "report-data-twice": guest(
            "the digest twice", "report-data", report_data=HONEST.bound()[:32] * 2
        ),
        "report-data-place": guest(
            "the digest in the upper half", "report-data", report_data=bytes(32) + HONEST.bound()[:32]
        ),
    }  # fmt: skip


def foreign_keys(spki: bytes) -> str:
    return forge.b64(jcs({"v": 2, "keys": [{"use": "tls", "alg": "spki-sha256", "key": spki.hex()}]}))


EXCEPTION = {"kind": "kernel-option", "subject": "mitigations=off", "reason": "Nothing else runs on the machine."}


def header() -> dict[str, Case]:
    """Variant, purpose and stage, each really signed."""
    key_release = HONEST.with_(purpose="key-release", stage="keys", events=EVENTS[:1])
    development = HONEST.with_(variant="development")
    return {
        "variant-other": guest("the guest says development", "variant", variant="development"),
        "variant-statement": with_(
            "the expected image is a development image", "variant",
            statement=forge.statement(variant="development"),
        ),
        "development-genuine": Case(
            "a development image, and no simulation is allowed", development.document(), REFUSED,
            ("development", "simulated"), forge.statement(variant="development"), allowed=False,
        ),
        "exception": with_(
            "the expected image has an exception that the policy does not name", "exceptions",
            statement=forge.statement(exceptions=[EXCEPTION]),
        ),
        "exception-other": with_(
            "the policy names another exception", "exceptions",
            statement=forge.statement(exceptions=[EXCEPTION]),
            policy={"exceptions": ["kernel-option:mitigations=auto"]},
        ),
        "purpose-other": Case(
            "a key-release document where prompts are to be sent", key_release.document(), REFUSED,
            ("agent-events", "purpose", "rtmr3", "stage"),
        ),
        "purpose-claimed": guest(
            "the purpose of another stage", "purpose", purpose="key-release"
        ),
        "purpose-wanted": with_(
            "a serving document where a key is to be released", "agent-events", "purpose", "rtmr3", "stage",
            purpose="key-release",
        ),
        "purpose-none": Case(
            "a purpose that the image does not serve", key_release.document(), REFUSED, ("purpose",),
            forge.statement(purposes={"serve": 4}), "key-release",
        ),
        "stage-early": guest("before the guest was ready", "stage", stage="keys"),
        "stage-early-log": guest(
            "before the guest was ready, by its log too", "agent-events", "rtmr3", "stage",
            stage="keys", events=EVENTS[:1],
        ),
        "header-put-in": sent(
            "another stage put in", "report-data", "stage",
            header=HONEST.with_(stage="keys").fields()["header"],
        ),
        "tee-other": Case("a TEE that sends no quote", HONEST.with_(tee="snp").document(), MALFORMED),
    }  # fmt: skip


def agent() -> dict[str, Case]:
    """The agent's log: really bound to the quote, with RTMR3 as it was or as the log says."""
    true = forge.rtmr3(EVENTS)
    failed = ("failed", b"{}")
    model = ("model", jcs({"name": "smollm2", "root_hash": "44" * 32}))
    twins: dict[str, tuple[str, tuple[tuple[str, bytes], ...]]] = {
        "dropped": ("an event left out", (CONFIG, MODEL, READY)),
        "first-dropped": ("the first event left out", (MODEL, ENGINE, READY)),
        "last-dropped": ("the last event left out", (CONFIG, MODEL, ENGINE)),
        "empty": ("no events", ()),
        "swapped": ("two events in another order", (CONFIG, ENGINE, MODEL, READY)),
        "twice": ("an event twice", (CONFIG, MODEL, MODEL, ENGINE, READY)),
        "failed": ("a stage failed afterwards", (*EVENTS, failed)),
        "failed-instead": ("a stage failed", (CONFIG, MODEL, failed)),
        "other-model": ("another model", (CONFIG, model, ENGINE, READY)),
        "other-config": ("another configuration", (("config", jcs({"sha256": "55" * 32})), *EVENTS[1:])),
        "other-engine": (
            "another engine",
            (CONFIG, MODEL, ("engine", jcs({"name": "llama-server", "argv_sha256": "66" * 32})), READY),
        ),
        "more": ("an event more", (CONFIG, MODEL, ("gpu-ready", b"{}"), ENGINE, READY)),
    }
    cases = {}
    for name, (about, events) in twins.items():
        cases[f"agent-{name}"] = guest(f"{about}, in the log and RTMR3", "agent-events", "rtmr3", events=events)
        cases[f"agent-{name}-log"] = guest(f"{about}, in the log only", "agent-events", events=events, runtime=true)
    lying = {
        "agent-extended": guest("something else extended RTMR3 too", "rtmr3", runtime=forge.extended([b"x" * 48])),
        "agent-rtmr3-zero": guest("nothing extended RTMR3", "rtmr3", runtime=bytes(48)),
        "agent-put-in": sent(
            "another log put in", "agent-events", "report-data", eventlog=forge.b64(log_of(CONFIG, READY))
        ),
        "agent-numbers": malformed(
            "the events' numbers swapped",
            HONEST.with_(eventlog=log_of(*EVENTS, numbers=(0, 2, 1, 3))).document(),
        ),
        "agent-numbers-twice": malformed(
            "a number twice", HONEST.with_(eventlog=log_of(*EVENTS, numbers=(0, 1, 1, 2))).document()
        ),
        "agent-spelling": malformed(
            "a line that is not canonical",
            HONEST.with_(eventlog=log_of(*EVENTS).replace(b'"seq":0', b'"seq": 0')).document(),
        ),
        "agent-unknown": malformed(
            "an unknown event", HONEST.with_(eventlog=log_of(*EVENTS, ("shell", b"{}"))).document()
        ),
        "agent-no-newline": malformed(
            "the last line has no end", HONEST.with_(eventlog=log_of(*EVENTS)[:-1]).document()
        ),
    }
    return cases | lying


def registers() -> dict[str, Case]:
    """Registers and the statement."""
    at = {"mrtd": 136, "rtmr0": 328, "rtmr1": 376, "rtmr2": 424}
    changed = {
        f"register-{name}": guest(f"{name.upper()} differs", name, body={offset: FLIPPED * 48})
        for name, offset in at.items()
    }
    zero = {
        f"register-{name}-zero": guest(f"{name.upper()} is zero", name, body={offset: bytes(48)})
        for name, offset in at.items()
    }
    cloud = forge.launch(4, 4 << 30, mrtd={"filled_by": "a cloud"})
    elsewhere = {"accepted": ["77" * 48], "evidence": "tpm-boot"}
    mix = [forge.launch(2, 2 << 30), forge.launch(4, 4 << 30, mrtd=elsewhere)]
    more = {
        "register-cmdline": guest("a word added to the command line", "rtmr2", cmdline=forge.CMDLINE + " debug"),
        "register-cmdline-hidden": guest(
            "a word added to the command line, and the honest boot log", "rtmr2",
            cmdline=forge.CMDLINE + " debug", bootlog=forge.ccel(forge.boot(4 << 30)),
        ),
        "register-memory": guest("a machine size that nobody predicted", "rtmr0", memory=8 << 30),
        "register-swapped": guest(
            "RTMR1 and RTMR2 exchanged", "rtmr1", "rtmr2",
            body={376: forge.rtmr(forge.boot(4 << 30), 2), 424: forge.rtmr(forge.boot(4 << 30), 1)},
        ),
        "register-mix": with_(
            "registers of two machine sizes", also=("mrtd", "rtmr0"), statement=forge.statement(launches=mix)
        ),
        "statement-empty": with_("no machine size expected", "shapes", statement=forge.statement(launches=[])),
        "statement-cloud": with_(
            "a register that somebody else fills", "unpinned", statement=forge.statement(launches=[cloud])
        ),
    }  # fmt: skip
    return changed | zero | more


def td() -> dict[str, Case]:
    """Fields of the TD report and the quote's header, each really signed."""
    fields = {
        "mrsignerseam": ("a TDX module that Intel did not sign", "mrsignerseam", 64, b"\1" * 48),
        "seam-attributes": ("another attribute of the TDX module", "seam-attributes", 112, b"\1" + bytes(7)),
        "debug": ("the host can read the TD", "td-attributes", 120, bytes.fromhex("0100001000000000")),
        "reserved": ("a reserved bit beside the debug bit", "td-attributes", 120, bytes.fromhex("8000001000000000")),
        "no-sept-ve": ("SEPT_VE_DISABLE is off", "td-attributes", 120, bytes(8)),
        "migratable": ("the TD can be migrated", "td-attributes", 120, bytes.fromhex("0000003000000000")),
        "pks": ("protection keys for supervisors", "td-attributes", 120, bytes.fromhex("0000005000000000")),
        "perfmon": ("performance counters", "td-attributes", 120, bytes.fromhex("0000001000000080")),
        "xfam": ("another set of extended features", "xfam", 128, bytes.fromhex("ff02060000000000")),
        "mrconfigid": ("MRCONFIGID is set", "mrconfigid", 184, b"\1" * 48),
        "mrowner": ("MROWNER is set", "mrowner", 232, b"\1" * 48),
        "mrownerconfig": ("MROWNERCONFIG is set", "mrownerconfig", 280, b"\1" * 48),
    }
    # A library that checks a quote may refuse some of these as a whole, before a policy sees the field.
    cases = {
        f"td-{name}": replace(guest(about, code, body={at: data}), also=("quote-signature",))
        for name, (about, code, at, data) in fields.items()
    }
    service = pki.TEE_TCB_SVN + b"\1" * 48
    older = bytes(16) + bytes(48)
    return cases | {
        "td-service": replace(
            guest("a service TD is bound to the TD", "mrservicetd", version=5, tail=service),
            also=("quote-signature",),
        ),
        "td-module-now": guest("the module's current TCB is too low", "quote-signature", version=5, tail=older),
        "td-module": guest("the module's TCB is below every level", "quote-signature", body={0: bytes(16)}),
        "quote-vendor": replace(
            guest("a quoting enclave's vendor that is not Intel", "qe-vendor", vendor=bytes(16)),
            also=("quote-signature",),
        ),
    }


def quotes() -> dict[str, Case]:
    """Quotes that nobody signed as they are."""
    honest = HONEST.quote()
    auth = int.from_bytes(honest[632:636], "little")

    def changed(about: str, at: int, data: bytes, *codes: str) -> Case:
        quote = honest[:at] + data + honest[at + len(data) :]
        return sent(about, *codes, evidence=forge.b64(quote))

    def broken(about: str, quote: bytes) -> Case:
        return malformed(about, HONEST.document(evidence=forge.b64(quote)))

    assert len(honest) == 636 + auth
    longer = honest[:632] + (auth + 16).to_bytes(4, "little") + honest[636:] + bytes(16)
    return {
        "quote-unsigned-mrtd": changed(
            "MRTD changed after signing", 48 + 136, FLIPPED * 48, "mrtd", "quote-signature"
        ),
        "quote-unsigned-data": changed(
            "report data changed after signing", 48 + 520, FLIPPED * 32, "quote-signature", "report-data"
        ),
        "quote-unsigned-user-data": changed("user data in the header", 28, FLIPPED * 20, "quote-signature"),
        "quote-signature": changed("another signature", 636, FLIPPED * 64, "quote-signature"),
        "quote-key": changed("another attestation key", 700, pki.point("stranger"), "quote-signature"),
        "quote-other-key": guest("signed by a key that no QE vouches for", "quote-signature", signer="stranger"),
        "quote-qe-report": changed("a byte of the QE report", 770, FLIPPED, "quote-signature"),
        "quote-qe-unbound": guest(
            "a QE report over another key", "quote-signature",
            platform=PLATFORM.with_(qe_report_data=bytes(64)),
        ),
        "quote-qe-other-signer": guest(
            "a QE report that a stranger signed", "quote-signature", **certified(PCK, PCK_CA, ROOT, signer="stranger")
        ),
        "quote-version-3": broken("version 3, of SGX", b"\3" + honest[1:]),
        "quote-sgx": broken("the TEE type of SGX", honest[:4] + bytes(4) + honest[8:]),
        "quote-key-type": broken("another kind of attestation key", honest[:2] + b"\3\0" + honest[4:]),
        "quote-cut": broken("the last byte cut off", honest[:-1]),
        "quote-head": broken("the TD report alone", honest[:632]),
        "quote-trailing": broken("bytes behind the quote", honest + b"x"),
        "quote-longer": broken("zeros inside the signature data", longer),
        "quote-none": broken("no quote", b""),
    }  # fmt: skip


def chains() -> dict[str, Case]:
    """Certificates in the quote."""
    stranger_pck = pki.issue(Certificate("PCK Certificate", "stranger", "PCK Processor CA", "processor", 9))
    by_root = pki.issue(Certificate("PCK Certificate", "pck", serial=3, extension=SGX))
    no_chain = [
        ("pck-no-root", "the root is left out", (PCK, PCK_CA)),
        ("pck-leaf-only", "the PCK alone", (PCK,)),
        ("pck-order", "the root first", (ROOT, PCK_CA, PCK)),
        ("pck-twice", "the PCK twice", (PCK, PCK, PCK_CA, ROOT)),
        ("pck-four", "a certificate more", (PCK, PCK_CA, TCB, ROOT)),
        ("pck-stranger-root", "another root with the same name", (PCK, PCK_CA, STRANGER_ROOT)),
        ("pck-before", "text before the certificates", (b"# hello\n", PCK, PCK_CA, ROOT)),
        ("pck-between", "text between the certificates", (PCK, b"\n", PCK_CA, ROOT)),
        ("pck-after", "text after the certificates", (PCK, PCK_CA, ROOT, b"end\n")),
        ("pck-empty", "no certificates", ()),
        ("pck-no-extension", "a PCK without the SGX extension", (stranger_pck, PCK_CA, ROOT)),
        ("pck-by-root", "a PCK that the root issued", (by_root, PCK_CA, ROOT)),
        ("pck-tcb-signing", "the TCB signing certificate in place of the PCK", (TCB, PCK_CA, ROOT)),
    ]
    return {name: guest(about, "pck-chain", **certified(*blocks)) for name, about, blocks in no_chain}


def collaterals() -> dict[str, Case]:
    """Collateral: roles, encodings, revocation, age, status."""
    pck_signs = (Certificate("PCK Certificate", "pck", "PCK Processor CA", "processor", 3, extension=SGX),)
    other = PLATFORM.with_(fmspc=bytes.fromhex("000000000000"), tcb={"fmspc": "000000000000"})
    role = "collateral-role"
    renamed = pki.issue(Certificate("PCK Platform CA", "processor", serial=2, ca=True)).decode()
    upper = COLLATERAL["tcb_info_signature"].upper()
    return {
        "collateral-none": with_("no collateral", "collateral-missing", collateral=None),
        "collateral-by-pck": with_(
            "TCB info that a PCK signed", role,
            collateral=PLATFORM.with_(
                tcb_signing=(*pck_signs, Certificate("PCK Processor CA", "processor", serial=2, ca=True)),
                tcb_key="pck", qe_key="pck",
            ).collateral(),
        ),
        "collateral-by-renamed": from_platform(
            "TCB info signed by a certificate of another name", role,
            tcb_signing=(Certificate("PCK Certificate", "tcb signing", serial=4),),
        ),
        "collateral-by-ca": from_platform(
            "TCB info that a CA signed", role,
            tcb_signing=(Certificate("TCB Signing", "tcb signing", serial=4, ca=True),),
        ),
        "collateral-by-sgx": from_platform(
            "TCB info signed by a certificate with the SGX extension", role,
            tcb_signing=(Certificate("TCB Signing", "tcb signing", serial=4, extension=SGX),),
        ),
        "collateral-two-signers": from_platform(
            "a certificate more in the chain", role,
            tcb_signing=(Certificate("TCB Signing", "tcb signing", serial=4),) * 2,
        ),
        "collateral-no-signer": from_platform("the root alone", role, tcb_signing=()),
        "collateral-chain-empty": collateral("no certificates for TCB info", role, tcb_info_issuer_chain="\n"),
        "collateral-chain-text": collateral(
            "text before the certificates", role,
            qe_identity_issuer_chain="x" + COLLATERAL["qe_identity_issuer_chain"],
        ),
        "collateral-crl-chain": collateral(
            "another PCK CA for the revocation list", role, pck_crl_issuer_chain=renamed + ROOT.decode()
        ),
        "collateral-crl-tcb-chain": collateral(
            "the TCB signing chain for the revocation list", role,
            pck_crl_issuer_chain=COLLATERAL["tcb_info_issuer_chain"],
        ),
        "collateral-crls-swapped": collateral(
            "the two revocation lists exchanged", role,
            root_ca_crl=COLLATERAL["pck_crl"], pck_crl=COLLATERAL["root_ca_crl"],
        ),
        "collateral-crl-forged": from_platform("a revocation list that a stranger signed", role, crl_key="stranger"),
        "collateral-crl-trailing": collateral(
            "bytes behind a revocation list", role, pck_crl=COLLATERAL["pck_crl"] + "00"
        ),
        "collateral-hex-case": collateral(
            "a signature in upper case", "collateral-encoding", tcb_info_signature=upper
        ),
        "collateral-hex-space": collateral(
            "a revocation list with a space", "collateral-encoding", pck_crl=COLLATERAL["pck_crl"] + " "
        ),
        "collateral-texts-swapped": collateral(
            "TCB info and QE identity exchanged", "quote-signature",
            tcb_info=COLLATERAL["qe_identity"], qe_identity=COLLATERAL["tcb_info"],
            tcb_info_signature=COLLATERAL["qe_identity_signature"],
            qe_identity_signature=COLLATERAL["tcb_info_signature"],
        ),
        "collateral-status-edited": collateral(
            "TCB info edited", "quote-signature", tcb_info=COLLATERAL["tcb_info"].replace("UpToDate", "Revoked")
        ),
        "collateral-spaced": collateral(
            "a space in the TCB info", "quote-signature", tcb_info=COLLATERAL["tcb_info"] + " "
        ),
        "collateral-qe-edited": collateral(
            "QE identity edited", "quote-signature", qe_identity=COLLATERAL["qe_identity"].replace("1000", "1001")
        ),
        "collateral-qe-signature": collateral(
            "the signature of the other text", "quote-signature",
            qe_identity_signature=COLLATERAL["tcb_info_signature"],
        ),
        "collateral-other-platform": with_(
            "TCB info of another platform family", "collateral-platform", collateral=other.collateral()
        ),
        "collateral-other-pce": from_platform(
            "TCB info of another provisioning enclave", "collateral-platform", tcb={"pceId": "0001"}
        ),
        "collateral-by-stranger": from_platform(
            "TCB info that a stranger signed", "quote-signature", tcb_key="stranger"
        ),
        "collateral-expired": with_("a clock after the collateral's time", "collateral-expired", time=LATE),
        "collateral-future": with_("a clock before the collateral's time", "collateral-future", time=EARLY),
        "collateral-crl-expired": from_platform(
            "an expired revocation list", "collateral-expired", crl_end=datetime(2026, 2, 1, tzinfo=UTC)
        ),
        "collateral-pck-revoked": from_platform("the PCK is revoked", "revoked", revoked=(3,)),
        "collateral-ca-revoked": from_platform("the PCK CA is revoked", "revoked", revoked_cas=(2,)),
        "collateral-signer-revoked": from_platform(
            "the TCB signing certificate is revoked", "revoked", revoked_cas=(4,)
        ),
    }  # fmt: skip


def statuses() -> dict[str, Case]:
    """What the platform's collateral says of it."""
    names = ("OutOfDate", "ConfigurationNeeded", "OutOfDateConfigurationNeeded", "SWHardeningNeeded",
             "ConfigurationAndSWHardeningNeeded")  # fmt: skip
    cases = {
        f"status-{name.lower()}": from_platform(f"the platform is {name}", "tcb-status", tcb_status=name)
        for name in names
    }
    return cases | {
        "status-revoked": from_platform("the platform's TCB level is revoked", "revoked", tcb_status="Revoked"),
        "status-qe": from_platform("the quoting enclave is OutOfDate", "qe-status", qe_status="OutOfDate"),
        "status-qe-revoked": from_platform("the quoting enclave is revoked", "revoked", qe_status="Revoked"),
        "status-evaluation": from_platform(
            "TCB info of an old evaluation", "tcb-evaluation-number", tcb={"tcbEvaluationDataNumber": 17}
        ),
        "status-qe-evaluation": from_platform(
            "QE identity of an old evaluation", "tcb-evaluation-number", qe={"tcbEvaluationDataNumber": 17}
        ),
        "status-sgx": from_platform("TCB info for SGX", "quote-signature", tcb={"id": "SGX"}),
        "status-sgx-qe": from_platform("the identity of SGX's quoting enclave", "quote-signature", qe={"id": "QE"}),
        "status-qe-signer": platform("a quoting enclave of another vendor", "quote-signature", qe_signer=bytes(32)),
        "status-qe-old": platform("a quoting enclave older than any level", "quote-signature", qe_isv_svn=0),
        "status-low": platform("a TCB below every level", "quote-signature", cpu_svn=bytes(16)),
    }


def module(status: str, **names: str) -> dict[str, Any]:
    """TCB info whose TDX modules are listed by their major version, with one level."""
    row = {
        "id": names.get("id", "TDX_01"),
        "mrsigner": "00" * 48,
        "attributes": "00" * 8,
        "attributesMask": "FF" * 8,
        "tcbLevels": [{"tcb": {"isvsvn": 3}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status}],
    }
    return {"tdxModuleIdentities": [row]}


def policies() -> dict[str, Case]:
    """What a caller's policy asks for, refused and met."""
    modern = HONEST.with_(body={0: bytes([3, 1, 7]) + bytes(13)})

    def tdx(about: str, *codes: str, given: Guest = HONEST, says: Platform = PLATFORM, **policy: Any) -> Case:
        return Case(
            about, given.document(), REFUSED if codes else SIMULATED, codes,
            policy={"tdx": policy} if policy else {}, collateral=says.collateral(),
        )  # fmt: skip

    advisory = PLATFORM.with_(tcb={"tcbLevels": [{**PLATFORM.tcb_level(), "advisoryIDs": ["INTEL-SA-00001"]}]})
    outdated = PLATFORM.with_(tcb_status="OutOfDate")
    unused = HONEST.with_(runtime=bytes(48))
    zero = {"accepted": ["00" * 48], "evidence": "source"}
    older_kernel = forge.statement(launches=[forge.launch(4, 4 << 30, rtmr3=zero)])
    configured = HONEST.with_(body={184: b"\1" * 48})
    return {
        "policy-outdated": tdx(
            "an OutOfDate platform that the policy accepts", says=outdated, tcb_statuses=["UpToDate", "OutOfDate"]
        ),
        "policy-other-status": tdx(
            "an OutOfDate platform, and the policy accepts another status", "tcb-status", says=outdated,
            tcb_statuses=["UpToDate", "SWHardeningNeeded"],
        ),
        "policy-module": tdx(
            "a module that is listed by its version", given=modern, says=PLATFORM.with_(tcb=module("UpToDate"))
        ),
        "policy-module-outdated": tdx(
            "an OutOfDate module on a platform that is UpToDate", "tdx-module-status", given=modern,
            says=PLATFORM.with_(tcb=module("OutOfDate")),
        ),
        "policy-module-revoked": tdx(
            "a revoked module", "revoked", given=modern, says=PLATFORM.with_(tcb=module("Revoked"))
        ),
        "policy-module-unlisted": tdx(
            "a module of a version that is not listed", "quote-signature", given=modern,
            says=PLATFORM.with_(tcb=module("UpToDate", id="TDX_02")),
        ),
        "policy-platform": tdx("another machine", "platform", platforms=["00" * 16]),
        "policy-platform-met": tdx("a listed machine", platforms=["00" * 16, PLATFORM.ppid.hex()]),
        "policy-instance": tdx(
            "a machine without a platform instance", "platform-instance", platform_instances=["00" * 16]
        ),
        "policy-mrseam": tdx("another TDX module", "mrseam", mr_seams=["00" * 48]),
        "policy-mrseam-met": tdx("a listed TDX module", mr_seams=[forge.MR_SEAM.hex()]),
        "policy-advisory": tdx(
            "an advisory that the policy rejects", "advisory", says=advisory, rejected_advisories=["INTEL-SA-00001"]
        ),
        "policy-advisory-met": tdx("an advisory that no policy rejects", says=advisory),
        "policy-date": tdx("a TCB level before the policy's date", "tcb-date", min_tcb_date="2026-01-02"),
        "policy-date-met": tdx("a TCB level of the policy's date", min_tcb_date="2026-01-01"),
        "policy-svn": tdx(
            "a lower module version than the policy's", "tee-tcb-svn", min_tee_tcb_svn="040000" + "00" * 13
        ),
        "policy-evaluation": tdx(
            "collateral of an older evaluation than the policy's", "tcb-evaluation-number",
            min_tcb_evaluation_number=1001,
        ),
        "policy-service": tdx(
            "a quote that shows no service TD, and the policy requires it", "mrservicetd-unknown",
            require_mrservicetd=True,
        ),
        "policy-service-met": tdx(
            "a quote that shows that no service TD is bound", given=HONEST.with_(version=5), require_mrservicetd=True
        ),
        "policy-config": tdx("another MRCONFIGID than the policy's", "mrconfigid", mr_config_id="01" * 48),
        "policy-config-met": tdx("the policy's MRCONFIGID", given=configured, mr_config_id="01" * 48),
        "policy-unused": replace(
            guest("a kernel that cannot extend RTMR3", "runtime-unused", runtime=bytes(48)), statement=older_kernel
        ),
        "policy-unused-met": Case(
            "a kernel that cannot extend RTMR3, and the policy accepts it", unused.document(), SIMULATED, (),
            older_kernel, policy={"allow_unused_runtime": True},
        ),
    }  # fmt: skip


def roots() -> dict[str, Case]:
    """Whose root."""
    names = {"prefix": "Intel SGX "}
    intel = [
        pki.issue(Certificate("PCK Certificate", "pck", "PCK Processor CA", "processor", 3, extension=SGX, **names)),
        pki.issue(Certificate("PCK Processor CA", "processor", serial=2, ca=True, **names)),
        pki.issue(Certificate("Root CA", "root", serial=1, ca=True, **names)),
    ]
    named = guest("certificates with Intel's names, made from the simulation's public seed", "pck-chain",
                  **certified(*intel))  # fmt: skip
    return {
        "root-simulated": with_("a simulated quote, and no simulation is allowed", "simulated", allowed=False),
        "root-simulated-nonce": with_(
            "a wrong nonce too, and no simulation is allowed", "nonce", "simulated", allowed=False, nonce=b"\3" * 32
        ),
        "root-named-intel": replace(named, allowed=False),
        "root-named-intel-allowed": named,
        "sample-quote": replace(
            sent(
                "a genuine quote that a project published, at its time", "sample-evidence", "report-data",
                "mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "tcb-evaluation-number",
                evidence=forge.b64(PUBLISHED),
            ),
            collateral=json.loads(PUBLISHED_COLLATERAL), time=PUBLISHED_TIME, allowed=False,
        ),
        "sample-quote-old": replace(
            sent(
                "a genuine quote, and a policy for newer collateral", "sample-evidence", "report-data",
                "mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "tcb-evaluation-number", "collateral-age",
                evidence=forge.b64(PUBLISHED),
            ),
            policy={"tdx": {"max_root_crl_age_days": 1}},
            collateral=json.loads(PUBLISHED_COLLATERAL), time=PUBLISHED_TIME, allowed=False,
        ),
        "sample-quote-late": replace(
            sent(
                "a genuine quote that a project published, after its collateral's time", "sample-evidence",
                "report-data", "mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "collateral-expired",
                evidence=forge.b64(PUBLISHED),
            ),
            collateral=json.loads(PUBLISHED_COLLATERAL), allowed=False,
        ),
        "sample-nonce": replace(
            guest("the nonce that is all zero", "sample-evidence", nonce=bytes(32)), nonce=bytes(32)
        ),
    }  # fmt: skip


def documents() -> dict[str, Case]:
    """JSON that is not a document."""
    honest = HONEST.document()
    fields = HONEST.fields()
    names = list(fields)

    def changed(about: str, **changes: Any) -> Case:
        return malformed(about, HONEST.document(**changes))

    gone = {f"document-no-{name}": changed(f"`{name}` is left out", **{name: REMOVED}) for name in names}
    text = fields["header"]
    return gone | {
        "document-empty": malformed("nothing", b""),
        "document-list": malformed("a list", b"[" + honest + b"]"),
        "document-twice": malformed("two documents", honest + honest),
        "document-cut": malformed("the last byte cut off", honest[:-1]),
        "document-duplicate": malformed(
            "a key twice", honest[:-1] + b',"nonce":' + jcs(fields["nonce"]) + b"}"
        ),
        "document-unknown": changed("an unknown field", verdict="accepted"),
        "document-v1": changed("another format", format="privml-attestation/v1"),
        "document-nan": malformed("a number that JSON lacks", honest[:-1] + b',"x":NaN}'),
        "document-bom": malformed("a byte order mark", b"\xef\xbb\xbf" + honest),
        "document-nonce-upper": changed("a nonce in upper case", nonce=fields["nonce"].upper()),
        "document-nonce-short": changed("a short nonce", nonce=fields["nonce"][:-2]),
        "document-base64-space": changed("a space in base64", header=text[:4] + " " + text[4:]),
        "document-base64-padding": changed("base64 without padding", keys=fields["keys"].rstrip("=") + "\n"),
        "document-certificates": changed("certificates beside the quote", certificates=[forge.b64(ROOT)]),
        "document-device-evidence": changed("device evidence without devices", device_evidence=[{}]),
        "document-path-side": changed("a side that a tree lacks", path=[{"side": "up", "hash": "00" * 32}]),
        "document-path-deep": changed("a path of 33 steps", path=[{"side": "left", "hash": "00" * 32}] * 33),
        "document-collateral-unknown": changed("collateral of an unknown kind", collateral={"sgx": COLLATERAL}),
        "document-header-spaced": changed(
            "a header that is not canonical",
            header=forge.b64(json.dumps(json.loads(HONEST.sections()["header"])).encode()),
        ),
        "document-header-keys": changed("header and keys exchanged", **swap("header", "keys")),
        "document-keys-devices": changed("keys and devices exchanged", **swap("keys", "devices")),
        "document-header-cut": changed("a header that is cut off", header=cut("header", 20)),
        "document-variant-unknown": malformed("an unknown variant", HONEST.with_(variant="debug").document()),
        "document-purpose-unknown": malformed("an unknown purpose", HONEST.with_(purpose="test").document()),
        "document-keys-order": malformed(
            "keys that are not sorted",
            HONEST.with_(keys=jcs({"v": 2, "keys": json.loads(more_keys())["keys"][::-1]})).document(),
        ),
        "document-keys-twice": malformed(
            "a TLS key twice",
            HONEST.with_(keys=jcs({"v": 2, "keys": json.loads(more_keys())["keys"][1:] * 2})).document(),
        ),
        "document-key-size": malformed("a short TLS key", HONEST.with_(spki=SPKI[:-1]).document()),
    }  # fmt: skip


GROUPS: tuple[Callable[[], dict[str, Case]], ...] = (
    controls, binding, header, agent, registers, td, quotes, chains, collaterals, statuses, policies, roots,
    documents, *device_cases.GROUPS,
)  # fmt: skip


@functools.cache
def all_cases() -> dict[str, Case]:
    """Every case by name."""
    cases: dict[str, Case] = {}
    for group in GROUPS:
        made = group()
        assert not made.keys() & cases.keys()
        cases |= made
    return cases
