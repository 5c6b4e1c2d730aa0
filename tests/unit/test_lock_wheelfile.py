"""Wheels are read strictly: each broken rule of the format is refused by its name."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import wheel_file
from hypothesis import given
from hypothesis import strategies as st

from privml.base.errors import InputsError
from privml.lock import wheelfile
from privml.lock.models import Wheel
from privml.store.objects import Store

INFO = "acme_tool-1.0.dist-info"
MODULE = b"VALUE = 1\n"
FILES = {"acme/__init__.py": MODULE}
Entries = list[tuple[str | zipfile.ZipInfo, bytes]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def entries(files: dict[str, bytes] = FILES) -> Entries:
    found = wheel_file.files_of("acme-tool", "1.0", files)
    return [*found.items(), (f"{INFO}/RECORD", wheel_file.record(found, INFO))]


def read(store: Store, data: bytes) -> wheelfile.WheelContent:
    wheel = wheel_file.locked(store, "acme-tool", "1.0", data)
    content = wheelfile.read(store.path(wheel.sha256), wheel)
    for each in content.files:
        wheelfile.check_size(each, wheel)
    return content


def special(name: str, mode: int) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    return made


def listed(name: str | zipfile.ZipInfo, data: bytes = b"x") -> Entries:
    """A wheel with one more file, which RECORD names, whatever its path or mode."""
    path = name if isinstance(name, str) else name.filename
    files = wheel_file.files_of("acme-tool", "1.0", FILES)
    return [*files.items(), (name, data), (f"{INFO}/RECORD", wheel_file.record({**files, path: data}, INFO))]


def with_record(change: Callable[[bytes], bytes]) -> Entries:
    return [(name, change(data) if str(name).endswith("RECORD") else data) for name, data in entries()]


def test_files_go_below_the_folder_of_modules_and_what_is_no_module_has_no_path(store: Store) -> None:
    data = f"{INFO.removesuffix('.dist-info')}.data"
    files = {
        **FILES,
        f"{data}/platlib/acme/x.so": b"so",
        f"{data}/scripts/acme": b"#!python\n",
        f"{data}/data/etc/a": b"",
    }
    found = read(store, wheel_file.wheel_bytes("acme-tool", "1.0", files, metadata=["Requires-Dist: h11>=0.16"]))
    paths = {file.name: file.path for file in found.files}
    assert paths["acme/__init__.py"] == "acme/__init__.py"
    assert paths[f"{data}/platlib/acme/x.so"] == "acme/x.so"
    assert paths[f"{data}/scripts/acme"] == paths[f"{data}/data/etc/a"] == ""
    assert f"{INFO}/RECORD" in paths
    assert found.requires == ("h11>=0.16",)


def test_a_file_is_compared_with_record_when_it_is_unpacked(store: Store) -> None:
    changed = [(name, b"VALUE = 2\n" if name == "acme/__init__.py" else data) for name, data in entries()]
    wheel = wheel_file.locked(store, "acme-tool", "1.0", wheel_file.packed(changed))
    content = wheelfile.read(store.path(wheel.sha256), wheel)
    file = next(file for file in content.files if file.path == "acme/__init__.py")
    said = r"wheel-record: .*the bytes of acme/__init__.py are not those"
    with wheelfile.opened(store.path(wheel.sha256), wheel) as archive, pytest.raises(InputsError, match=said):
        wheelfile.copy(archive, file, io.BytesIO(), wheel)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (listed("../evil.py"), r"wheel-path: .*'\.\./evil.py' is not a plain one"),
        (listed("/etc/passwd"), r"wheel-path: .*'/etc/passwd' is not a plain one"),
        (listed("acme/../../x.py"), "wheel-path: .*is not a plain one"),
        (listed("acme\\x.py"), "wheel-path: .*is not a plain one"),
        (listed("acme/./x.py"), "wheel-path: .*is not a plain one"),
        (listed("acme/\nx.py"), "wheel-path: .*is not a plain one"),
        (listed("acme/__init__.py/x.py"), r"wheel-path: .*acme/__init__.py/x.py is below a file"),
        (listed(special("acme/link", stat.S_IFLNK | 0o777)), "wheel-mode: .*acme/link is a link or a special file"),
        (listed(special("acme/pipe", stat.S_IFIFO | 0o644)), "wheel-mode: .*acme/pipe is a link or a special file"),
        (listed(special("acme/su", stat.S_IFREG | 0o4755)), "wheel-mode: .*acme/su has a set-id bit"),
        ([*entries(), ("acme/more.py", b"")], "wheel-record: .*acme/more.py is not in RECORD"),
        ([*entries(), ("acme/RECORD", b"")], "wheel-record: .*acme/RECORD is not in RECORD"),
        (entries()[1:], "wheel-record: .*RECORD names acme/__init__.py, which the wheel does not have"),
        (with_record(lambda data: data.replace(b",10\n", b",11\n")), "has 10 bytes, expected 11 as in RECORD"),
        (with_record(lambda data: data.replace(b"sha256=", b"md5=")), "expected sha256=DIGEST and a size"),
        (with_record(lambda data: data.replace(b"sha256=", b"sha256=AAAA")), "expected sha256=DIGEST and a size"),
        (with_record(lambda data: data + b"acme/__init__.py,sha256=x,1\n"), "is malformed, or there twice"),
        (with_record(lambda data: data + b"one,two\n"), "is malformed, or there twice"),
        (with_record(lambda data: data + b"\xff"), "is not UTF-8"),
        ([*entries(), ("other-1.dist-info/METADATA", b"")], "wheel-record: .*expected one .dist-info"),
        ([each for each in entries() if "METADATA" not in str(each[0])], "wheel-record: .*METADATA"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_refused_by_name(store: Store, made: Entries, message: str) -> None:
    with pytest.raises(InputsError, match=message):
        read(store, wheel_file.packed(made))


def test_a_path_that_is_there_twice_is_refused(store: Store) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = wheel_file.packed([*entries(), ("acme/__init__.py", b"VALUE = 2\n")])
    with pytest.raises(InputsError, match=r"wheel-path: .*acme/__init__.py is there twice"):
        read(store, data)


def test_another_name_or_version_than_the_locked_one_is_refused(store: Store) -> None:
    data = wheel_file.wheel_bytes("acme-tool", "1.0", FILES)
    for name, version in (("acme-tool", "1.1"), ("other", "1.0")):
        wheel = wheel_file.locked(store, name, version, data)
        with pytest.raises(InputsError, match=rf"wheel-record: .*expected {name} {version}"):
            wheelfile.read(store.path(wheel.sha256), wheel)


def test_a_wheel_that_unpacks_to_far_more_than_it_has_is_refused(store: Store) -> None:
    bomb = wheel_file.wheel_bytes("acme-tool", "1.0", {"acme/zeros.bin": bytes(wheelfile.SMALL + (1 << 20))})
    assert len(bomb) < 1 << 20
    with pytest.raises(InputsError, match=r"wheel-size: .*it unpacks to more than"):
        read(store, bomb)


def test_more_files_than_allowed_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheelfile, "MAX_FILES", 3)
    with pytest.raises(InputsError, match=r"wheel-size: .*4 files, expected at most 3"):
        read(store, wheel_file.wheel_bytes("acme-tool", "1.0", FILES))


@given(st.binary(max_size=2000))
def test_bytes_that_are_no_wheel_are_refused(data: bytes) -> None:
    wheel = Wheel(name="acme-tool", version="1.0", file="acme_tool-1.0-py3-none-any.whl", sha256="0" * 64, size=1)
    with pytest.raises(InputsError, match="wheel-"):
        wheelfile.read(_Held(data), wheel)  # type: ignore[arg-type]


@given(st.data())
def test_a_changed_byte_is_refused_or_changes_no_file(data: st.DataObject) -> None:
    body = bytearray(wheel_file.wheel_bytes("acme-tool", "1.0", FILES))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    wheel = Wheel(name="acme-tool", version="1.0", file="acme_tool-1.0-py3-none-any.whl", sha256="0" * 64, size=1)
    try:
        content = wheelfile.read(_Held(bytes(body)), wheel)  # type: ignore[arg-type]
        with wheelfile.opened(_Held(bytes(body)), wheel) as archive:  # type: ignore[arg-type]
            for file in content.files:
                target = io.BytesIO()
                wheelfile.copy(archive, file, target, wheel)
                if file.path == "acme/__init__.py":
                    assert target.getvalue() == MODULE
    except InputsError as error:
        assert error.message.startswith("wheel-")


class _Held(io.BytesIO):
    """A file in memory, which has a size like one on disk."""

    def stat(self) -> _Held:
        return self

    @property
    def st_size(self) -> int:
        return len(self.getvalue())
