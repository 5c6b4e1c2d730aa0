"""Readers of InRelease and Packages."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from privml.base.errors import InputsError
from privml.lock.debian import PackagesIndex, dependencies, dependency_names, fields_of, parse_inrelease

INRELEASE = """-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

Origin: Debian
Label: Debian
Suite: testing
Codename: forky
Date: Fri, 30 Oct 2026 08:08:01 UTC
Valid-Until: Fri, 06 Nov 2026 08:08:01 UTC
SHA256:
 00 1 main/binary-amd64/Packages
-----BEGIN PGP SIGNATURE-----

iQIz
-----END PGP SIGNATURE-----
"""
PACKAGES = f"""Package: libx++
Version: 1:2.0-1+b1
Architecture: amd64
Depends: libc6 (>= 2.34), aa | bb, python3:any, linux-base-7.2.12+deb14 (= 7.2.12-1)
Description: x
 Filename: pool/not/this.deb
Filename: pool/main/libx/libx++_2.0-1+b1_amd64.deb
Size: 12
SHA256: {"a" * 64}

Package: bad
Version: 1
Architecture: amd64
Filename: pool/main/b/bad_1_amd64.deb
Size: 12

Package: last
Version: 1
Architecture: all
Filename: pool/main/l/last_1_all.deb
Size: 3
SHA256: {"b" * 64}
"""
POOL = "pool/main/libx/libx++_2.0-1+b1_amd64.deb"


def index() -> PackagesIndex:
    return PackagesIndex(
        PACKAGES.encode(), archive="debian", suite="forky", component="main", base="http://x.example.invalid/"
    )


def test_an_inrelease_file_is_parsed() -> None:
    release = parse_inrelease(INRELEASE.encode())
    assert (release.origin, release.suite, release.codename) == ("Debian", "testing", "forky")
    assert release.date == datetime(2026, 10, 30, 8, 8, 1, tzinfo=UTC)
    assert release.valid_until == datetime(2026, 11, 6, 8, 8, 1, tzinfo=UTC)


def test_a_suite_without_valid_until_is_accepted() -> None:
    assert parse_inrelease(INRELEASE.replace("Valid-Until", "X").encode()).valid_until is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-----BEGIN PGP SIGNED MESSAGE-----\n", "Origin: Debian\n-----BEGIN PGP SIGNED MESSAGE-----\n"),
        ("-----BEGIN PGP SIGNATURE-----", "-----BEGIN PGP"),
        ("SHA256:\n", "-----BEGIN PGP SIGNATURE-----\n"),
        ("Date: Fri", "Other: Fri"),
        ("08:08:01 UTC", "08:08:01 +0200"),
        ("30 Oct", "30 October the"),
        (INRELEASE, ""),
    ],
)
def test_unsigned_or_undated_text_is_refused(old: str, new: str) -> None:
    with pytest.raises(InputsError, match="InRelease"):
        parse_inrelease(INRELEASE.replace(old, new).encode())


def test_a_package_is_found_by_its_pool_path() -> None:
    found = index().package(POOL)
    assert (found.name, found.version, found.sha256, found.size) == ("libx++", "1:2.0-1+b1", "a" * 64, 12)
    assert (found.archive, found.suite, found.component, found.path) == ("debian", "forky", "main", POOL)
    assert found.file == "libx++_1%3a2.0-1+b1_amd64.deb"
    assert index().package("pool/main/l/last_1_all.deb").architecture == "all"


def test_a_field_inside_a_description_is_ignored() -> None:
    assert not index().has("pool/not/this.deb")
    assert index().fields(POOL)["Description"] == "x\nFilename: pool/not/this.deb"


def test_an_entry_without_a_digest_is_refused() -> None:
    with pytest.raises(InputsError, match=r"bad_1_amd64\.deb is malformed"):
        index().package("pool/main/b/bad_1_amd64.deb")


def test_dependencies_are_those_that_are_there() -> None:
    stanzas = (
        "Package: aa\nPre-Depends: libc6 (>= 2)\nDepends: bb:any (= 1) | cc, gone | cc,\n mail, aa\nRecommends: dd\n",
        "Package: bb\nDepends: nowhere\n",
        "Package: cc\nProvides: mail (= 1), bb\n",
        "Package: dd\nProvides: mail\n",
        "Package: libc6\n",
    )
    found = dependencies(map(fields_of, stanzas))
    assert found.pop("aa") == ("bb", "cc", "dd", "libc6")
    assert found == dict.fromkeys(("bb", "cc", "dd", "libc6"), ())


def test_dependency_names() -> None:
    depends = index().fields(POOL)["Depends"]
    assert dependency_names(depends) == ["libc6", "aa", "python3", "linux-base-7.2.12+deb14"]
    assert dependency_names("") == []
