"""The resolver and the refresher with the fake archive and the host's real apt and gpgv."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import fake_archive
import pytest
from fake_archive import KEYRING, SIGNED, STATES, Deb
from pool_server import serving
from test_recipe_distributions import ACME
from test_recipe_distributions import RECIPE as ACME_RECIPE

from privml.base.errors import InputsError
from privml.base.run import run
from privml.image.sbom import deb_purl
from privml.lock.apt import resolve
from privml.lock.apttools import AptTools
from privml.lock.archiverecord import Archive, Base
from privml.lock.changes import changes
from privml.lock.lockfile import parse, serialise
from privml.lock.make import Current, bring, epoch_of, make_lock
from privml.lock.models import Firmware, Lock, Package, Tree, TreeFile
from privml.lock.moves import moves
from privml.lock.refresh import refresh
from privml.lock.solver import Solver, solve
from privml.lock.wanted import Resolution, Wanted
from privml.recipe import distributions
from privml.recipe.distributions import DEBIAN, DISTRIBUTIONS, base
from privml.recipe.loader import Recipe, load, shipped
from privml.recipe.packages import Request
from privml.store.fetch import GoneError
from privml.store.mirrors import Mirrors
from privml.store.objects import Store
from privml.store.pools import Pool, relative

needs_apt = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("gpgv")), reason="this host has no apt-get with gpgv"
)
TOOLS = AptTools(lambda argv, _: run(argv, timeout=60), str(KEYRING), "the host's apt with the test's key")
FORKY = base("debian", "forky")
APP, FIRM = Request("app"), Request("firm")
EARLY = datetime(2026, 11, 1, tzinfo=UTC)
LATE = datetime(2026, 11, 15, tzinfo=UTC)
TREE = Tree.of([TreeFile(path="a", kind="file", sha256="1" * 64, size=1)])
pytestmark = pytest.mark.usefixtures("no_proxy")


def solved(mirrors: Mirrors, *, before: tuple[Archive, ...] = (), now: datetime = EARLY, **more: bool) -> Resolution:
    return resolve(TOOLS, mirrors, Wanted(FORKY, (APP,), (FIRM,)), before=before, now=now, **more)


def test_the_signed_archive_matches_the_generator() -> None:
    for name, state in SIGNED.items():
        signed = (fake_archive.HERE / f"{name}.InRelease").read_text()
        body = signed.partition("\n\n")[2].partition("-----BEGIN PGP SIGNATURE-----")[0]
        assert body == STATES[state].release, "sign anew: python tests/unit/fake_archive.py"


@needs_apt
def test_a_valid_archive_is_accepted(mirrors: Mirrors) -> None:
    found = solved(mirrors)
    assert [str(package) for package in found.packages] == ["app 1", "common 1", "lib 1"]
    assert [str(package) for package in found.alone] == ["firm 1"]
    assert found.archives[0].date == "2026-10-30T08:08:01Z"


@needs_apt
def test_another_key_is_refused(folder: Path, mirrors: Mirrors) -> None:
    fake_archive.write(folder, "stranger")
    with pytest.raises(InputsError, match=r"(?s)could not fetch the .*(not signed|couldn't be verified|NO_PUBKEY)"):
        solved(mirrors)


@needs_apt
@pytest.mark.parametrize(
    "change", [(b"Components: main", b"Components: mean"), (b"\nDate: Fri, 30", b"\nDate: Fri, 31")]
)
def test_signed_text_that_was_changed_is_refused(folder: Path, mirrors: Mirrors, change: tuple[bytes, bytes]) -> None:
    path = folder / "dists/forky/InRelease"
    assert change[0] in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(*change))
    with pytest.raises(InputsError, match="could not fetch the package lists"):
        solved(mirrors)


@needs_apt
@pytest.mark.parametrize("keep", [0, 40, 250, -60, -1])
def test_a_truncated_signed_state_is_refused(folder: Path, mirrors: Mirrors, keep: int) -> None:
    path = folder / "dists/forky/InRelease"
    path.write_bytes(path.read_bytes()[:keep].rstrip(b"-") if keep == -1 else path.read_bytes()[:keep])
    with pytest.raises(InputsError, match="could not fetch the package lists"):
        solved(mirrors)


@needs_apt
def test_no_signature_is_refused(folder: Path, mirrors: Mirrors) -> None:
    (folder / "dists/forky/InRelease").unlink()
    (folder / "dists/forky/Release").write_text(STATES["first"].release)
    with pytest.raises(InputsError, match="could not fetch the package lists"):
        solved(mirrors)


@needs_apt
@pytest.mark.parametrize("cut", [0, 300])
def test_a_truncated_or_changed_list_is_refused(folder: Path, mirrors: Mirrors, cut: int) -> None:
    path = folder / "dists/forky/main/binary-amd64/Packages"
    data = path.read_bytes()
    path.write_bytes(data[:-cut] if cut else data.replace(b"Version: 1", b"Version: 7"))
    with pytest.raises(InputsError, match="could not fetch the package lists"):
        solved(mirrors)


@needs_apt
def test_an_outdated_mirror_is_skipped(
    folder: Path, mirrors: Mirrors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its state is signed and has not expired; only the previous lock shows that the archive had a newer one."""
    stale = fake_archive.write(tmp_path / "stale", "lagging")
    current = fake_archive.write(folder, "second")
    locked = solved(mirrors, now=LATE).archives
    with serving(stale) as (address, asked):
        behind = {"debian": (address,)}
        assert [str(package) for package in solved(behind, now=LATE).packages] == ["app 1.5", "common 2"]
        with pytest.raises(InputsError, match=r"rollback: .* of 2026-11-10T.*, the lock's of 2026-11-13") as caught:
            solved(behind, before=locked, now=LATE)
        assert "another mirror" in (caught.value.hint or "")
        capsys.readouterr()
        del asked[:]
        found = solved({"debian": (address, *mirrors["debian"])}, before=locked, now=LATE)
        assert asked, "the mirror that lags was asked first"
    assert found.archives == locked
    assert found.inreleases == ((current / "dists/forky/InRelease").read_bytes(),)
    assert [str(package) for package in found.packages] == ["app 2", "common 2", "lib 2"]
    assert "rollback" in (told := capsys.readouterr().err)
    assert "trying the next mirror" in told


