"""The driver in a lock: what is asked of apt, what is kept, and what is refused by name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from test_lock_make import solver

from privml.base.errors import InputsError
from privml.lock import kernelconfig
from privml.lock import solver as solving
from privml.lock.changes import changes
from privml.lock.contents import debs, kept
from privml.lock.driver import driver_of, same_driver
from privml.lock.lockfile import parse, read_lock, serialise
from privml.lock.models import Driver, Lock, Package
from privml.lock.moves import moves
from privml.lock.refresh import refresh
from privml.lock.wanted import Resolution, Wanted
from privml.recipe import drivers
from privml.recipe.loader import Recipe, load, shipped
from privml.repro.lockchanges import lock_changes
from privml.store.fetch import GoneError, Item
from privml.store.objects import Store

KERNEL = "7.3.4-1~bpo13+1"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load(shipped() / "tdx-gpu-min.yaml")


@pytest.fixture(scope="module")
def lock() -> Lock:
    return read_lock(shipped() / "tdx-gpu-min.lock.json")


def driver_in(lock: Lock) -> Driver:
    assert lock.driver is not None
    return lock.driver


def without(lock: Lock) -> Lock:
    return lock.model_copy(update={"driver": None})


class Apt:
    """Answers with the packages of the lock; ``changed`` are those that the archive has in another version.

    ``config`` is how the kernel is configured: with all that the driver needs.
    """

    def __init__(self, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver = driver_in(lock)
        self.asked: list[Wanted] = []
        self.changed: dict[str, str] = {}
        self.gone: set[str] = set()
        self.config = dict.fromkeys(self.driver.record.options, "m")
        self.read: list[tuple[str, str]] = []
        monkeypatch.setattr(solving, "resolve", self.resolve)
        monkeypatch.setattr(kernelconfig, "config_of", self.config_of)
        monkeypatch.setattr(solving.Kept, "of", lambda _, found: solving.Kept(found, ""))

    def _now(self, package: Package) -> Package:
        return package.model_copy(update={"version": self.changed.get(package.name, package.version)})

    def config_of(self, package: Package, path: str, *_: object) -> dict[str, str]:
        self.read.append((str(package), path))
        return self.config

    def resolve(self, _: object, __: object, wanted: Wanted, **___: object) -> Resolution:
        self.asked.append(wanted)
        known = {package.name: self._now(package) for package in self.driver.debs}
        toolchain = tuple(self._now(each) for each in self.driver.toolchain if each.name not in self.gone)
        alone = tuple(known[each.name] for each in wanted.alone)
        names = tuple(each.name for each in wanted.install)
        return Resolution(self.driver.archives, (b"signed",), names, toolchain, alone)


@pytest.fixture
def apt(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> Apt:
    return Apt(lock, monkeypatch)


def test_the_first_lock_asks_for_toolchain_headers_source_and_parts(
    apt: Apt, recipe: Recipe, lock: Lock, store: Store
) -> None:
    assert driver_of(recipe, lock.packages, without(lock), store, solver()) == lock.driver
    (wanted,) = apt.asked
    assert {"gcc-14", "make", "patch"} < {each.name for each in wanted.install}
    headers = [str(each) for each in wanted.install if each.name.startswith("linux-")]
    assert headers == [
        "linux-headers-7.3.4+deb13-amd64/trixie-backports",
        "linux-headers-7.3.4+deb13-common/trixie-backports",
        "linux-kbuild-7.3.4+deb13/trixie-backports",
    ]
    assert wanted.pins == dict.fromkeys((each.partition("/")[0] for each in headers), KERNEL)
    assert [str(each) for each in wanted.alone][:2] == [
        "nvidia-open-kernel-source/trixie-backports", "libcuda1/trixie-backports",
    ]  # fmt: skip
    suites = {suite.name: suite.components for suite in wanted.suites}
    assert suites["trixie-backports"] == ("main", "contrib", "non-free", "non-free-firmware")
    assert suites["trixie-security"] == ("main",)


def test_a_lock_that_is_current_asks_nobody(apt: Apt, recipe: Recipe, lock: Lock, store: Store) -> None:
    assert driver_of(recipe, lock.packages, lock, store, solver()) == lock.driver
    assert apt.asked == []


def test_a_recipe_without_gpus_has_no_driver(apt: Apt, lock: Lock, store: Store) -> None:
    plain = load(shipped() / "tdx-min.yaml")
    assert driver_of(plain, lock.packages, lock, store, solver()) is None
    assert same_driver(plain, lock.packages, None) and not same_driver(plain, lock.packages, lock.driver)


def test_an_upgrade_asks_again_and_keeps_the_other_packages(
    apt: Apt, recipe: Recipe, lock: Lock, store: Store
) -> None:
    apt.changed = {"make": "5.0"}
    made = driver_of(recipe, lock.packages, lock, store, solver(("make",)))
    assert made is not None and {each.name: each.version for each in made.toolchain}["make"] == "5.0"
    (wanted,) = apt.asked
    assert "make" not in wanted.pins and "gcc-14" in wanted.pins
    lines = changes(lock, lock.model_copy(update={"driver": made}))
    assert [line for line in lines if line.startswith("driver")] == ["driver make 4.4.1-2 -> 5.0"]


def of_kernel(lock: Lock, release: str, version: str) -> tuple[Package, ...]:
    names = {f"linux-{kind}-7.3.4+deb13-amd64": f"linux-{kind}-{release}" for kind in ("base", "binary", "modules")}
    return tuple(
        each.model_copy(update={"name": names[each.name], "version": version}) if each.name in names else each
        for each in lock.packages
    )


def test_another_kernel_in_range_gets_other_headers(apt: Apt, recipe: Recipe, lock: Lock, store: Store) -> None:
    packages = of_kernel(lock, "7.3.9+deb13-amd64", "7.3.9-1~bpo13+1")
    with pytest.raises(
        InputsError, match=r"driver-kernel: got linux-headers-7\.3\.9\+deb13-amd64 none, expected 7\.3\.9"
    ):
        driver_of(recipe, packages, lock, store, solver())
    assert str(apt.asked[0].install[-1]) == "linux-kbuild-7.3.9+deb13/trixie-backports"
    # The old headers are not pinned: they would only be in the way.
    assert not [name for name in apt.asked[0].pins if "7.3.4" in name]


@pytest.mark.parametrize("version", ["6.12.118-1", "7.2.11-1~bpo13+1", "7.4.0-1~bpo13+1"])
def test_a_kernel_that_the_driver_was_never_built_for_is_refused(
    apt: Apt, recipe: Recipe, lock: Lock, store: Store, version: str
) -> None:
    release = f"{version.partition('-')[0]}+deb13-amd64"
    with pytest.raises(
        InputsError, match=r"driver-kernel: .* was never built for the kernel .* from 7\.3 to before 7\.4"
    ):
        driver_of(recipe, of_kernel(lock, release, version), lock, store, solver())
    assert apt.asked == []


def test_headers_of_a_newer_build_of_the_kernel_are_refused(
    apt: Apt, recipe: Recipe, lock: Lock, store: Store
) -> None:
    apt.changed = {"linux-headers-7.3.4+deb13-common": "7.3.4-2~bpo13+1"}
    with pytest.raises(
        InputsError, match=r"driver-kernel: got linux-headers-7\.3\.4\+deb13-common 7\.3\.4-2~bpo13\+1"
    ):
        driver_of(recipe, lock.packages, without(lock), store, solver())


def test_the_configuration_that_the_modules_are_compiled_with_is_read(
    apt: Apt, recipe: Recipe, lock: Lock, store: Store
) -> None:
    driver_of(recipe, lock.packages, without(lock), store, solver())
    name = "linux-headers-7.3.4+deb13-amd64"
    assert apt.read == [(f"{name} {KERNEL}", f"usr/src/{name}/.config")]


OPTIONS = (
    "CRYPTO_AEAD", "CRYPTO_AKCIPHER", "CRYPTO_SKCIPHER", "CRYPTO_HASH", "CRYPTO_HMAC", "CRYPTO_ECDH", "CRYPTO_ECDSA",
    "CRYPTO_RSA", "X509_CERTIFICATE_PARSER", "CRYPTO_AES", "CRYPTO_CTR", "CRYPTO_GCM", "CRYPTO_SHA256",
    "CRYPTO_SHA512",
)  # fmt: skip


@pytest.mark.parametrize("value", [None, "n", "0", '"y"'])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_kernel_without_the_cryptography_of_the_driver_is_refused(
    apt: Apt, recipe: Recipe, lock: Lock, store: Store, option: str, value: str | None
) -> None:
    apt.config = {name: "y" for name in OPTIONS if name != option} | ({} if value is None else {option: value})
    with pytest.raises(InputsError) as caught:
        driver_of(recipe, lock.packages, without(lock), store, solver())
    assert caught.value.message == (
        f"driver-crypto: linux-headers-7.3.4+deb13-amd64 {KERNEL}: got no CONFIG_{option}, expected y or m: without "
        "them nvidia 550.163.01 cannot use a GPU in confidential mode"
    )
    assert caught.value.hint == (
        "use a kernel package that has these options, or keep the kernel of the previous lock"
    )


def test_every_driver_needs_these_options_and_all_that_are_missing_are_named(
    apt: Apt, recipe: Recipe, lock: Lock, store: Store
) -> None:
    assert {record.options for record in drivers.DRIVERS.values()} == {OPTIONS}
    apt.config = {}
    every = ", ".join(f"CONFIG_{name}" for name in OPTIONS)
    with pytest.raises(InputsError, match=f"got no {every}, expected"):
        driver_of(recipe, lock.packages, without(lock), store, solver())


@pytest.mark.parametrize(
    "name", ["nvidia-open-kernel-source", "libcuda1", "firmware-nvidia-gsp", "nvidia-persistenced"]
)
def test_parts_of_another_version_are_refused(apt: Apt, recipe: Recipe, lock: Lock, store: Store, name: str) -> None:
    apt.changed = {name: "555.58.02-1"}
    with pytest.raises(InputsError, match=rf"driver-version: got {name} 555\.58\.02, expected 550\.163\.01"):
        driver_of(recipe, lock.packages, without(lock), store, solver())


def test_the_lock_is_read_as_it_was_written(lock: Lock) -> None:
    assert parse(serialise(lock), Lock, "lock") == lock
    assert b'"driver"' not in serialise(without(lock))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "1.2"}, "driver: got nvidia 1.2, expected nvidia 550.163.01"),
        ({"toolchain": []}, "driver.toolchain"),
        ({"more": 1}, "driver.more"),
    ],
)
def test_a_driver_that_is_not_known_or_malformed_is_refused(lock: Lock, change: dict[str, Any], said: str) -> None:
    text = lock.model_dump(mode="json")
    text["driver"] |= change
    body = serialise(lock.model_copy(update={"driver": None}))
    broken = json.dumps(json.loads(body) | {"driver": text["driver"]}).encode()
    with pytest.raises(InputsError, match=said):
        parse(broken, Lock, "lock")


def test_packages_are_listed_once_and_sorted(lock: Lock) -> None:
    driver = driver_in(lock)
    other = driver.model_copy(update={"parts": driver.parts[::-1]})
    with pytest.raises(InputsError, match=r"driver\.parts: expected each package once, sorted by name"):
        parse(serialise(lock.model_copy(update={"driver": other})), Lock, "lock")


def test_all_its_packages_are_inputs_of_the_lock(lock: Lock, store: Store) -> None:
    driver = driver_in(lock)
    assert {each.sha256 for each in driver.debs} <= {each.sha256 for each in debs(lock)}
    signed = store.add_bytes(b"signed")
    state = driver.archives[0].model_copy(update={"inrelease_sha256": signed})
    one = lock.model_copy(update={"driver": driver.model_copy(update={"archives": (state,)})})
    assert signed in kept([one], store)


def test_another_driver_moves_what_the_root_moves(lock: Lock) -> None:
    driver = driver_in(lock)
    other = driver.model_copy(update={"source": driver.source.model_copy(update={"sha256": "0" * 64})})
    changed = lock.model_copy(update={"driver": other})
    assert moves(lock, changed) == ["RTMR1 moves: the driver", "RTMR2 moves: the driver"]
    (found,) = lock_changes(lock, changed)
    assert (found.kind, found.name) == ("driver package", "nvidia-open-kernel-source")
    assert found.moves == ("rtmr1", "rtmr2")


def test_a_driver_whose_packages_are_gone_is_not_replaced_silently(recipe: Recipe, lock: Lock, store: Store) -> None:
    gone = driver_in(lock).toolchain[3]

    def bring(packages: Any) -> int:
        if gone in packages:
            raise GoneError([Item(gone.sha256, gone.size, str(gone), ())], "gone")
        return 0

    with pytest.raises(InputsError, match=f"packages of the driver are gone.*{gone.name}"):
        refresh(recipe, lock, store, solver(), bring)


def test_the_records_components_are_only_the_drivers() -> None:
    record = drivers.driver("nvidia", "550.163.01")
    wide = record.base.distribution.suites["trixie-backports"]
    plain = load(shipped() / "tdx-gpu-min.yaml").content.base.record.distribution.suites["trixie-backports"]
    assert (wide.components, plain.components) == (("main", "contrib", "non-free", "non-free-firmware"), ("main",))
    assert dataclasses.replace(wide, components=("main",)) == plain
