"""The path of a prompt, and who signs what: drawn from lists, because the code has them in several places."""

from __future__ import annotations

from privml.base.svg import AMBER, BLUE, GREEN, GREY, PALE, RED, Picture


def prompt() -> Picture:
    """From the caller's program to the model and back."""
    picture = Picture(1000, 330, "The path of a prompt")
    picture.box(12, 40, 300, 272, [], "#f8fafc")
    picture.text(162, 30, "the caller's machine: trusted", bold=True)
    picture.box(430, 40, 558, 272, [], "#fff7f7")
    picture.text(709, 30, "the host: not trusted (network, disks, VMM)", bold=True)
    picture.box(470, 78, 500, 220, [], "#f4fbf6")
    picture.text(720, 70, "the TD: trusted only after its quote is accepted")
    picture.box(30, 60, 264, 44, ["your program", "unmodified OpenAI client"], BLUE)
    picture.box(
        30,
        150,
        264,
        62,
        ["privml-build proxy", "asks its gate before it reads the body;", "403 and nothing sent when refused"],
        BLUE,
    )
    picture.box(30, 252, 264, 44, ["out/NAME: what you built", "manifest and prediction"], PALE)
    picture.box(490, 132, 128, 62, ["server", "TLS ends here;", "no outgoing calls"], GREEN)
    picture.box(664, 132, 128, 62, ["engine", "no network,", "unix socket only"], GREEN)
    picture.box(834, 132, 120, 62, ["model", "read-only,", "dm-verity"], GREEN)
    picture.box(490, 226, 128, 50, ["attestor", "root; RTMR3, quotes"], GREEN)
    picture.box(664, 226, 290, 50, ["TDX module, CPU", "registers, signed quote"], AMBER)
    picture.line([(162, 104), (162, 149)])
    picture.text(170, 130, "HTTP, loopback only", anchor="start", fill=GREY)
    picture.line([(162, 252), (162, 213)])
    picture.text(170, 236, "compared with", anchor="start", fill=GREY)
    picture.line([(294, 170), (489, 154)])
    picture.text(372, 132, "TLS 1.3, key of", fill=GREY)
    picture.text(372, 147, "the quote: prompt", fill=GREY)
    picture.line([(489, 176), (295, 196)], dashed=True)
    picture.text(372, 212, "document, then", fill=GREY)
    picture.text(372, 227, "answer", fill=GREY)
    picture.line([(618, 162), (663, 162)])
    picture.line([(792, 162), (833, 162)])
    picture.line([(554, 194), (554, 225)])
    picture.line([(618, 251), (663, 251)])
    return picture


def signers() -> Picture:
    """Who signs what."""
    picture = Picture(1000, 372, "Who signs what")
    rows = (
        (
            "Debian's archive keys",
            "package lists (InRelease)",
            "checked when a lock is made; afterwards the lock's digests",
            PALE,
        ),
        (
            "nobody: digests",
            "lock, manifest, prediction, artefacts",
            "the caller builds the image, so no signature is needed",
            RED,
        ),
        (
            "Intel's root",
            "PCK certificate of the machine",
            "checked with revocation lists; root pinned in the verifier",
            AMBER,
        ),
        (
            "Intel's TCB key",
            "TCB info, QE identity",
            "certified by Intel's root; says which patch level is up to date",
            AMBER,
        ),
        (
            "the machine's quoting enclave",
            "quote: MRTD, RTMR0 to 3, report data",
            "its key is signed with the machine's PCK key",
            AMBER,
        ),
        (
            "the quote, by report data",
            "nonce, keys, devices, agent's log, header",
            "one digest over all of them; a new quote for new nonces",
            GREEN,
        ),
        ("the guest's TLS key", "the connection", "made in the guest at boot, never leaves it", GREEN),
    )
    for x, words in ((150, "who"), (425, "signs or binds"), (790, "how it is checked")):
        picture.text(x, 24, words, bold=True, size=14)
    for number, (who, what, how, fill) in enumerate(rows):
        y = 38 + number * 46
        picture.box(16, y, 268, 34, [who], fill)
        picture.line([(284, y + 17), (299, y + 17)])
        picture.box(300, y, 262, 34, [what], PALE, bold=False)
        picture.text(578, y + 21, how, anchor="start")
    return picture
