"""The keyring of an archive: which keys are in it, and that they are exactly those that the recipe lists."""

from __future__ import annotations

import base64
import itertools
import shutil
from pathlib import Path

import pytest
from json_schema import accepts
from tests.signing import Key, armoured, packet

from privml.base.errors import RecipeError
from privml.lock.addedarchives import archives_of
from privml.recipe import keyrings, openpgp, schema
from privml.recipe.fields import facts
from privml.recipe.loader import Recipe, load, shipped
from privml.recipe.openpgp import KeyringError
from privml.recipe.starter import commented

SUBKEY = Key("subkey")
KEY = Key("vendor", subkeys=[SUBKEY])
OTHER = Key("other")
# RFC 9580, appendices A.1 and A.3: a version 4 key, and a version 6 certificate with a subkey.
V4 = "xjMEU/NfCxYJKwYBBAHaRw8BAQdAPwmJlL3ZFu1AUxl5NOSofIBzOhKA1i+AEJkuQ+47JAY="
V6 = """-----BEGIN PGP PUBLIC KEY BLOCK-----

xioGY4d/4xsAAAAg+U2nu0jWCmHlZ3BqZYfQMxmZu52JGggkLq2EVD34laPCsQYf
GwoAAABCBYJjh3/jAwsJBwUVCg4IDAIWAAKbAwIeCSIhBssYbE8GCaaX5NUt+mxy
KwwfHifBilZwj2Ul7Ce62azJBScJAgcCAAAAAK0oIBA+LX0ifsDm185Ecds2v8lw
gyU2kCcUmKfvBXbAf6rhRYWzuQOwEn7E/aLwIwRaLsdry0+VcallHhSu4RN6HWaE
QsiPlR4zxP/TP7mhfVEe7XWPxtnMUMtf15OyA51YBM4qBmOHf+MZAAAAIIaTJINn
+eUBXbki+PSAld2nhJh/LVmFsS+60WyvXkQ1wpsGGBsKAAAALAWCY4d/4wKbDCIh
BssYbE8GCaaX5NUt+mxyKwwfHifBilZwj2Ul7Ce62azJAAAAAAQBIKbpGG2dWTX8
j+VjFM21J0hqWlEg+bdiojWnKfA5AQpWUWtnNwDEM0g12vYxoWM8Y81W+bHBw805
I8kWVkXU6vFOi+HWvv/ira7ofJu16NnoUkhclkUrk0mXubZvyl4GBg==
-----END PGP PUBLIC KEY BLOCK-----
"""
V6_KEY = "CB186C4F0609A697E4D52DFA6C722B0C1F1E27C18A56708F6525EC27BAD9ACC9"
V6_SUBKEY = "12C83F1E706F6308FE151A417743A1F033790E93E9978488D1DB378DA9930885"
NEVER = "0123456789ABCDEF" * 2 + "01234567"


def test_fingerprints_are_those_of_the_standard() -> None:
    (four,) = openpgp.keys(base64.b64decode(V4))
    assert four.fingerprint == "C959BDBAFA32A2F89A153B678CFDE12197965A9A"
    (six,) = openpgp.keys(openpgp.unarmoured(V6.encode()))
    assert (six.fingerprint, six.subkeys) == (V6_KEY, [V6_SUBKEY])


def test_keys_have_their_subkeys() -> None:
    one, two = openpgp.keys(KEY.public + OTHER.public)
    assert (one.fingerprint, one.subkeys) == (KEY.fingerprint, [SUBKEY.fingerprint])
    assert (two.fingerprint, two.subkeys) == (OTHER.fingerprint, [])


