"""Runfiles: what was put into one is read; any damage ends in a clean refusal, and nothing leaves the folder."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path, PurePosixPath

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit import runfile_file as r
from tests.unit.test_lock_deb import file

from privml.base.errors import InputsError
from privml.lock import runfile, vendortar

SCRIPT = r.script()
TAR = r.packed(r.entries()).getvalue()
NAMES = st.lists(st.text("abc/._-", min_size=1, max_size=12), max_size=8)


def damaged(data: st.DataObject, body: bytes) -> bytes:
    made = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    return bytes(made[: data.draw(st.integers(0, len(made)))])


def taken(tar: bytes, folder: Path) -> dict[str, bytes] | None:
    """What is unpacked of a tar file; None if it is refused."""
    try:
        with vendortar.opened(io.BytesIO(tar), "driver-runfile: x.run") as archive:
            vendortar.unpack(archive, "kernel-open", folder / "driver", "driver-runfile: x.run")
    except InputsError as error:
        assert error.message.startswith("driver-runfile: x.run")
        return None
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@given(st.integers(0, 40), st.binary(max_size=30))
def test_the_tar_file_begins_where_the_script_ends(lines: int, more: bytes) -> None:
    head = r.script(skip=SCRIPT.count(b"\n") + 1 + lines + more.count(b"\n") + 1)
    head += b"\n" * lines + more + b"\n"
    found = runfile.header(io.BytesIO(r.made(head=head)), "x.run")
    assert (found.start, found.name, found.version) == (len(head), r.NAME, r.VERSION)


@given(st.data())
def test_a_damaged_header_is_refused_or_read_within_the_file(data: st.DataObject) -> None:
    body = damaged(data, SCRIPT + b"\x28\xb5\x2f\xfd" + bytes(20))
    try:
        found = runfile.header(io.BytesIO(body), "x.run")
    except InputsError as error:
        assert error.message.startswith("driver-runfile: x.run")
    else:
        assert body.startswith(found.compression.magic, found.start)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_tar_file_is_refused_or_stays_in_its_folder(data: st.DataObject) -> None:
    body = damaged(data, TAR)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "inside").mkdir()
        taken(body, place / "inside")
        assert [path.name for path in place.iterdir()] == ["inside"]
        assert [path.name for path in (place / "inside").iterdir()] in (["driver"], [])
        assert not [path for path in place.rglob("*") if path.is_symlink()]


@settings(max_examples=60, deadline=None)
@given(NAMES)
def test_files_of_any_names_are_placed_by_them_or_refused(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        rows = [file(f"kernel-open/{each}", str(number).encode()) for number, each in enumerate(names)]
        found = taken(r.packed(rows).getvalue(), place)
        if found is not None:
            wanted = {
                f"driver/{PurePosixPath(f'kernel-open/{each}').relative_to('kernel-open')}": str(number).encode()
                for number, each in enumerate(names)
            }
            assert found == wanted
