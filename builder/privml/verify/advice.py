"""What to do about each refusal, and which policy field can relax it: the text of ``verify --explain CODE``."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from privml.base.errors import UsageError
from privml.verify import policyfield
from privml.verify.check import CODES
from privml.verify.policy import Policy

_DO_NOT_SEND = "Do not send."
_UPDATE = "The operator must update the machine."
_FIRMWARE = "The operator must update the SNP firmware."
_ZERO_BLOCK = "The operator must start the guest without it, or name the value in your policy if you know it."
_ZERO_FIELD = "The operator must start the TD without it, or name the value in your policy if you know it."

ADVICE: Mapping[str, str] = {
    "quote-signature": "Ask the operator for current collateral, and check your clock. Otherwise do not send.",
    "pck-chain": _DO_NOT_SEND,
    "collateral-role": (
        "Fetch the collateral from Intel's service and give it unchanged. Otherwise do not send: with the key of "
        "another platform, somebody could make collateral that calls an outdated platform UpToDate."
    ),
    "collateral-encoding": "Convert the field to lower case, or fetch the collateral again.",
    "collateral-missing": "Fetch the vendor's collateral (`collateral fetch`), or give it with `--collateral`.",
    "collateral-platform": "Fetch the collateral for this platform's FMSPC.",
    "collateral-expired": "Check your clock, and fetch the collateral again.",
    "collateral-future": "Check your clock.",
    "collateral-age": "Fetch the collateral again.",
    "revoked": _DO_NOT_SEND,
    "simulated": "Do not send, unless this is your own test: then give `--allow-simulated`.",
    "root": _DO_NOT_SEND,
    "tcb-status": "The operator must update BIOS or microcode, or the configuration that Intel's advisories name.",
    "tdx-module-status": "The operator must update the TDX module and start the TD again.",
    "qe-status": "The operator must update the quoting enclave (the DCAP packages of the host).",
    "tcb-date": _UPDATE,
    "tee-tcb-svn": "The operator must update the TDX module and start the TD again.",
    "tcb-evaluation-number": "Fetch newer collateral.",
    "advisory": _UPDATE,
    "platform": "Use a machine that is in your policy's list.",
    "platform-instance": "Use a machine that is in your policy's list.",
    "qe-vendor": _DO_NOT_SEND,
    "td-attributes": "The operator must start the TD without debug or migration, and with SEPT_VE_DISABLE.",
    "xfam": "Ask the operator about the TD's CPU features.",
    "mrseam": "The operator must load a TDX module that is in your policy's list.",
    "mrsignerseam": _DO_NOT_SEND,
    "seam-attributes": _DO_NOT_SEND,
    "mrconfigid": _ZERO_FIELD,
    "mrowner": _ZERO_FIELD,
    "mrownerconfig": _ZERO_FIELD,
    "mrservicetd": _DO_NOT_SEND,
    "mrservicetd-unknown": "The operator needs a quoting service that sends version 5 quotes.",
    "report-signature": _DO_NOT_SEND,
    "snp-chain": "Fetch AMD's certificates for this chip and give them unchanged. Otherwise do not send.",
    "report-certificate": "Fetch the certificate for this chip and its reported TCB version again.",
    "revocation-list": "Fetch the revocation list of the report's product again.",
    "revocation-missing": "Fetch AMD's revocation list, or give it with `--collateral`.",
    "report-version": _FIRMWARE,
    "signing-key": "Ask the operator whether the cloud uses a key of its own (VLEK), and name it if you accept that.",
    "product": "Use a machine with a processor that your policy names.",
    "fleet": "Use a machine of a provider that is in your policy's list.",
    "chip": "Use a machine that is in your policy's list.",
    "reported-tcb": (
        "Read AMD's security bulletins for the lowest version without a known vulnerability, and name it in your "
        "policy. Below it, the operator must update the firmware and start the guest again."
    ),
    "snp-firmware": _FIRMWARE,
    "platform-info": "The operator must change the BIOS settings, or update the firmware.",
    "mitigations": _FIRMWARE,
    "snp-policy": "The operator must start the guest with another policy, without debug or a migration agent.",
    "snp-abi": "The operator must start the guest with a policy that demands this ABI version.",
    "vmpl": "Do not send, unless you know the software above the guest and your policy names its level.",
    "host-data": _ZERO_BLOCK,
    "id-key": _ZERO_BLOCK,
    "author-key": _ZERO_BLOCK,
    "family-id": _ZERO_BLOCK,
    "image-id": _ZERO_BLOCK,
    "guest-svn": _ZERO_BLOCK,
    "migration-agent": _DO_NOT_SEND,
    "launch": (
        "The operator must use your firmware and `uki.efi`, byte for byte, and a number and model of processors that "
        "the image was measured for."
    ),
    "snp-boot-unbound": (
        "Use an image with firmware that starts nothing but the measured kernel. Otherwise do not send: the host can "
        "have the firmware start another program under the same launch digest."
    ),
    "acpi-unmeasured": (
        "Read the threat model. Name it in your policy if you accept that the host's ACPI code runs in the guest's "
        "kernel; otherwise do not send."
    ),
    "shapes": "Run `measure` again.",
    "unpinned": "Use the production image.",
    "runtime-unused": "Build the image with a kernel of version 6.16 or later.",
    "mrtd": "The operator must use your `firmware.fd`, byte for byte.",
    "rtmr0": (
        "Compare QEMU version, options, vCPUs and memory with your platform file; add the shape to your recipe "
        "(`measure --vcpus --memory` shows another shape's values)."
    ),
    "rtmr1": "The operator must use your `uki.efi`.",
    "rtmr2": "Read the named event: a host that adds one word is seen here. Do not send.",
    "rtmr3": "See `agent-events`. Do not send.",
    "agent-events": "Configuration, model or engine differ, or a stage failed. Do not send.",
    "gpu-evidence": _DO_NOT_SEND,
    "gpu-count": "Do not send. The operator must give the machine exactly the devices that the image needs.",
    "gpu-digest": "Do not send: these are parts of two documents.",
    "gpu-nonce": "Do not send: the evidence is old, or of another document.",
    "gpu-sample": _DO_NOT_SEND,
    "gpu-simulated": "Do not send, unless this is your own test.",
    "gpu-chain": _DO_NOT_SEND,
    "gpu-signature": _DO_NOT_SEND,
    "gpu-fwid": "Do not send. Drivers before 550 do not say which firmware runs; the operator must update.",
    "gpu-duplicate": "Do not send: one device answered twice, to count as two.",
    "gpu-device": "Use a machine whose devices are in your policy's list.",
    "gpu-architecture": "The operator must use the GPUs that the image was made for.",
    "gpu-driver": "The operator must update. Or accept the pair, if NVIDIA names no advisory for it.",
    "gpu-vbios": "The operator must update. Or accept the pair, if NVIDIA names no advisory for it.",
    "gpu-measurements": _DO_NOT_SEND,
    "gpu-rim": "Fetch the reference values from NVIDIA's service. Without them nothing says what a device runs.",
    "gpu-revocation": "Fetch new revocation answers from NVIDIA's service.",
    "gpu-revoked": _DO_NOT_SEND,
    "gpu-collateral": "Fetch NVIDIA's collateral again, only what this document needs.",
    "gpu-cc-off": _DO_NOT_SEND,
    "gpu-devtools": "Do not send: with developer tools on, the host can read the GPU's memory.",
    "gpu-topology": (
        "Do not send: traffic could pass a device without evidence. The operator must give all GPUs and switches of "
        "the board to this machine, in one mode."
    ),
    "nonce": "Give `--nonce` for a captured document, or ask again.",
    "report-data": "Do not send: these are parts of two documents.",
    "tls-key": "Give `--spki` for a captured document. Otherwise somebody else holds the connection: do not send.",
    "channel-key": (
        "Ask again: the record may be of another guest behind the same address, or of another boot. Otherwise "
        "somebody else made the channel's keys: do not send."
    ),
    "channel-record": (
        "Ask the operator whether the terminator passes `/.well-known/privml-channel` on, and whether the image has "
        "a channel. Otherwise do not send."
    ),
    "release-key": (
        "Release nothing: the guest made no key for volume keys, or none that this machine can seal to. Compare its "
        "image with the recipe's `encrypt`."
    ),
    "variant": "It is another image.",
    "development": "Use the production image.",
    "purpose": _DO_NOT_SEND,
    "stage": "Wait until the guest is ready, and ask again.",
    "exceptions": "Read the reason in the recipe. Name it in your policy if you accept it; otherwise do not send.",
    "trust-root": (
        "Compare your root.json with the digest that the publisher announced. Otherwise do not send: the repository "
        "is not of those whose root you trust."
    ),
    "index-signatures": "Try again: the repository may be in an update. Otherwise do not send.",
    "index-digest": "Try again: the repository may be in an update. Otherwise do not send.",
    "index-rollback": (
        "Use the repository's newest files. An old copy hides revocations: do not send. docs/VERIFYING.md says where "
        "the newest versions that you saw are kept."
    ),
    "statement-signatures": _DO_NOT_SEND,
    "statement-digest": _DO_NOT_SEND,
    "version-unknown": "Check the name and version; the index lists those that are published.",
    "index-expired": (
        "Check your clock, and use the repository's newest files. If there are none, ask the publisher why: an index "
        "that nobody renews may hide a revocation."
    ),
    "version-revoked": "Do not send. The operator must use a version that counts.",
    "version-below-minimum": "The operator must use a later version.",
    "rebuilders": "Ask for more endorsements, or rebuild the image yourself and use `--expect`.",
    "demonstration": (
        "Use the project's own root. For a trial, `--allow-demonstration` accepts it, at most as a simulation."
    ),
    "not-logged": (
        "Use the repository's newest files, and check the log's key in your policy. Otherwise do not send: the "
        "version may have been made for you alone."
    ),
    "witnesses": (
        "Ask the publisher for a proof that more witnesses cosigned. Otherwise do not send: the log may have been "
        "shown to you alone."
    ),
    "ci-identity": (
        "Ask the publisher for the workflow's attestation, and check the repository and ref that you asked for. "
        "Otherwise do not send."
    ),
    "receipt-signature": "Do not rely on it: the receipt was altered, or somebody else made it.",
    "receipt-keys": "Give the document of the boot that made the receipt. Otherwise do not rely on it.",
    "receipt-model": "Do not rely on it: the guest's software signed what its own measurements deny.",
    "receipt-nonce": "Give the nonce of this request with `--nonce`. Otherwise it is the receipt of another request.",
    "request-hash": "Give the request's bytes as they were sent with `--request`, or `--hashes-only`.",
    "response-hash": "Give the answer's bytes as they were received with `--response`, or `--hashes-only`.",
    "receipt-incomplete": "Ask again: the guest or the caller ended this answer early.",
    "sample-evidence": "Ask with 32 random bytes as nonce. Otherwise do not send.",
}
"""By code. Each code of `CODES` has an entry."""


def explain(code: str) -> tuple[str, ...]:
    """Lines about a refusal code; ``UsageError`` for an unknown one."""
    if code not in CODES:
        near = get_close_matches(code, CODES, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"codes: {', '.join(sorted(CODES))}"
        raise UsageError(f"there is no refusal code `{code}`", hint=hint)
    lines = [f"{code}: {CODES[code]}", f"  what to do: {ADVICE[code]}"]
    for name, made in policyfield.every(Policy):
        if code in made.relaxes:
            lines.append(f"  policy field {name} can relax it. {made.doc}")
        elif code in made.sets:
            lines.append(f"  policy field {name} sets what is expected. {made.doc}")
    if len(lines) == 2:
        lines.append("  no policy can relax it")
    return tuple(lines)