UNBOUND = packet(14, SUBKEY.body)
REVOKED = OTHER.signature(0x28, b"")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "got no bytes"),
        (armoured(KEY.public), "got an armoured keyring, expected a binary one"),
        (b"\0\0\0\x20\x01\x01\0\2KBXf" + bytes(20), "got a keybox of GnuPG's own"),
        (b"\x3f" + KEY.public, "got the byte 0x3f at 0, expected the header of a packet"),
        (KEY.public[:-1], f"expected {len(KEY.public)} or more"),
        (KEY.public + b"\0", "got the byte 0x00 at"),
        (packet(13, b"user") + KEY.public, "got a packet with the tag 13 first"),
        (packet(14, KEY.body) + KEY.binding(SUBKEY), "got a packet with the tag 14 first"),
        (packet(5, KEY.body), "got a secret key"),
        (KEY.public + packet(12, b"\0"), "got a Trust packet of GnuPG's own keyring"),
        (KEY.public + packet(63, b""), "a packet with the tag 63"),
        (OTHER.public + UNBOUND, f"the subkey {SUBKEY.fingerprint} has no signature"),
        (OTHER.public + UNBOUND + KEY.public, f"the subkey {SUBKEY.fingerprint} has no signature"),
        (OTHER.public + UNBOUND + REVOKED, f"that binds it to {OTHER.fingerprint}"),
        (KEY.public + packet(13, b"user"), "got a user after a subkey"),
        (packet(6, b"\x03" + KEY.body[1:]), "got a key of version 3"),
        (packet(6, b"\x05" + KEY.body[1:]), "got a key of version 5"),
        (packet(6, b""), "got a key of version 0"),
        (packet(6, KEY.body + b"\0"), "a key's fields end at byte 51, expected 52"),
        (packet(6, KEY.body[:-1]), "a key's fields end at byte 51, expected 50"),
        (packet(6, KEY.body[:5] + b"\x63" + KEY.body[6:]), "got a key of the algorithm 99"),
        (packet(6, KEY.body[:16] + b"\x01\x08" + KEY.body[18:]), "other than the 264 bits"),
        (packet(6, KEY.body + bytes(1 << 14)), "expected 6 to 16384"),
        (KEY.public + packet(2, b"\x07\x13\x16"), "got a signature of version 7"),
        (b"\xa7" + KEY.public, "has no length of its own"),
        (b"\xc6\xe5" + KEY.public, "has no length of its own"),
        (OTHER.public * 65, "got more than 64 keys"),
    ],
    ids=itertools.count(),
)
def test_what_is_no_keyring_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(KeyringError) as caught:
        openpgp.keys(data)
    assert text in str(caught.value)


def test_old_headers_are_read() -> None:
    body = KEY.body
    (key,) = openpgp.keys(b"\x98" + bytes([len(body)]) + body)
    assert key.fingerprint == KEY.fingerprint
    (key,) = openpgp.keys(b"\x9a" + len(body).to_bytes(4) + body)
    assert key.fingerprint == KEY.fingerprint


GOOD = armoured(KEY.public).decode()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"\xc6\x33", "got a binary keyring, expected an armoured one"),
        (b"", "expected a file that begins with"),
        (f"Mine:\n{GOOD}".encode(), "expected a file that begins with"),
        (f"{GOOD}more".encode(), "expected exactly one armoured block"),
        (f"{GOOD}{GOOD}".encode(), "expected exactly one armoured block"),
        (GOOD.replace("PUBLIC", "PRIVATE").encode(), "expected a file that begins with"),
        (GOOD.replace("\n\n", "\n").encode(), "expected an empty line"),
        (GOOD.replace("\n\n", "\nno header\n\n").encode(), "expected an empty line"),
        (GOOD.replace("x", "_").encode(), "not base64"),
        (GOOD.replace("-----END", "=AA\n-----END").encode(), "not base64"),
        (GOOD.replace("\nx", "\ny", 1).encode(), "its checksum is of other bytes"),
    ],
)
def test_what_is_no_armoured_keyring_is_refused(text: bytes, told: str) -> None:
    with pytest.raises(KeyringError) as caught:
        openpgp.unarmoured(text)
    assert told in str(caught.value)


def test_armour_may_have_headers_and_carriage_returns() -> None:
    with_header = GOOD.replace("\n\n", "\nComment: a key\n\n").replace("\n", "\r\n")
    assert openpgp.unarmoured(with_header.encode()) == KEY.public


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(shipped(), tmp_path / "recipes")
    return tmp_path / "recipes"


