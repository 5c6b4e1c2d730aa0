"""How a kernel was configured: the file in the package of its headers, here of packages that are made up."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from test_lock_driver import KERNEL, OPTIONS, Apt, driver_in, without
from test_lock_make import solver
from test_lock_modelsources import served  # noqa: F401 - a fixture
from tests.debs import Deb

from privml.base.errors import InputsError
from privml.lock import kernelconfig
from privml.lock.driver import driver_of
from privml.lock.kernelconfig import config_of, parse
from privml.lock.lockfile import read_lock
from privml.lock.models import Lock, Package
from privml.recipe.loader import load, shipped
from privml.store.objects import Store

NAME = "linux-headers-7.3.4+deb13-amd64"
PATH = f"usr/src/{NAME}/.config"
TEXT = b"""#
# Automatically generated file; DO NOT EDIT.
# Linux/x86 7.3.4 Kernel Configuration
#
CONFIG_CC_VERSION_TEXT="x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0"
CONFIG_LOCALVERSION=""
CONFIG_HZ=250
CONFIG_PHYSICAL_START=0x1000000

# Crypto core or helper
CONFIG_CRYPTO_AEAD=y
# CONFIG_CRYPTO_USER is not set
CONFIG_CRYPTO_ECDH=m
# end of Crypto core or helper
"""
OPTIONS_OF_TEXT = {
    "CC_VERSION_TEXT": '"x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0"',
    "LOCALVERSION": '""',
    "HZ": "250",
    "PHYSICAL_START": "0x1000000",
    "CRYPTO_AEAD": "y",
    "CRYPTO_ECDH": "m",
}


@pytest.fixture(scope="module")
def lock() -> Lock:
    return read_lock(shipped() / "tdx-gpu-min.lock.json")


def made(text: bytes | None) -> bytes:
    """A .deb with a kernel's headers, and this configuration."""
    files = {f"usr/src/{NAME}/Makefile": (0o644, b"all:\n"), f"usr/src/{NAME}/include/.config": (0o644, b"x")}
    return Deb(NAME, KERNEL, files=files | ({} if text is None else {PATH: (0o644, text)})).data


def headers(lock: Lock, data: bytes) -> Package:
    """The lock's package with the headers, with other bytes."""
    (found,) = (each for each in driver_in(lock).toolchain if each.name == NAME)
    return found.model_copy(update={"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)})


# The file.


def test_options_are_read_with_their_values() -> None:
    assert parse(TEXT, "x") == OPTIONS_OF_TEXT
    assert parse(b"", "x") == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"CONFIG_CRYPTO_AEAD=n", "line 15: CONFIG_CRYPTO_AEAD is there twice"),
        (b"CONFIG_A=", "line 15: expected CONFIG_NAME=VALUE or a comment"),
        (b"CONFIG_A= y", "line 15: expected"),
        (b"CONFIG_A y", "line 15: expected"),
        (b"CONFIG_A-B=y", "line 15: expected"),
        (b"CONFIG_=y", "line 15: expected"),
        (b"CONFIG_" + b"A" * 101 + b"=y", "line 15: expected"),
        (b" CONFIG_A=y", "line 15: expected"),
        (b"config_a=y", "line 15: expected"),
        (b"\0", "line 15: expected"),
        (b"\xff", f"not UTF-8 at byte {len(TEXT)}"),
    ],
)
def test_what_is_no_configuration_is_refused(line: bytes, said: str) -> None:
    with pytest.raises(InputsError, match=f"^x: {re.escape(said)}"):
        parse(TEXT + line + b"\n", "x")


# The package.


def test_the_file_is_found_in_the_package(lock: Lock, store: Store) -> None:
    data = made(TEXT)
    store.add_bytes(data)
    assert config_of(headers(lock, data), PATH, store, solver()) == OPTIONS_OF_TEXT


def test_the_package_is_fetched_if_the_store_does_not_have_it(
    lock: Lock,
    store: Store,
    served: tuple[str, Path],  # noqa: F811
) -> None:
    address, folder = served
    data = made(TEXT)
    package = headers(lock, data)
    file = folder / package.path
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    asking = solver(mirrors=lambda: {package.archive: (address,)})
    assert config_of(package, PATH, store, asking) == OPTIONS_OF_TEXT
    file.unlink()
    assert config_of(package, PATH, store, asking) == OPTIONS_OF_TEXT
    with pytest.raises(InputsError, match=re.escape(NAME)):
        config_of(headers(lock, data + b"\n"), PATH, store, asking)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (made(None), rf"got no {re.escape(PATH)}, expected the kernel's configuration there"),
        (made(b"CONFIG_A"), rf"{re.escape(PATH)}: line 1: expected"),
        (made(b"#" * (kernelconfig.MAX_SIZE + 1)), "expected a file of at most 4194304 bytes"),
        (Deb(NAME, KERNEL, files={f"{PATH}/a": (0o644, b"")}).data, "expected a file of at most"),
        (b"no package", "not a .deb"),
        (made(TEXT)[:-3000], "is truncated"),
    ],
    ids=["no-file", "malformed", "too-large", "a-folder", "no-deb", "cut"],
)
def test_a_package_without_a_configuration_is_refused(data: bytes, said: str, lock: Lock, store: Store) -> None:
    store.add_bytes(data)
    with pytest.raises(InputsError, match=rf"^{re.escape(NAME)} .*{said}"):
        config_of(headers(lock, data), PATH, store, solver())


# With the driver.


@pytest.mark.parametrize("off", ["", "CRYPTO_ECDH", "CRYPTO_GCM"])
def test_lock_looks_into_the_package_of_the_headers(
    off: str, lock: Lock, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"# CONFIG_{name} is not set\n" if name == off else f"CONFIG_{name}=m\n" for name in OPTIONS]
    data = made("".join(lines).encode())
    package = headers(lock, data)
    store.add_bytes(data)
    driver = driver_in(lock)
    toolchain = tuple(package if each.name == NAME else each for each in driver.toolchain)
    other = lock.model_copy(update={"driver": driver.model_copy(update={"toolchain": toolchain})})
    Apt(other, monkeypatch)
    monkeypatch.setattr(kernelconfig, "config_of", config_of)
    recipe = load(shipped() / "tdx-gpu-min.yaml")
    if not off:
        assert driver_of(recipe, lock.packages, without(lock), store, solver()) == other.driver
        return
    with pytest.raises(InputsError, match=rf"^driver-crypto: .*: got no CONFIG_{off}, expected y or m"):
        driver_of(recipe, lock.packages, without(lock), store, solver())
