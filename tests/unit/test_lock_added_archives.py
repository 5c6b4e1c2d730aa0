"""Archives that a recipe adds: what is locked of them, with the host's real apt and keys of the test's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import fake_archive
import pytest
from fake_archive import STATES, Deb, State
from pool_server import serving
from test_lock_archive import EARLY, FORKY, LATE, TOOLS, TREE, needs_apt, small
from tests.signing import Key, packet

from privml.base.errors import InputsError
from privml.host import survey
from privml.image import root as root_volume
from privml.image.sbom import deb_purl
from privml.lock.addedarchives import archives_of, differences
from privml.lock.apt import judging
from privml.lock.archiverecord import AddedArchive
from privml.lock.changes import changes
from privml.lock.contents import kept
from privml.lock.debian import PackagesIndex
from privml.lock.lockfile import parse, read_lock, serialise
from privml.lock.make import Current, bring, check, epoch_of, make_lock
from privml.lock.models import Lock, Tree
from privml.lock.moves import moves
from privml.lock.offers import Offer, offer_of
from privml.lock.refresh import refresh
from privml.lock.solver import Solver
from privml.lock.wanted import Wanted, check_places
from privml.recipe.loader import Recipe, load, shipped
from privml.recipe.packages import guest_packages
from privml.repro.lockchanges import lock_changes
from privml.store.mirrors import Mirrors
from privml.store.objects import Store

pytestmark = [pytest.mark.usefixtures("no_proxy", "small"), needs_apt]
__all__ = ["small"]
SIGNER = Key("signer")
KEY = Key("acme", subkeys=[SIGNER])
DIGEST = "ab" * 32
OCTOBER, NOVEMBER = "Fri, 30 Oct 2026 08:08:01 UTC", "Fri, 06 Nov 2026 08:08:01 UTC"
TOOL = Deb("acme-tool", "1.0", "acme-lib, common")
# Names of the base in higher versions, what the base provides or would prefer, and a kernel.
GREEDY = (
    Deb("common", "99"),
    Deb("lib", "99", more="Essential: yes\n"),
    Deb("linux-image-acme", "99"),
    Deb("acme-essential", "1", more="Essential: yes\n"),
)
STATE = State(
    OCTOBER,
    NOVEMBER,
    (TOOL, replace(TOOL, version="1.1"), Deb("acme-lib", "1.0", more="Provides: common (= 99), lib\n"), *GREEDY),
    origin="Acme",
    suite="stable",
    codename="one",
)


@dataclass
class Place:
    """A base archive and an added one on their mirrors, with the folder of recipes next to them."""

    recipes: Path
    acme: Path
    mirrors: Mirrors
    store: Store
    asked: list[str]
    now: datetime = EARLY

    def serve(self, state: State, key: Key = KEY) -> str:
        """Let the archive have this state; returns the digest of its InRelease."""
        inrelease = key.clearsigned(state.release)
        fake_archive.publish(self.acme, state, inrelease, beside=True)
        return hashlib.sha256(inrelease).hexdigest()

    def recipe(self, packages: str = "acme-tool/acme", more: str = "", key: Key = KEY, suite: str = "one") -> Recipe:
        (self.recipes / "acme.gpg").write_bytes(key.public)
        text = (shipped() / "tdx-min.yaml").read_text().replace("ovmf-inteltdx", "firm")
        archive = f'suite: {suite}, keyring: acme.gpg, fingerprints: ["{key.fingerprint}"]{more and ", " + more}'
        (self.recipes / "x.yaml").write_text(f"{text}packages: [{packages}]\narchives: {{acme: {{{archive}}}}}\n")
        return load(self.recipes / "x.yaml")

    def current(self, recipe: Recipe) -> Current:
        return Current(recipe.digest, TREE, TREE, "0" * 64, archives=archives_of(recipe))

    def solver(self, **options: object) -> Solver:
        return Solver(tools=lambda _: TOOLS, mirrors=lambda: self.mirrors, now=self.now, **options)  # type: ignore[arg-type]

    def lock(self, recipe: Recipe, previous: Lock | None = None, **options: object) -> Lock:
        made = make_lock(recipe, self.current(recipe), previous, self.store, self.solver(**options))
        bring(self.store, made.debs, mirrors=lambda: self.mirrors)
        return made

    def offer(self, recipe: Recipe, before: Sequence[AddedArchive] = (), *, allow_expired: bool = False) -> Offer:
        """What the archive alone offers, if its base has `app`, `common` and `lib`."""
        archives = archives_of(recipe)
        wanted = Wanted(FORKY, guest_packages(recipe), archives=archives)
        state = judging(wanted, before, allow_expired, self.now)
        return offer_of(TOOLS, self.mirrors, archives[0], wanted, frozenset(("app", "common", "lib")), state)

    def frozen(self, recipe: Recipe) -> AddedArchive:
        state = self.offer(recipe).state
        assert state is not None
        return state


@pytest.fixture
def place(tmp_path: Path, store: Store) -> Iterator[Place]:
    base, acme = fake_archive.write(tmp_path / "debian", "base"), tmp_path / "acme"
    acme.mkdir()
    (tmp_path / "recipes").mkdir()
    with ExitStack() as stack:
        address, _ = stack.enter_context(serving(base))
        other, asked = stack.enter_context(serving(acme))
        made = Place(tmp_path / "recipes", acme, {"debian": (address,), "acme": (other,)}, store, asked)
        made.serve(STATE)
        yield made


def where(lock: Lock) -> list[str]:
    return [f"{package} {package.archive}" for package in lock.packages if not package.name.startswith("linux")]


BASE = ["app 1 debian", "common 1 debian", "lib 1 debian"]


def test_packages_come_from_the_archive_and_their_dependencies_from_the_base(place: Place) -> None:
    # A later date than the base's does not move the times of the image.
    place.serve(replace(STATE, date="Sun, 01 Nov 2026 00:00:00 UTC"))
    recipe = place.recipe()
    lock = place.lock(recipe)
    assert where(lock) == ["acme-lib 1.0 acme", "acme-tool 1.1 acme", *BASE]
    assert lock.packages_requested[-1] == "acme-tool/acme"
    (added,) = lock.added_archives
    inrelease = (place.acme / "dists/one/InRelease").read_bytes()
    assert (added.label, added.suite, added.components) == ("acme", "one", ("main",))
    assert (added.date, added.valid_until, added.expired) == ("2026-11-01T00:00:00Z", "2026-11-06T08:08:01Z", False)
    assert added.inrelease_sha256 == hashlib.sha256(inrelease).hexdigest()
    assert added.keyring_sha256 == hashlib.sha256(KEY.public).hexdigest()
    assert added.fingerprints == (KEY.fingerprint,)
    assert parse(serialise(lock), Lock, "x") == lock
    assert added.inrelease_sha256 in kept([lock], place.store)
    assert [package.name for package in lock.outside] == ["acme-lib", "acme-tool"]
    assert lock.source_date_epoch == epoch_of(lock.archives)
    assert "127.0.0.1" not in serialise(lock).decode()
    check(recipe, lock, place.current(recipe))
    plan = root_volume.plan_of(recipe, lock.model_copy(update={"agent": Tree.of([])}), b"{}")
    assert (plan.outside, plan.added) == (("acme-lib", "acme-tool"), ("acme-tool",))
    assert not {"acme-lib", "acme-tool"} & set(plan.packages)
    assert deb_purl(lock.package("acme-tool"), lock) == "pkg:deb/acme/acme-tool@1.1?arch=amd64"
    assert deb_purl(lock.package("app"), lock) == "pkg:deb/debian/app@1?arch=amd64&distro=forky"


def test_a_lock_whose_archive_passes_for_the_base_s_is_refused(place: Place) -> None:
    state = place.frozen(place.recipe())
    lock = read_lock(shipped() / "tdx-min.lock.json")
    assert parse(serialise(lock.model_copy(update={"added_archives": (state,)})), Lock, "x").added_archives == (
        state,
    )
    forged = lock.model_copy(update={"added_archives": (state.model_copy(update={"label": "debian"}),)})
    with pytest.raises(InputsError, match="added_archives: expected labels other than the base's"):
        parse(serialise(forged), Lock, "x")


def test_a_package_of_the_base_comes_from_the_archive_if_it_is_asked_for(place: Place) -> None:
    place.serve(replace(STATE, debs=(*STATE.debs, Deb("same", "0.5", "common"))))
    assert where(place.lock(place.recipe("same/acme"))) == [*BASE, "same 0.5 acme"]


PIN = "archives.acme.pins."
REFUSED = {
    ("acme-essential/acme", ""): ("`acme-essential/acme` is marked `Essential: yes`, expected", "installed last"),
    ("tool/acme", ""): ("the archive `acme` has no package `tool`", "acme-essential, acme-lib, acme-tool"),
    ("acme-tool/acme", "components: [contrib]"): ("acme: the suite `one` has no component `contrib`", ""),
    ("acme-tool/acme", 'pins: {acme-tool: "3"}'): (f"{PIN}acme-tool: got 1.0, 1.1, expected 3", "leave the pin out"),
    ("acme-tool/acme", 'pins: {other: "3"}'): (f"{PIN}other: got no such package, expected 3", "leave the pin out"),
    ("acme-tool/acme", f"inrelease_sha256: {DIGEST}"): ("valid until 2026-11-06T08:08:01Z, so expected no", "out"),
}


@pytest.mark.parametrize(("packages", "more"), REFUSED)
def test_what_the_archive_does_not_have_is_refused(place: Place, packages: str, more: str) -> None:
    text, hint = REFUSED[packages, more]
    with pytest.raises(InputsError) as caught:
        place.offer(place.recipe(packages, more))
    assert text in caught.value.message
    assert hint in (caught.value.hint or "")


def test_what_is_not_asked_for_rightly_is_refused(place: Place) -> None:
    packages = [each.package for each in place.offer(place.recipe()).packages if each.package.version == "1.0"]
    recipe = place.recipe("acme-lib, acme-tool/acme")
    wanted = Wanted(FORKY, guest_packages(recipe), archives=archives_of(recipe))
    with pytest.raises(InputsError, match="no package `acme-lib`, only `acme` has it") as caught:
        check_places(wanted, packages)
    assert "`acme-lib/acme`" in (caught.value.hint or "")
    tool = next(each for each in packages if each.name == "acme-tool")
    moved = tool.model_copy(update={"archive": "debian"})
    with pytest.raises(
        InputsError, match="`acme-tool` must come from the archive `acme`, but apt chose that of debian"
    ):
        check_places(wanted, (moved,))
    with pytest.raises(InputsError, match="no package `acme-essential` of this archive is in the guest"):
        place.lock(place.recipe(more='pins: {acme-essential: "1"}'))


def test_an_archive_s_packages_are_never_essential_and_provide_nothing_of_the_base(place: Place) -> None:
    controls = {each.package.name: each.control for each in place.offer(place.recipe()).packages}
    assert controls["acme-essential"] == "Package: acme-essential\nVersion: 1\nArchitecture: amd64"
    assert controls["acme-lib"] == "Package: acme-lib\nVersion: 1.0\nArchitecture: amd64"
    assert controls["acme-tool"].endswith("\nDepends: acme-lib, common")
    assert sorted(controls) == ["acme-essential", "acme-lib", "acme-tool"]


def test_a_pinned_version_is_taken_and_kept(place: Place) -> None:
    recipe = place.recipe(more='pins: {acme-tool: "1.0"}')
    lock = place.lock(recipe)
    assert "acme-tool 1.0 acme" in where(lock)
    assert list(differences(archives_of(recipe), lock)) == []
    newer = place.recipe()
    assert "acme-tool 1.0 acme" in where(place.lock(newer, lock)), "versions stay unless an upgrade is asked for"
    other = place.recipe(more='pins: {acme-tool: "1.1"}')
    with pytest.raises(InputsError, match="archive acme: changed: pin of acme-tool"):
        check(other, lock, place.current(other))
    assert "acme-tool 1.1 acme" in where(place.lock(other, lock))


STRANGER = Key("stranger")


def test_a_state_of_another_key_is_refused(place: Place) -> None:
    place.serve(STATE, STRANGER)
    with pytest.raises(
        InputsError, match=r"(?s)could not fetch the package lists:\nacme at 127\.0\.0\.1: .*not signed"
    ):
        place.lock(place.recipe())


def test_a_subkey_may_sign_if_the_listed_key_says_so(place: Place) -> None:
    place.serve(STATE, SIGNER)
    assert place.offer(place.recipe()).packages
    # A stranger's key, put after the listed one with a signature that is not the listed key's.
    place.serve(STATE, STRANGER)
    listed = Key("acme", private=KEY.private)
    for binding in (STRANGER.binding(STRANGER), KEY.binding(SIGNER)):
        recipe = place.recipe(key=listed)
        (place.recipes / "acme.gpg").write_bytes(listed.public + packet(14, STRANGER.body) + binding)
        with pytest.raises(InputsError, match="could not fetch the package lists"):
            place.offer(recipe)


def test_the_archive_s_key_is_not_trusted_for_the_base(place: Place, tmp_path: Path) -> None:
    base = STATES["base"]
    forged = fake_archive.publish(tmp_path / "forged", base, KEY.clearsigned(base.release))
    with serving(forged) as (address, _):
        place.mirrors = {**place.mirrors, "debian": (address,)}
        with pytest.raises(InputsError, match=r"could not fetch the package lists:\ndebian at"):
            place.lock(place.recipe())


def test_the_base_s_key_is_not_trusted_for_the_archive(place: Place) -> None:
    place.mirrors = {**place.mirrors, "acme": place.mirrors["debian"]}
    with pytest.raises(InputsError, match=r"could not fetch the package lists:\nacme at"):
        place.offer(place.recipe(suite="forky"))


def test_without_valid_until_the_recipe_names_the_state(place: Place) -> None:
    frozen = replace(STATE, valid_until=None)
    digest = place.serve(frozen)
    with pytest.raises(InputsError, match="the signed state has no Valid-Until, expected the SHA-256") as caught:
        place.offer(place.recipe())
    assert f"`inrelease_sha256: {digest}`" in (caught.value.hint or "")
    recipe = place.recipe(more=f"inrelease_sha256: {digest}")
    lock = place.lock(recipe)
    assert lock.added_archives[0].valid_until is None
    check(recipe, lock, place.current(recipe))
    later = place.serve(replace(frozen, date="Sat, 31 Oct 2026 08:08:01 UTC"))
    with pytest.raises(InputsError) as caught:
        place.offer(recipe)
    assert f"of 2026-10-31T08:08:01Z with the SHA-256 {later}, expected {digest}" in caught.value.message
    moved = place.recipe(more=f"inrelease_sha256: {later}")
    assert list(differences(archives_of(moved), lock)) == ["archive acme: changed: inrelease_sha256"]
    assert place.frozen(moved).inrelease_sha256 == later


def test_rollbacks_and_expired_states_of_the_archive_are_refused(place: Place) -> None:
    recipe = place.recipe()
    newer = replace(STATE, date="Sun, 01 Nov 2026 00:00:00 UTC")
    place.serve(newer)
    before = (place.frozen(recipe),)
    place.serve(STATE)
    with pytest.raises(InputsError, match=r"acme/one: rollback: the mirror's state is of 2026-10-30"):
        place.offer(recipe, before)
    place.serve(replace(newer, valid_until="Sun, 01 Nov 2026 00:00:00 UTC"))
    place.now = datetime(2026, 11, 3, tzinfo=UTC)
    with pytest.raises(InputsError, match=r"acme/one: the mirror's state expired at 2026-11-01"):
        place.offer(recipe, before)
    expired = place.offer(recipe, before, allow_expired=True).state
    assert expired is not None
    assert expired.expired


def test_the_wrong_suite_is_refused(place: Place) -> None:
    place.serve(replace(STATE, codename="two"))
    (place.acme / "dists/one").rename(place.acme / "dists/old")
    (place.acme / "dists/two").rename(place.acme / "dists/one")
    with pytest.raises(InputsError, match=r"acme/one: the signed state is for Acme two \(stable\), expected one"):
        place.offer(place.recipe())


def test_an_archive_whose_packages_stay_is_not_asked_again(place: Place) -> None:
    lock = place.lock(place.recipe())
    del place.asked[:]
    again = place.lock(place.recipe("acme-tool/acme, same"), lock)
    assert place.asked == []
    assert where(again) == ["acme-lib 1.0 acme", "acme-tool 1.1 acme", *BASE, "same 1 debian"]
    assert again.added_archives == lock.added_archives
    more = place.lock(place.recipe("acme-tool/acme, acme-lib/acme"), again)
    assert where(more) == where(lock)
    assert place.asked
    upgraded = place.recipe()
    place.serve(replace(STATE, debs=(*STATE.debs, replace(TOOL, version="2.0"))))
    assert where(place.lock(upgraded, lock, upgrade=("acme-tool",)))[1] == "acme-tool 2.0 acme"


@pytest.mark.parametrize("lost", ["lib", "acme-lib"])
def test_a_refreshed_lock_replaces_only_what_is_gone(place: Place, tmp_path: Path, lost: str) -> None:
    recipe = place.recipe()
    lock = place.lock(recipe)
    place.store.path(lock.package(lost).sha256).unlink()
    newer = tuple(replace(deb, version="3.0", more="") if deb.name == "acme-lib" else deb for deb in STATE.debs)
    place.serve(replace(STATE, debs=newer))
    (place.acme / Deb("acme-lib", "1.0").pool).unlink()
    second = replace(
        STATES["base"], debs=tuple(replace(d, version="2") if d.name == "lib" else d for d in STATES["base"].debs)
    )
    assert second != STATES["base"]
    del place.asked[:]
    if lost == "lib":
        # The base's mirror has lost it; the archive is not needed.
        (tmp_path / "debian" / Deb("lib", "1").pool).unlink()
        with pytest.raises(InputsError, match="the archive lists lib 1, but no mirror has it"):
            refreshed(place, recipe, lock)
        assert place.asked == []
        return
    after = refreshed(place, recipe, lock)
    assert where(after) == ["acme-lib 3.0 acme", "acme-tool 1.1 acme", *BASE]
    assert after.added_archives[0].inrelease_sha256 != lock.added_archives[0].inrelease_sha256
    assert after.archives == lock.archives


def refreshed(place: Place, recipe: Recipe, lock: Lock) -> Lock:
    fetch: Callable[..., object] = lambda packages: bring(place.store, packages, mirrors=lambda: place.mirrors)  # noqa: E731
    return refresh(recipe, lock, place.store, place.solver(), fetch)


def test_a_changed_archive_makes_the_lock_stale_and_shows_in_every_comparison(place: Place) -> None:
    lock = place.lock(place.recipe())
    other = place.recipe(key=STRANGER)
    with pytest.raises(InputsError) as caught:
        check(other, lock, place.current(other))
    assert "  archive acme: changed: keyring, fingerprints\n" in caught.value.message + "\n"
    place.serve(STATE, STRANGER)
    after = place.lock(other, lock)
    keys = f"archive acme/one: keys: {STRANGER.fingerprint}"
    assert keys in changes(lock, after)
    told = [change.text() for change in lock_changes(lock, after)]
    assert f"keys of archive acme/one: {KEY.fingerprint} -> {STRANGER.fingerprint} [moves nothing]" in told
    assert not [line for line in moves(lock, after) if "may move" not in line]
    plain = load(_without_archives(place))
    with pytest.raises(InputsError, match="archive acme: no longer used"):
        check(plain, lock, place.current(plain))
    before = place.lock(plain)
    assert "added_archives" not in serialise(before).decode()
    with pytest.raises(InputsError, match="archive acme: is new"):
        check(other, before, place.current(other))
    assert "archive acme/one: no longer used" in changes(lock, before)


def _without_archives(place: Place) -> Path:
    path = place.recipes / "plain.yaml"
    path.write_text((shipped() / "tdx-min.yaml").read_text().replace("ovmf-inteltdx", "firm"))
    return path


def test_an_archive_without_a_mirror_is_named(place: Place) -> None:
    del place.mirrors["acme"]
    with pytest.raises(InputsError, match="no mirror of the archive `acme` is configured") as caught:
        place.offer(place.recipe())
    assert "mirrors.yaml" in (caught.value.hint or "")


ODD = {
    ("Package: odd\n", "Package: ../odd\n"): "the entry of pool/main/odd_1_amd64.deb is malformed: name: ",
    ("Package: odd\n", ""): "the entry of pool/main/odd_1_amd64.deb is malformed: it has no Package",
    ("SHA256:", "MD5sum:"): "the entry of pool/main/odd_1_amd64.deb is malformed: it has no SHA256",
    ("Filename: pool", "Filename: ../pool"): "the entry of ../pool/main/odd_1_amd64.deb is malformed: path: ",
}


@pytest.mark.parametrize("change", ODD)
def test_entries_that_are_no_packages_are_refused(change: tuple[str, str]) -> None:
    data = f"{TOOL.stanza}{Deb('odd', '1').stanza.replace(*change)}".encode()
    index = PackagesIndex(data, archive="acme", suite="one", component="main", base="")
    tool, odd = index.stanzas()
    assert index.record(tool).name == "acme-tool"
    with pytest.raises(InputsError) as caught:
        index.record(odd)
    assert caught.value.message.startswith(f"acme/one/main: {ODD[change]}")
    with pytest.raises(InputsError, match="acme/one/main: its list is not UTF-8"):
        list(PackagesIndex(b"\xff", archive="acme", suite="one", component="main", base="").stanzas())


def test_an_entry_that_is_no_package_ends_the_offer(place: Place) -> None:
    class Odd(Deb):
        @property
        def stanza(self) -> str:
            return super().stanza.replace("Package: odd\n", "Package: ../odd\n")

    place.serve(replace(STATE, debs=(*STATE.debs, Odd("odd", "1"))))
    with pytest.raises(InputsError, match=r"acme/one/main: the entry of pool/main/odd_1_amd64\.deb is malformed"):
        place.offer(place.recipe())


def test_doctor_asks_the_archive_s_mirrors(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = read_lock(shipped() / "tdx-min.lock.json")
    lock = lock.model_copy(update={"added_archives": (place.frozen(place.recipe()),)})
    monkeypatch.setattr(survey, "host_mirrors", lambda: place.mirrors)
    (fact,) = survey._mirrors([], [lock], LATE)[0]
    assert (fact.suite, fact.problem, fact.date) == ("acme/one", "", "2026-10-30")
    (place.acme / "dists/one/InRelease").unlink()
    assert survey._mirrors([], [lock], LATE)[0][0].problem == "status 404"
    place.mirrors = {}
    (fact,) = survey._mirrors([], [lock], LATE)[0]
    assert (fact.address, fact.problem) == ("mirrors.yaml", "names no address of it")