def recipe(folder: Path, *fingerprints: str, keyring: str = "acme.gpg", more: str = "") -> Recipe:
    listed = ", ".join(f'"{each}"' for each in fingerprints)
    (folder / "mine.yaml").write_text(
        "extends: ./tdx-min.yaml\npackages: [tool/acme]\narchives:\n  acme:\n    suite: stable\n"
        f"    keyring: {keyring}\n    fingerprints: [{listed}]\n{more}"
    )
    return load(folder / "mine.yaml")


@pytest.mark.parametrize("name", ["acme.gpg", "acme.asc", "sub/acme.pgp"])
def test_a_keyring_with_the_listed_keys_is_read(folder: Path, name: str) -> None:
    data = KEY.public + OTHER.public
    (folder / "sub").mkdir()
    (folder / name).write_bytes(armoured(data) if name.endswith(".asc") else data)
    (one,) = archives_of(recipe(folder, OTHER.fingerprint.lower(), KEY.fingerprint, keyring=name))
    assert one.keyring.packets == data
    assert one.keyring.fingerprints == tuple(sorted((KEY.fingerprint, OTHER.fingerprint)))
    assert (one.label, one.suite.name, one.suite.components) == ("acme", "stable", ("main",))


ADOPTED = packet(6, OTHER.body) + packet(14, KEY.body) + OTHER.binding(KEY)


@pytest.mark.parametrize(
    ("data", "listed", "text"),
    [
        (KEY.public + OTHER.public, [KEY], f"got the key {OTHER.fingerprint}, which is not among"),
        (KEY.public, [KEY, OTHER], f"it lacks the key {OTHER.fingerprint}"),
        (KEY.public * 2, [KEY], f"it has the key {KEY.fingerprint} twice"),
        (KEY.public, [SUBKEY], f"{SUBKEY.fingerprint} is a subkey; expected the fingerprint of its primary key, "),
        # Of a stranger, who says that the listed key is a subkey of his.
        (
            ADOPTED,
            [KEY],
            f"got the key {OTHER.fingerprint}, which is not among the `fingerprints`; {KEY.fingerprint}",
        ),
        (KEY.public + ADOPTED, [KEY, OTHER], f"{KEY.fingerprint} also as a subkey of {OTHER.fingerprint}"),
        (armoured(KEY.public), [KEY], "got an armoured keyring, expected a binary one"),
        (b"", [KEY], "got no bytes"),
        (bytes((1 << 20) + 1), [KEY], "it has more than 1048576 bytes"),
    ],
    ids=itertools.count(),
)
def test_other_keys_than_the_listed_ones_are_refused_by_name(
    folder: Path, data: bytes, listed: list[Key], text: str
) -> None:
    (folder / "acme.gpg").write_bytes(data)
    mine = recipe(folder, *(each.fingerprint for each in listed))
    (found,) = keyrings.read(mine)[1]
    assert (found.rule, found.file, found.line) == ("archive-keyring", "recipes/mine.yaml", 6)
    assert found.text.startswith("archives.acme.keyring: `acme.gpg`: ")
    assert text in found.text
    with pytest.raises(RecipeError, match="archive-keyring"):
        archives_of(mine)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("absent.gpg", "it does not exist"),
        ("dir.gpg", "it is not a file"),
        ("out.gpg", "it leads outside the recipe's folder"),
        ("acme.asc", "got a binary keyring, expected an armoured one"),
    ],
)
def test_files_that_cannot_be_used_are_refused(folder: Path, name: str, text: str) -> None:
    (folder.parent / "outside.gpg").write_bytes(KEY.public)
    (folder / "out.gpg").symlink_to("../outside.gpg")
    (folder / "dir.gpg").mkdir()
    (folder / "acme.asc").write_bytes(KEY.public)
    (found,) = keyrings.read(recipe(folder, KEY.fingerprint, keyring=name))[1]
    assert text in found.text


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("keyring: acme.gpg", "keyring: acme.kbx", "expected a file that ends with .gpg or .pgp (binary), or .asc"),
        ("keyring: acme.gpg", "keyring: ../acme.gpg", "got `../acme.gpg`, expected a path below the recipe's folder"),
        ("keyring: acme.gpg", "keyring: /etc/acme.gpg", "expected a path below the recipe's folder"),
        ("    keyring: acme.gpg\n", "", "archives.acme.keyring: missing"),
        (f'"{NEVER}"', "", "got a list of 0"),
        (f'"{NEVER}"', '"89ABCDEF"', "got `89ABCDEF`, expected a whole fingerprint"),
        (
            f'"{NEVER}"',
            "123456789012345",
            "got `123456789012345`, expected a whole fingerprint: 40 or 64 hex digits as",
        ),
        (f'"{NEVER}"', f'"{NEVER}", "{NEVER.lower()}"', "the same fingerprint is listed twice"),
        ("suite: stable", "suite: stable/", "got `stable/`, expected text of the form"),
        ("suite: stable", "suite: ../x", "got `../x`, expected text of the form"),
        ("  acme:", "  acme.example:", "archives.acme.example"),
        ("  acme:", "  debian:", "`debian` is the label of something else"),
        ("  acme:", "  trixie-security:", "the recipe has no archive `acme`; its archives: trixie-security"),
        ("  acme:", "  local:", "`local` is the label of something else"),
        (
            "[tool/acme]",
            "[tool/other]",
            "got `tool/other`, but the recipe has no archive `other`; its archives: acme",
        ),
        ("[tool/acme]", "[tool]", "archives.acme: no package comes from it; name one in `packages` as NAME/acme"),
        ("[tool/acme]", "[tool/acme, tool]", "the same package is listed twice"),
        ("[tool/acme]", "[systemd/acme]", "which would replace the guest's own package `systemd`"),
        ("[tool/acme]", "[linux-image-x/acme]", "expected no package of a kernel"),
        ("[tool/acme]", "[sudo/acme]", "got `sudo/acme`, expected none of apt,"),
        ("    suite:", "    uri: x\n    suite:", "unknown field; archives besides the base's are in `archives`"),
        ("    suite:", "    pins: {tool: 1}\n    suite:", "got `1`, expected text"),
        ("    suite:", "    inrelease_sha256: x\n    suite:", "got `x`, expected text of the form"),
        ("    suite:", "    inrelease_sha256:\n    suite:", "got nothing, expected 64 hex digits; leave it out"),
    ],
)
def test_fields_that_say_something_else_are_refused(folder: Path, old: str, new: str, text: str) -> None:
    recipe(folder, NEVER)
    path = folder / "mine.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load(path)
    assert text in caught.value.message
    assert "recipes/mine.yaml:" in caught.value.message


