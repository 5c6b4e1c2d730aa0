"""Uploads to a registry and to a server that takes PUT: what is sent, what is sent again, and what is said."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import registry_push_fake
from registry_push_fake import REPOSITORY, USER, Files, Registry

from privml.base.errors import HostError, InputsError, UsageError
from privml.store import logins
from privml.store.fetch import Item, fetch
from privml.store.objects import Store
from privml.store.pools import Pool, relative
from privml.store.upload import Piece, tag, target, upload

pytestmark = pytest.mark.usefixtures("no_proxy")
SMALL = b"bytes of an artefact"
LARGE = hashlib.sha256(b"x").digest() * 100_000  # 3.2 MB
HOME = f"/v2/{REPOSITORY}"
UPLOADS = f"{HOME}/blobs/uploads/"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def piece(data: bytes, name: str = "root.raw") -> Piece:
    return Piece(digest(data), len(data), name, lambda: io.BytesIO(data))


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host without logins; where `podman login` keeps its own."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config/containers/auth.json"


@pytest.fixture
def registry() -> Iterator[Registry]:
    with registry_push_fake.serving() as found:
        yield found


@pytest.fixture
def files() -> Iterator[Files]:
    with registry_push_fake.serving_files() as found:
        yield found


def send(pool: str, *data: bytes) -> tuple[int, int]:
    return upload(target(pool), [piece(each) for each in data], sleep=lambda _: None)


def refused(pool: str, *data: bytes) -> HostError:
    with pytest.raises(HostError) as error:
        send(pool, *data or (SMALL,))
    return error.value


def log_in(file: Path, address: str, user: str = USER) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"auths": {address: {"auth": user.removeprefix("Basic ")}}}))


def host(registry: Registry) -> str:
    return registry.address.removeprefix("http://")


# --- a registry -----------------------------------------------------------------------------------------------------


def test_what_is_uploaded_is_fetched_again(registry: Registry, store: Store) -> None:
    assert send(registry.pool, SMALL, LARGE) == (2, len(SMALL) + len(LARGE))
    assert registry.blobs == {digest(SMALL): SMALL, digest(LARGE): LARGE}
    items = [Item(digest(data), len(data), "x", ()) for data in (SMALL, LARGE)]
    fetch(store, items, pools=[Pool.parse(registry.pool)], attempts=1)
    assert store.read(digest(LARGE)) == LARGE


def test_each_blob_is_asked_for_first_and_sent_once(registry: Registry) -> None:
    registry.blobs[digest(SMALL)] = SMALL
    assert send(registry.pool, SMALL, LARGE, LARGE) == (1, len(LARGE))
    assert registry.asked == [
        ("HEAD", f"{HOME}/blobs/sha256:{digest(SMALL)}", 200),
        ("HEAD", f"{HOME}/blobs/sha256:{digest(LARGE)}", 404),
        ("POST", UPLOADS, 202),
        ("PUT", f"{UPLOADS}upload-1", 201),
    ]
    assert send(registry.pool, SMALL, LARGE) == (0, 0)
    assert registry.calls("PUT") == [(f"{UPLOADS}upload-1", 201)]


@pytest.mark.parametrize("relative_location", [True, False])
def test_the_place_of_an_upload_may_be_a_path_or_an_address(registry: Registry, relative_location: bool) -> None:
    registry.relative = relative_location
    assert send(registry.pool, SMALL) == (1, len(SMALL))


def test_an_upload_that_breaks_goes_on_where_it_was(registry: Registry) -> None:
    registry.cuts = [1_000_000, 1_000_000]
    assert send(registry.pool, LARGE) == (1, len(LARGE))
    assert registry.blobs == {digest(LARGE): LARGE}
    assert [(method, status) for method, _, status in registry.asked] == [
        ("HEAD", 404), ("POST", 202), ("PUT", 0),
        ("HEAD", 404), ("GET", 204), ("PATCH", 0),
        ("HEAD", 404), ("GET", 204), ("PATCH", 202), ("PUT", 201),
    ]  # fmt: skip


def test_an_upload_that_ended_without_an_answer_is_closed(registry: Registry) -> None:
    """All bytes but one are there; then all of them, and only the digest is to be said."""
    registry.cuts = [len(LARGE) - 1]
    registry.unsure = [503]
    assert send(registry.pool, LARGE) == (1, len(LARGE))
    assert [status for _, status in registry.calls("PATCH")] == [202]
    assert [status for _, status in registry.calls("PUT")] == [0, 503, 201]


def test_an_upload_that_the_registry_forgot_is_begun_again(registry: Registry) -> None:
    registry.cuts, registry.keeps = [1_000_000, 2_000_000], False
    assert send(registry.pool, LARGE) == (1, len(LARGE))
    assert [status for _, status in registry.calls("POST")] == [202, 202, 202]
    assert registry.blobs == {digest(LARGE): LARGE}


def test_after_five_attempts_it_is_over(registry: Registry) -> None:
    registry.cuts, registry.keeps = [10] * 9, False
    error = refused(registry.pool, LARGE)
    assert error.message.startswith(f"root.raw (sha256:{digest(LARGE)}) could not be uploaded to {registry.address}")
    assert error.message.endswith("(5 attempts)")
    assert len(registry.calls("POST")) == 5
    assert registry.blobs == {}


def test_a_file_that_is_another_one_than_named_is_not_kept(registry: Registry) -> None:
    wrong = Piece(digest(SMALL), len(LARGE), "root.raw", lambda: io.BytesIO(LARGE))
    with pytest.raises(HostError, match=r"HTTP 400 \(DIGEST_INVALID: not its\\x1b\[2J digest\), expected 201 or 204"):
        upload(target(registry.pool), [wrong], sleep=lambda _: None)
    short = Piece(digest(LARGE), len(LARGE), "root.raw", lambda: io.BytesIO(SMALL))
    with pytest.raises(HostError, match="the file ended 3199980 bytes early"):
        upload(target(registry.pool), [short], sleep=lambda _: None)
    assert registry.blobs == {}


@pytest.mark.parametrize("wants", ["basic", "token"])
def test_the_login_of_this_host_is_used_where_it_is_wanted(registry: Registry, nobody: Path, wants: str) -> None:
    registry.wants = wants
    log_in(nobody, host(registry))
    assert send(registry.pool, SMALL, LARGE) == (2, len(SMALL) + len(LARGE))
    assert registry.given[0] == (f"{HOME}/blobs/sha256:{digest(SMALL)}", None)
    seen = {given for path, given in registry.given[1:] if path != "/token"}
    assert seen == {USER if wants == "basic" else "Bearer token-1"}
    assert registry.tokens == (wants == "token")


def test_a_token_that_ended_is_asked_for_again(registry: Registry, nobody: Path) -> None:
    registry.wants = "token"
    log_in(nobody, f"{host(registry)}/project")
    pool = target(registry.pool)

    def opened() -> io.BytesIO:
        registry.tokens += 1  # the one that is in use ends, just before the large body is sent
        return io.BytesIO(LARGE)

    assert upload(pool, [piece(SMALL), Piece(digest(LARGE), len(LARGE), "x", opened)], sleep=lambda _: None)[0] == 2
    assert registry.blobs == {digest(SMALL): SMALL, digest(LARGE): LARGE}


@pytest.mark.parametrize("wants", ["basic", "token"])
def test_a_wrong_login_and_none_are_said_and_not_shown(
    registry: Registry, nobody: Path, wants: str, capfd: pytest.CaptureFixture[str]
) -> None:
    registry.wants = wants
    for known in (None, "Basic " + base64.b64encode(b"ann:hunter2").decode()):
        if known is not None:
            log_in(nobody, host(registry), known)
        error = refused(registry.pool)
        assert "HTTP 401" in error.message
        assert error.hint is not None and error.hint.startswith("log in to the registry on this host")
        said = error.message + error.hint + "".join(capfd.readouterr())
        assert not [word for word in ("hunter2", "ann", base64.b64encode(b"hunter2").decode()) if word in said]


def test_a_login_for_another_place_is_not_used(registry: Registry, nobody: Path) -> None:
    registry.wants = "basic"
    nobody.parent.mkdir(parents=True)
    entry = {"auth": USER.removeprefix("Basic ")}
    name = host(registry)
    others = {f"{name}/other": entry, f"{name}0": entry, f"{name}/proj": entry, "registry.example.invalid": entry}
    nobody.write_text(json.dumps({"auths": others}))
    assert "HTTP 401" in refused(registry.pool).message
    assert {given for _, given in registry.given} == {None}


def test_no_login_is_sent_to_a_token_service_without_https(registry: Registry, nobody: Path) -> None:
    log_in(nobody, host(registry))
    registry.wants = "token"
    registry.address, real = "http://tokens.example.invalid", registry.address
    pool = f"oci://{real.removeprefix('http://')}/{REPOSITORY}"
    assert "names the token service `http://tokens.example.invalid/token`, expected https" in refused(pool).message


def test_the_place_of_an_upload_on_another_server_gets_no_login(registry: Registry, nobody: Path) -> None:
    registry.wants = "basic"
    log_in(nobody, host(registry))
    with registry_push_fake.serving() as other:
        other.uploads["upload-1"] = bytearray()
        registry.location = f"{other.address}{UPLOADS}upload-1?state=0"
        assert send(registry.pool, SMALL) == (1, len(SMALL))
        assert other.blobs == {digest(SMALL): SMALL}
        assert {given for _, given in other.given} == {None}


@pytest.mark.parametrize(
    "location", ["", "http://other.example.invalid/x", "ftp://x/", "https://a:b@x/", "http://[/"]
)
def test_a_place_that_cannot_be_is_refused(registry: Registry, location: str) -> None:
    registry.location = location
    assert "it names no place for the upload, expected an https address" in refused(registry.pool).message
    assert registry.calls("PUT") == []


@pytest.mark.parametrize(
    ("where", "status", "said", "tries"),
    [
        (("POST", UPLOADS), 403, "HTTP 403, expected 202", 1),
        (("POST", UPLOADS), 404, "HTTP 404, expected 202", 1),
        (("POST", UPLOADS), 307, "HTTP 307, expected 202", 1),
        (("POST", UPLOADS), 503, "HTTP 503, expected 202 (5 attempts)", 5),
        (("POST", UPLOADS), 429, "HTTP 429, expected 202 (5 attempts)", 5),
        (("PUT", UPLOADS), 413, "HTTP 413, expected 201 or 204", 1),
        (("HEAD", HOME), 500, "HTTP 500, expected 200 (5 attempts)", 0),
    ],
)
def test_what_a_registry_refuses_is_said(
    where: tuple[str, str], status: int, said: str, tries: int, registry: Registry
) -> None:
    registry.bend[where] = (status, b"")
    assert said in refused(registry.pool, LARGE).message
    assert len(registry.calls("POST")) == tries
    assert registry.blobs == {}


def test_a_blob_of_another_size_is_said(registry: Registry) -> None:
    registry.blobs[digest(SMALL)] = b"short"
    assert f"it has 5 bytes, expected {len(SMALL)}" in refused(registry.pool).message


def test_nobody_there(registry: Registry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert "Connection refused (5 attempts)" in refused(f"oci://127.0.0.1:{port}/a").message


MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def manifest_of(data: bytes) -> bytes:
    row = {"mediaType": "x", "digest": f"sha256:{digest(data)}", "size": len(data)}
    return json.dumps({"mediaType": MANIFEST, "config": row, "layers": [row]}).encode()


def test_a_manifest_is_tagged_once_and_never_moved(registry: Registry) -> None:
    pool, data = target(registry.pool), manifest_of(SMALL)
    with pytest.raises(HostError, match=r"manifest `demo-1` .* HTTP 400 \(MANIFEST_BLOB_UNKNOWN"):
        tag(pool, "demo-1", MANIFEST, f"sha256:{digest(data)}", data)
    send(registry.pool, SMALL)
    for _ in range(2):
        tag(pool, "demo-1", MANIFEST, f"sha256:{digest(data)}", data)
    assert registry.manifests == {"demo-1": data}
    assert [status for path, status in registry.calls("PUT") if "manifests" in path] == [400, 201]
    other = manifest_of(SMALL) + b" "
    with pytest.raises(HostError, match=f"the tag is sha256:{digest(data)}, expected sha256:{digest(other)}"):
        tag(pool, "demo-1", MANIFEST, f"sha256:{digest(other)}", other)
    assert registry.manifests == {"demo-1": data}


def test_a_private_registry_is_fetched_from_with_the_same_login(
    registry: Registry, nobody: Path, store: Store
) -> None:
    send(registry.pool, SMALL)
    registry.wants = "basic"
    items = [Item(digest(SMALL), len(SMALL), "x", ())]
    with pytest.raises(InputsError, match="asks for `Basic realm="):
        fetch(store, items, pools=[Pool.parse(registry.pool)], attempts=1)
    log_in(nobody, host(registry))
    fetch(store, items, pools=[Pool.parse(registry.pool)], attempts=1)
    assert store.read(digest(SMALL)) == SMALL


# --- logins ---------------------------------------------------------------------------------------------------------


def test_the_most_exact_entry_of_the_first_file_counts(
    nobody: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entries(**auths: str) -> str:
        rows = {
            key.replace("_", "/"): {"auth": base64.b64encode(f"x:{word}".encode()).decode()}
            for key, word in auths.items()
        }
        return json.dumps({"auths": rows, "credsStore": "desktop"})

    def found(address: str) -> str | None:
        header = logins.basic_for(address)
        return None if header is None else base64.b64decode(header.removeprefix("Basic ")).decode()

    docker = tmp_path / "home/.docker/config.json"
    docker.parent.mkdir(parents=True)
    docker.write_text(entries(h="docker", h_a="docker-a", k="docker-k"))
    nobody.parent.mkdir(parents=True)
    nobody.write_text(entries(h="config", h_a_b="config-ab"))
    assert [found(address) for address in ("h/x", "h/a", "h/a/b", "h/a/bc", "k/x", "m/x")] == [
        "x:config", "x:config", "x:config-ab", "x:config", "x:docker-k", None,
    ]  # fmt: skip
    (tmp_path / "run/containers").mkdir(parents=True)
    (tmp_path / "run/containers/auth.json").write_text(entries(h="run"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    assert found("h/x") == "x:run"
    (tmp_path / "mine.json").write_text(entries(k="mine"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "mine.json"))
    assert (found("h/x"), found("k/x")) == (None, "x:mine")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "nowhere"))
    assert found("h/x") is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"auths": []}', '{"auths": {"h": {"auth": "a"}}}', '{"auths": {"h": {"auth": "YQ=="}}}',
             '{"auths": {"h": {"auth": ["x"]}}}', '{"auths": {"h": {"auth": "YTpi\\r\\nX: y"}}}']
)  # fmt: skip
def test_a_malformed_file_of_logins_is_said_without_what_it_holds(nobody: Path, text: str) -> None:
    nobody.parent.mkdir(parents=True)
    nobody.write_text(text)
    with pytest.raises(HostError) as error:
        logins.basic_for("h/x")
    assert str(nobody) in error.value.message
    assert "YTpi" not in error.value.message


@pytest.mark.parametrize("text", ["{}", '{"auths": {}}', '{"auths": {"h": {}}}', '{"auths": {"h": {"auth": ""}}}'])
def test_a_file_whose_passwords_are_elsewhere_has_no_login(nobody: Path, text: str) -> None:
    nobody.parent.mkdir(parents=True)
    nobody.write_text(text)
    assert logins.basic_for("h/x") is None


# --- a server that takes PUT ----------------------------------------------------------------------------------------


def test_files_are_put_where_they_are_fetched(files: Files, store: Store) -> None:
    assert send(files.address, SMALL, LARGE) == (2, len(SMALL) + len(LARGE))
    assert files.files == {f"/pool/{relative(digest(data))}": data for data in (SMALL, LARGE)}
    assert send(files.address + "/", SMALL, LARGE) == (0, 0)
    assert [method for method, _ in files.asked] == ["HEAD", "PUT", "HEAD", "PUT", "HEAD", "HEAD"]
    fetch(store, [Item(digest(LARGE), len(LARGE), "x", ())], pools=[Pool.parse(files.address)], attempts=1)
    assert store.read(digest(LARGE)) == LARGE


def test_a_file_of_another_size_is_put_again_and_a_broken_one_too(files: Files) -> None:
    files.files[f"/pool/{relative(digest(SMALL))}"] = b"short"
    files.cuts = [len(SMALL), 1_000_000]
    assert send(files.address, SMALL, LARGE) == (2, len(SMALL) + len(LARGE))
    assert files.files == {f"/pool/{relative(digest(data))}": data for data in (SMALL, LARGE)}


@pytest.mark.parametrize(
    ("bend", "said", "hint"),
    [
        ({"PUT": 405}, "HTTP 405, expected 200 or 201 or 204", "the server must take files by PUT"),
        ({"PUT": 409}, "HTTP 409, expected 200 or 201 or 204", "the server must take files by PUT"),
        ({"PUT": 403}, "HTTP 403, expected 200 or 201 or 204", "put the login into /etc/apt/auth.conf.d"),
        ({"PUT": 302}, "HTTP 302, expected 200 or 201 or 204", None),
        ({"PUT": 507}, "HTTP 507, expected 200 or 201 or 204", None),
        ({"PUT": 502}, "HTTP 502, expected 200 or 201 or 204 (5 attempts)", None),
    ],
)
def test_what_a_server_refuses_is_said(bend: dict[str, int], said: str, hint: str | None, files: Files) -> None:
    files.bend = bend
    error = refused(files.address, LARGE)
    assert said in error.message
    assert (error.hint or "").startswith(hint or "")
    assert (error.hint is None) is (hint is None)


def test_the_login_for_a_server_is_that_of_apt(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    from privml.base.wayout import Login, WayOut

    files.login = USER
    assert "HTTP 401" in refused(files.address).message
    netloc = files.address.removeprefix("http://").removesuffix("/pool")
    way = WayOut(logins=(Login("http", netloc, "/pool", "ann", "a secret"),))
    monkeypatch.setattr("privml.store.upload.host_way_out", lambda _: way)
    assert send(files.address, SMALL) == (1, len(SMALL))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://server.example.invalid/pool", "is plain HTTP, expected https://"),
        ("ftp://server/pool", "expected https://HOST"),
        ("https://ann:secret@server/pool", "holds a user or password"),
        ("https://", "expected https://HOST"),
        ("oci://host", "expected oci://HOST"),
        ("oci://ann:secret@host/a", "has a tag, a digest or a user"),
    ],
)
def test_what_cannot_be_uploaded_to(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        target(text)
    assert "secret" not in error.value.message or text.startswith("oci")


# --- another's registry ---------------------------------------------------------------------------------------------


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Debian's docker-registry with a login, where it is installed."""
    program, passwords = shutil.which("docker-registry"), shutil.which("htpasswd")
    if program is None or passwords is None:
        pytest.skip("docker-registry or htpasswd is not installed (Debian: docker-registry, apache2-utils)")
    running: list[subprocess.Popen[Any]] = []

    def start(auth: str) -> str:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        (tmp_path / "htpasswd").write_text(
            subprocess.check_output([passwords, "-nbB", "ann", "a secret"], text=True).strip() + "\n"
        )
        lines = [
            "version: 0.1", "log: {level: error}", f"storage: {{filesystem: {{rootdirectory: {tmp_path}/blobs}}}}",
            f"http: {{addr: '127.0.0.1:{port}'}}",
            *([f"auth: {{htpasswd: {{realm: x, path: {tmp_path}/htpasswd}}}}"] if auth else []),
        ]  # fmt: skip
        (tmp_path / "config.yml").write_text("\n".join(lines) + "\n")
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OTEL_TRACES_EXPORTER": "none"}
        running.append(
            subprocess.Popen(
                [program, "serve", str(tmp_path / "config.yml")], env=environment,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return f"127.0.0.1:{port}"
            except OSError:
                time.sleep(0.05)
        pytest.fail("docker-registry does not listen")

    yield start
    for each in running:
        each.terminate()
        each.wait()


def test_anothers_registry_takes_blobs_and_manifest_and_gives_them(
    docker: Callable[[str], str], nobody: Path, store: Store
) -> None:
    name = docker("login")
    pool = f"oci://{name}/{REPOSITORY}"
    assert "HTTP 401" in refused(pool).message
    log_in(nobody, name)
    assert send(pool, SMALL, LARGE) == (2, len(SMALL) + len(LARGE))
    assert send(pool, SMALL, LARGE) == (0, 0)
    row = {"mediaType": "application/octet-stream", "digest": f"sha256:{digest(LARGE)}", "size": len(LARGE)}
    data = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": row, "layers": [row]}).encode()
    for _ in range(2):
        tag(target(pool), "demo-1", MANIFEST, f"sha256:{digest(data)}", data)
    fetch(store, [Item(digest(LARGE), len(LARGE), "x", ())], pools=[Pool.parse(pool)], attempts=1)
    assert store.read(digest(LARGE)) == LARGE


def test_anothers_registry_takes_the_rest_of_an_upload_that_broke(
    docker: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after a megabyte and some more: it is asked, and told the rest."""
    pool, seen = f"oci://{docker('')}/{REPOSITORY}", []

    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 2_000_000 and not seen:
                seen.append(self.tell())
                raise OSError("broken here")
            return super().read(min(size or 1, 500_000) if size and size > 0 else size)

    methods: list[str] = []
    from privml.base.http import Connections

    real = Connections.send

    def spying(self: Connections, method: str, *words: Any) -> Any:
        methods.append(method)
        return real(self, method, *words)

    monkeypatch.setattr(Connections, "send", spying)
    made = [Piece(digest(LARGE), len(LARGE), "x", lambda: Breaking(LARGE))]
    assert upload(target(pool), made, sleep=lambda _: time.sleep(0.5)) == (1, len(LARGE))
    assert seen
    assert methods[:3] == ["HEAD", "POST", "PUT"]
    assert methods[-2:] in (["PATCH", "PUT"], ["POST", "PUT"])
