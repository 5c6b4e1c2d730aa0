"""The cases of NVIDIA's collateral: reference values and revocation answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.negative import devicepki, devices
from tests.negative.case import Case
from tests.negative.device_case import GPU, ONE, RELAXED, TWO, Collateral, machine, written
from tests.negative.devicepki import IDENTITY, ROOT, Answer, Rim
from tests.negative.devices import HOPPER
from tests.negative.forge import NOW, b64


def reference() -> dict[str, Case]:
    """Reference values. What cannot be verified is missing too."""
    rims = devices.rims(ONE)
    vbios, driver = rims
    answers = devices.answers(ONE, rims, NOW)
    evil = devicepki.resource(2, b"\xee" * 48)
    signed = driver.signature
    text = driver.text
    opening = text[: text.index(">") + 1]
    whole = devices.measured(HOPPER)
    signers = driver.chain
    unsigned = text.replace(signed, "")

    def values(about: str, *codes: str, rims: tuple[Rim, ...]) -> Case:
        return machine(about, *codes, given=written(answers, rims))

    def refused(about: str, changed: str | Rim) -> Case:
        data = changed.text if isinstance(changed, Rim) else changed
        assert data != text
        encoded = b64(data.encode())
        given = {"ocsp": [b64(each.der) for each in answers], "rims": [b64(vbios.text.encode()), encoded]}
        return machine(about, "gpu-collateral", "gpu-rim", given=given)

    bad = {
        "edited": ("a value changed after signing", text.replace(whole[7].hex(), whole[8].hex(), 1)),
        "version": ("the version changed after signing", text.replace(f'"{devices.DRIVER}"', '"590.13"')),
        "unsigned": ("no signature", unsigned),
        "two-signatures": ("the signature twice", text.replace(signed, signed * 2)),
        "signature-first": ("the signature before the content", unsigned.replace(opening, opening + signed)),
        "wrapped": ("the signed document inside another", f"{opening}{evil}{text}</SoftwareIdentity>"),
        "object": ("the signed content moved into the signature, another in its place",
                   f"{opening}<Payload>{evil}</Payload>"
                   + signed.replace("</ds:KeyInfo>", f"</ds:KeyInfo><ds:Object>{unsigned}</ds:Object>")
                   + "</SoftwareIdentity>"),
        "behind": ("a value added behind the signature", text.replace(signed, signed + evil)),
        "uri": ("a signature over a part by its id", driver.with_(uri="#x")),
        "form": ("another canonical form", driver.with_(canonicalization="http://www.w3.org/2001/10/xml-exc-c14n#")),
        "key-value": ("a key in the file",
                      text.replace("<ds:KeyInfo>", "<ds:KeyInfo><ds:KeyValue></ds:KeyValue>")),
        "stranger": ("signed with another key", driver.with_(signer="stranger")),
        "device-key": ("signed with a GPU's key and its certificates",
                       driver.with_(signers=GPU.certificates())),
        "signers-short": ("the root of the signer is left out", driver.with_(signers=signers[:-1])),
        "signers-root": ("the root of devices for the signer", driver.with_(signers=(*signers[:-1], ROOT))),
        "signers-ca": ("a signer that is a CA", driver.with_(signers=(signers[0].with_(ca=True), *signers[1:]))),
        "comment": ("a comment", text.replace("<Payload>", "<Payload><!-- x -->")),
        "declaration": ("a declaration before the document", '<?xml version="1.0"?>' + text),
        "entity": ("an entity", f'<!DOCTYPE x [<!ENTITY a "1">]>{text}'),
        "twice-index": ("an index twice, really signed", driver.with_(values=(*driver.values, driver.values[0]))),
        "short": ("a short digest, really signed", driver.with_(values=((7, bytes(32)), *driver.values[1:]))),
        "none": ("no values, really signed", driver.with_(values=())),
        "junk": ("something else", "<a/>"),
    }  # fmt: skip
    cases = {f"reference-{name}": refused(about, changed) for name, (about, changed) in bad.items()}
    return cases | {
        "reference-missing": machine(
            "no reference values", "gpu-rim", given=written(devices.answers(ONE, (), NOW), ())
        ),
        "reference-missing-driver": values("none for the driver", "gpu-rim", rims=(vbios,)),
        "reference-other-version": values(
            "those of another driver", "gpu-collateral", "gpu-rim", rims=(vbios, driver.with_(version="590.13"))
        ),
        "reference-unneeded": values(
            "more than the devices need", "gpu-collateral", rims=(*rims, driver.with_(version="590.13"))
        ),
        "reference-product": values(
            "those of another product", "gpu-collateral", "gpu-rim",
            rims=(vbios, driver.with_(product="LS10", signers=signers)),
        ),
        "reference-overlap": values(
            "two values for one index", "gpu-measurements",
            rims=(vbios, driver.with_(values=tuple(enumerate(whole)))),
        ),
        "reference-other-values": values(
            "other values, really signed", "gpu-measurements",
            rims=(vbios, driver.with_(values=((7, bytes(48)), *driver.values[1:]))),
        ),
    }  # fmt: skip


def revocation() -> dict[str, Case]:
    """Revocation answers."""
    rims = devices.rims(ONE)
    answers = devices.answers(ONE, rims, NOW)
    about_rom, about_provisioner, _, *about_signers = answers
    provisioner = devicepki.provisioner("GH100")
    other = TWO[1].boot_rom()
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    code = "gpu-revocation"

    def given(about: str, *codes: str, first: Answer, **changes: Any) -> Case:
        return machine(about, *codes, given=written((first, *answers[1:]), rims), **changes)

    def data(*encoded: str) -> Collateral:
        return {"ocsp": list(encoded), "rims": written((), rims)["rims"]}

    ders = written(answers, ())["ocsp"]
    return {
        "revocation-none": machine("no answers", code, given=data()),
        "revocation-one-missing": machine("an answer is missing", code, given=data(*ders[1:])),
        "revocation-signer-missing": machine(
            "no answer for a signer of reference values", code, given=data(*ders[:3], *ders[4:])
        ),
        "revocation-old": given("an answer that has expired", code, first=about_rom.with_(time=NOW - 7200)),
        "revocation-age": given(
            "an answer older than the policy allows", code, first=about_rom.with_(time=NOW - 600),
            nvidia={"max_revocation_age": 300},
        ),
        "revocation-age-default": given(
            "an answer of two days ago, which is still valid", code,
            first=about_rom.with_(time=NOW - 2 * 86400, valid_for=7 * 86400),
        ),
        "revocation-future": given("an answer from the future", code, first=about_rom.with_(time=NOW + 3600)),
        "revocation-unknown": given(
            "an authority that knows nothing", code, first=about_rom.with_(status="unknown")
        ),
        "revocation-stranger": given(
            "an answer that a stranger signed", code, first=about_rom.with_(signer="stranger")
        ),
        "revocation-sibling": given(
            "an answer that another authority signed", code, first=about_rom.with_(signer="root")
        ),
        "revocation-responder": given(
            "a responder that may not sign answers", code,
            first=about_rom.with_(responder=devicepki.responder(provisioner, purpose=usage)),
        ),
        "revocation-responder-stranger": given(
            "a responder that nobody named", code,
            first=about_rom.with_(responder=devicepki.responder(provisioner.with_(key="stranger"))),
        ),
        "revocation-same-number": given(
            "an answer about another authority's certificate with the same number", code,
            first=about_rom.with_(issuer=IDENTITY),
        ),
        "revocation-unneeded": machine(
            "an answer that nobody needs", "gpu-collateral", given=written((*answers, Answer(other, NOW)), rims)
        ),
        "revocation-other": machine(
            "an answer about another GPU", "gpu-collateral", code,
            given=written((Answer(other, NOW), *answers[1:]), rims),
        ),
        "revocation-twice": machine("an answer twice", "gpu-collateral", given=data(*ders, ders[0])),
        "revocation-junk": machine("something else", "gpu-collateral", given=data(*ders, b64(b"0"))),
        "revocation-trailing": machine(
            "a byte after an answer", "gpu-collateral", code, given=data(b64(about_rom.der + b"\0"), *ders[1:])
        ),
        "revoked-rom": given("a GPU is revoked", "gpu-revoked", first=about_rom.with_(status="revoked")),
        "revoked-authority": machine(
            "an authority above the GPUs is revoked", "gpu-revoked",
            given=written((about_rom, about_provisioner.with_(status="revoked"), *answers[2:]), rims),
        ),
        "revoked-signer": machine(
            "a signer of reference values is revoked", "gpu-revoked",
            given=written((*answers[:3], about_signers[0].with_(status="revoked"), *about_signers[1:]), rims),
        ),
        "revoked-relaxed": given(
            "a GPU is revoked, and the policy needs no answers", "gpu-revoked",
            first=about_rom.with_(status="revoked"), nvidia=RELAXED,
        ),
        "revoked-once": given(
            "a GPU was revoked two years ago", "gpu-revoked",
            first=about_rom.with_(status="revoked", time=NOW - 730 * 86400),
        ),
    }  # fmt: skip


GROUPS: tuple[Callable[[], dict[str, Case]], ...] = (reference, revocation)