def test_a_new_recipe_can_start_from_one_with_an_archive(folder: Path) -> None:
    mine = recipe(folder, NEVER, more=f'    pins: {{tool: "2"}}\n    inrelease_sha256: {"1a" * 32}\n')
    (folder / "copy.yaml").write_text(commented(mine.content, "a test"))
    assert load(folder / "copy.yaml").content == mine.content
    assert facts()["archives.LABEL.keyring"].moves == ("RTMR1", "RTMR2", "LAUNCH")


def test_the_schema_takes_what_is_read(folder: Path) -> None:
    text = {"suite": "stable", "keyring": "a.gpg", "fingerprints": [NEVER]}
    recipe_schema = schema.recipe_schema()
    for archive, good in (
        (text, True),
        ({**text, "components": ["main", "extra/x"], "pins": {"tool": "1:2-3"}, "inrelease_sha256": "a" * 64}, True),
        ({**text, "inrelease_sha256": None}, False),
        ({**text, "fingerprints": []}, False),
        ({**text, "fingerprints": ["89ABCDEF"]}, False),
        ({**text, "suite": "./"}, False),
        ({**text, "uris": "x"}, False),
        ({"suite": "stable"}, False),
    ):
        document = {"extends": "./tdx-min.yaml", "packages": ["tool/acme"], "archives": {"acme": archive}}
        assert accepts(recipe_schema, document, recipe_schema) == good, archive
    assert not accepts(recipe_schema, {"extends": "./x.yaml", "archives": {"a.example": text}}, recipe_schema)


def test_a_recipe_without_archives_keeps_its_digest(folder: Path) -> None:
    path = folder / "mine.yaml"
    path.write_text("extends: ./tdx-min.yaml\n")
    before = load(path)
    assert before.content.archives == {}
    assert "archives" not in {key for key, value in before.content.model_dump().items() if value}