@needs_apt
def test_an_expired_mirror_is_skipped(folder: Path, mirrors: Mirrors, tmp_path: Path) -> None:
    fake_archive.write(folder, "second")
    with serving(fake_archive.write(tmp_path / "old", "first")) as (address, _):
        found = solved({"debian": (address, *mirrors["debian"])}, now=LATE)
        assert found.archives[0].date.startswith("2026-11-13")
        with pytest.raises(InputsError, match=r"(?s)expired at 2026-11-06.*\n.*(NO_PUBKEY|not signed|verified)"):
            fake_archive.write(folder, "stranger")
            solved({"debian": (address, *mirrors["debian"])}, now=LATE)


@needs_apt
def test_lists_are_fetched_by_hash_during_a_mirror_update(folder: Path, mirrors: Mirrors) -> None:
    fake_archive.write(folder, "lagging")
    place = folder / "dists/forky/main/binary-amd64"
    (place / "Packages").write_bytes(STATES["second"].packages)
    assert [str(package) for package in solved(mirrors, now=LATE).packages] == ["app 1.5", "common 2"]
    (held,) = (
        path for path in (place / "by-hash/SHA256").iterdir() if path.read_bytes() == STATES["lagging"].packages
    )
    held.write_bytes(STATES["second"].packages)
    with pytest.raises(InputsError, match="could not fetch the package lists"):
        solved(mirrors, now=LATE)


@needs_apt
def test_expired_states_rollbacks_and_wrong_clocks_are_reported(folder: Path, mirrors: Mirrors) -> None:
    with pytest.raises(InputsError, match="expired at 2026-11-06"):
        solved(mirrors, now=LATE)
    accepted = solved(mirrors, now=LATE, allow_expired=True).archives
    assert accepted[0].expired
    fake_archive.write(folder, "second")
    newer = solved(mirrors, before=accepted, now=LATE).archives
    fake_archive.write(folder, "first")
    with pytest.raises(InputsError, match="rollback"):
        solved(mirrors, before=newer, now=LATE, allow_expired=True)
    fake_archive.write(folder, "future")
    with pytest.raises(InputsError, match="this machine's clock says 2026-11-15") as caught:
        solved(mirrors, now=LATE, allow_expired=True)
    assert "set the clock" in (caught.value.hint or "")
    with pytest.raises(InputsError, match="expired at 2026-11-06"):
        fake_archive.write(folder, "first")
        solved(mirrors, now=datetime(2077, 1, 1, tzinfo=UTC))


def lock_of(found: Resolution) -> Lock:
    return Lock(
        base=Base.of(FORKY),
        recipe_sha256="0" * 64,
        source_date_epoch=epoch_of(found.archives),
        archives=found.archives,
        packages_requested=("app",),
        packages=found.packages,
        firmware={"tdx": Firmware(requested="firm", packages=found.alone)},
        models=(),
        python=(),
        blobs=(),
        agent=TREE,
        guest=TREE,
        tools_sha256="0" * 64,
    )


def refreshed(lock: Lock, store: Store, mirrors: Mirrors, *pools: Path) -> Lock:
    solver = Solver(tools=lambda _: TOOLS, mirrors=lambda: mirrors, now=LATE)
    places = [Pool.parse(str(pool)) for pool in pools]
    return refresh(
        load(shipped() / "demo-cpu.yaml"),
        lock,
        store,
        solver,
        lambda packages: bring(store, packages, pools=places, mirrors=lambda: mirrors),
    )


def versions(lock: Lock) -> list[str]:
    return [str(package) for package in lock.debs]


@needs_apt
def test_refreshing_a_complete_lock_returns_it_unchanged(mirrors: Mirrors, store: Store) -> None:
    lock = lock_of(solved(mirrors))
    assert refreshed(lock, store, mirrors) is lock


@needs_apt
def test_stored_packages_are_kept_although_the_archive_changed(folder: Path, mirrors: Mirrors, store: Store) -> None:
    lock = lock_of(solved(mirrors))
    for name in ("app", "common", "lib"):
        store.add_bytes(Deb(name, "1", "lib (= 1), common" if name == "app" else "").data)
    fake_archive.write(folder, "second")
    after = refreshed(lock, store, mirrors)
    assert versions(after) == ["app 1", "common 1", "lib 1", "firm 2"]
    assert after.packages == lock.packages
    assert after.source_date_epoch == lock.source_date_epoch
    assert changes(lock, after)[1:] == ["firmware firm 1 -> 2"]
    assert moves(lock, after) == ["MRTD moves: firmware", "RTMR0 moves: firmware"]


@needs_apt
def test_only_unavailable_packages_and_their_dependencies_are_replaced(
    folder: Path, mirrors: Mirrors, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = lock_of(solved(mirrors))
    for name in ("common", "lib", "firm"):
        store.add_bytes(Deb(name, "1").data)
    fake_archive.write(folder, "second")
    after = refreshed(lock, store, mirrors)
    assert versions(after) == ["app 2", "common 1", "lib 2", "firm 1"]
    told = capsys.readouterr().err
    assert "1 of 4 locked packages are gone; 3 are kept" in told
    assert "gone - app 1" in told
    assert "these packages must also change: lib\n" in told
    assert moves(lock, after) == ["RTMR1 moves: 2 guest packages", "RTMR2 moves: 2 guest packages"]


@needs_apt
def test_a_listed_package_that_no_mirror_has_is_an_error(folder: Path, mirrors: Mirrors, store: Store) -> None:
    lock = lock_of(solved(mirrors))
    (folder / Deb("common", "1").pool).unlink()
    with pytest.raises(InputsError, match="the archive lists common 1, but no mirror has it") as caught:
        refresh(
            load(shipped() / "demo-cpu.yaml"),
            lock,
            store,
            Solver(tools=lambda _: TOOLS, mirrors=lambda: mirrors, now=EARLY),
            lambda packages: bring(store, packages, mirrors=lambda: mirrors),
        )
    assert "another mirror" in (caught.value.hint or "")


@needs_apt
def test_an_expired_state_recorded_in_the_lock_is_accepted(folder: Path, mirrors: Mirrors) -> None:
    accepted = solved(mirrors, now=LATE, allow_expired=True).archives
    assert solved(mirrors, before=accepted, now=LATE).archives == accepted
    fresh = tuple(archive.model_copy(update={"expired": False}) for archive in accepted)
    with pytest.raises(InputsError, match="expired"):
        solved(mirrors, before=fresh, now=LATE)
    fake_archive.write(folder, "second")
    with pytest.raises(InputsError, match="expired"):
        solved(mirrors, before=accepted, now=datetime(2027, 1, 1, tzinfo=UTC))


@needs_apt
def test_upgrading_one_package_keeps_packages_the_archive_no_longer_lists(
    folder: Path, mirrors: Mirrors, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = lock_of(solved(mirrors))
    bring(store, lock.debs, mirrors=lambda: mirrors)
    fake_archive.write(folder, "second")
    held = lock.debs
    pins = {package.name: package.version for package in held if package.name != "lib"}
    solver = Solver(tools=lambda _: TOOLS, mirrors=lambda: mirrors, now=LATE)
    found = solve(Wanted(FORKY, (APP,), (FIRM,), pins), held, lock.archives, store, solver)
    assert [str(package) for package in (*found.packages, *found.alone)] == ["app 2", "common 1", "lib 2", "firm 1"]
    assert "these packages must also change: app\n" in capsys.readouterr().err


@needs_apt
def test_a_package_in_a_pool_is_available(folder: Path, mirrors: Mirrors, store: Store, tmp_path: Path) -> None:
    lock = lock_of(solved(mirrors))
    fake_archive.write(folder, "second")
    with pytest.raises(GoneError) as caught:
        bring(store, lock.debs, mirrors=lambda: mirrors)
    assert sorted(item.name for item in caught.value.items) == ["app 1", "common 1", "firm 1", "lib 1"]
    pool = tmp_path / "pool"
    for deb in STATES["first"].debs:
        digest = Store(tmp_path / "other").add_bytes(deb.data)
        (pool / relative(digest)).parent.mkdir(parents=True)
        (pool / relative(digest)).write_bytes(deb.data)
    assert refreshed(lock, store, mirrors, pool) is lock


@needs_apt
def test_a_package_missing_from_some_mirrors_is_available(
    folder: Path, mirrors: Mirrors, store: Store, tmp_path: Path
) -> None:
    lock = lock_of(solved(mirrors))
    old = fake_archive.write(tmp_path / "old", "first")
    fake_archive.write(folder, "second")
    with serving(old) as (address, _):
        bring(store, lock.packages, mirrors=lambda: {"debian": (*mirrors["debian"], address)})
    assert all(store.has(package.sha256) for package in lock.packages)


@needs_apt
@pytest.mark.parametrize("cut", [True, False])
def test_a_truncated_or_wrong_package_is_never_stored(
    folder: Path, mirrors: Mirrors, store: Store, *, cut: bool
) -> None:
    lock = lock_of(solved(mirrors))
    place = folder / Deb("lib", "1").pool
    data = place.read_bytes()
    place.write_bytes(data[:-10] if cut else data[:-10] + b"0123456789")
    with pytest.raises(InputsError, match=r"lib 1 .* could not be fetched:\n.*expected") as caught:
        bring(store, lock.packages, mirrors=lambda: mirrors)
    assert not isinstance(caught.value, GoneError), "a mirror that lies does not make it gone"
    assert not store.has(lock.package("lib").sha256)


def where(packages: Iterable[Package]) -> list[str]:
    return [f"{package} {package.suite}" for package in packages]


@pytest.fixture
def two(tmp_path: Path, no_proxy: None) -> Iterator[Mirrors]:
    """A mirror with two suites of one archive: forky, and sid with newer versions of nearly everything."""
    folder = fake_archive.write(tmp_path / "two", "base")
    with serving(fake_archive.write(folder, "other", beside=True)) as (address, _):
        yield {"debian": (address,)}


def of_both(mirrors: Mirrors, *install: str, alone: tuple[str, ...] = ()) -> Resolution:
    wanted = Wanted(FORKY, tuple(map(Request.parse, install)), tuple(map(Request.parse, alone)))
    return resolve(TOOLS, mirrors, wanted, now=EARLY)


@needs_apt
def test_a_kernel_from_another_suite_brings_no_other_package_from_it(two: Mirrors) -> None:
    found = of_both(two, "app", "linux-image-cloud-amd64/sid", alone=("firm",))
    assert where(found.packages) == [
        "app 1 forky",
        "common 1 forky",
        "lib 1 forky",
        "linux-base-7.2.1-cloud-amd64 7.2.1 sid",
        "linux-binary-7.2.1-cloud-amd64 7.2.1 sid",
        "linux-modules-7.2.1-cloud-amd64 7.2.1 sid",
    ]
    assert where(found.alone) == ["firm 1 forky"]
    assert [(archive.suite, archive.date) for archive in found.archives] == [
        ("forky", "2026-10-30T08:08:01Z"),
        ("sid", "2026-10-31T08:08:01Z"),
    ]
    assert epoch_of(found.archives) == int(datetime(2026, 10, 31, 8, 8, 1, tzinfo=UTC).timestamp())


@needs_apt
def test_firmware_from_another_suite_brings_no_other_package_from_it(two: Mirrors) -> None:
    found = of_both(two, "app", "linux-image-cloud-amd64", alone=("firm/sid",))
    assert where(found.alone) == ["firm 9 sid"]
    assert {package.suite for package in found.packages} == {"forky"}
    assert [package.version for package in found.packages if package.name.startswith("linux-binary")] == ["6.9.1"]


@needs_apt
def test_an_unused_suite_is_not_read(two: Mirrors) -> None:
    found = of_both(two, "app", "linux-image-cloud-amd64", alone=("firm",))
    assert {package.suite for package in (*found.packages, *found.alone)} == {"forky"}
    assert [archive.suite for archive in found.archives] == ["forky"]


@needs_apt
def test_a_file_in_both_suites_comes_from_the_requested_one(two: Mirrors) -> None:
    assert where(of_both(two, "same", alone=("firm/sid",)).packages) == ["same 1 forky"]
    assert where(of_both(two, "app", alone=("same/sid",)).alone) == ["same 1 sid"]


@needs_apt
def test_a_package_only_in_the_other_suite_comes_from_there(two: Mirrors) -> None:
    assert where(of_both(two, "late", alone=("firm/sid",)).packages) == ["common 1 forky", "late 9 sid"]
    with pytest.raises(InputsError, match="Unable to locate package late"):
        of_both(two, "late")


@needs_apt
def test_a_package_that_its_suite_lacks_is_not_taken_from_another(two: Mirrors) -> None:
    with pytest.raises(InputsError, match="`early` must come from sid, but only forky has it") as caught:
        of_both(two, "app", alone=("early/sid",))
    assert "leave `suite` out" in (caught.value.hint or "")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The distribution record of the fake archive."""
    sets = distributions.Packages(("app",), (), (), (), ())
    firmware = (distributions.Firmware("firm", "tdx", "x", enrolled_keys=False, production=True),)
    monkeypatch.setitem(DISTRIBUTIONS, "debian", replace(DEBIAN, packages=sets, firmware=firmware))


def recipe_of(folder: Path, **suites: str) -> Recipe:
    text = (shipped() / "tdx-min.yaml").read_text().replace("ovmf-inteltdx", "firm")
    for package, suite in suites.items():
        name = {"kernel": "linux-image-cloud-amd64", "firmware": "firm"}[package]
        text = text.replace(f"package: {name}", f"package: {name}, suite: {suite}")
    (folder / "x.yaml").write_text(text)
    return load(folder / "x.yaml")


@needs_apt
@pytest.mark.usefixtures("small")
def test_changing_the_suite_changes_only_packages_of_that_suite(two: Mirrors, store: Store, tmp_path: Path) -> None:
    solver = Solver(tools=lambda _: TOOLS, mirrors=lambda: two, now=EARLY)

    def lock(previous: Lock | None, **suites: str) -> Lock:
        recipe = recipe_of(tmp_path, **suites)
        made = make_lock(recipe, Current(recipe.digest, TREE, TREE, "0" * 64), previous, store, solver)
        bring(store, made.debs, mirrors=lambda: two)
        return made

    first = lock(None)
    assert (first.rtmr3, first.packages_requested[-1]) == ("unused", "linux-image-cloud-amd64")
    second = lock(first, kernel="sid")
    assert (second.rtmr3, second.packages_requested[-1]) == ("staged", "linux-image-cloud-amd64/sid")
    assert where(second.debs) == [
        "app 1 forky",
        "common 1 forky",
        "lib 1 forky",
        "linux-base-7.2.1-cloud-amd64 7.2.1 sid",
        "linux-binary-7.2.1-cloud-amd64 7.2.1 sid",
        "linux-modules-7.2.1-cloud-amd64 7.2.1 sid",
        "firm 1 forky",
    ]
    assert "RTMR3 moves: RTMR3 is staged with this kernel, times in root and model" in moves(first, second)
    third = lock(second, kernel="sid", firmware="sid")
    assert third.packages == second.packages
    assert where(third.firmware["tdx"].packages) == ["firm 9 sid"]
    assert third.firmware["tdx"].requested == "firm/sid"
    assert lock(third, kernel="sid", firmware="sid").digest == third.digest
    back = lock(third)
    assert (where(back.debs), back.archives) == (where(first.debs), first.archives)


@needs_apt
def test_a_second_distribution_is_locked_by_its_record(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DISTRIBUTIONS, ACME.name, ACME)
    (tmp_path / "x.yaml").write_text(ACME_RECIPE)
    recipe = load(tmp_path / "x.yaml")
    with serving(fake_archive.write(tmp_path / "acme", "acme")) as (address, _):
        mirrors: Mirrors = {"acme": (address,)}
        solver = Solver(tools=lambda _: TOOLS, mirrors=lambda: mirrors, now=EARLY)
        lock = make_lock(recipe, Current(recipe.digest, TREE, TREE, "0" * 64), None, store, solver)
        bring(store, lock.debs, mirrors=lambda: mirrors)
        monkeypatch.setitem(DISTRIBUTIONS, ACME.name, replace(ACME, origin="Other"))
        with pytest.raises(
            InputsError, match=r"acme/one: the signed state is for Acme one \(stable\), expected Other"
        ):
            make_lock(load(tmp_path / "x.yaml"), Current("", TREE, TREE, ""), None, store, solver)
    assert where(lock.debs) == [
        "base 1 one",
        "box 1 one",
        "init 1 one",
        "kernel-core-9.2 9.2 one",
        "python 1 one",
        "acme-td-firmware 1 one",
    ]
    assert (lock.base.distribution, lock.base.release, lock.rtmr3) == ("acme", "one", "staged")
    assert {package.archive for package in lock.debs} == {"acme"}
    assert deb_purl(lock.package("box"), lock) == "pkg:deb/acme/box@1?arch=amd64&distro=one"
    newer = lock.model_copy(update={"packages": tuple(p for p in lock.packages if p.name != "kernel-core-9.2")})
    assert "RTMR1 moves: kernel" in moves(lock, newer)[0]
    assert parse(serialise(lock), Lock, "x") == lock
    monkeypatch.delitem(DISTRIBUTIONS, ACME.name)
    with pytest.raises(InputsError, match="x: base: got acme one, expected debian forky"):
        parse(serialise(lock), Lock, "x")
