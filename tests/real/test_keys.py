"""Keys of encrypted volumes: released to the image that the owner named, and to nothing else."""

from __future__ import annotations

import contextlib
import http.client
import json
import mmap
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.real import leaks
from tests.real.brokers import CLAIMS, MODEL, Owner, delivered, encrypted_image
from tests.real.conftest import ROOT, privml, succeeded
from tests.real.leaks import CORE_PATTERN, captured, core_allowed, cores
from tests.real.levers import append, pulled
from tests.real.simulation import SIMULATED_ROOT

from privml.base.errors import HostError
from privml.base.strictjson import b64, unb64
from privml.channel.release import Request
from privml.image.target import resolve
from privml.image.tools import ToolsTree
from privml.keybroker import store
from privml.vm.ask import await_ready, complete, fetch, request
from privml.vm.launch import launch_of
from privml.vm.machine import Launch, Machine, started

pytestmark = pytest.mark.real
READY = 300.0
WANTED = "/.well-known/privml-key-request"
RELEASE = "/.well-known/privml-key-release"


@pytest.fixture(scope="module")
def owner() -> Owner:
    folder = ROOT / "out/keys"
    shutil.rmtree(folder, ignore_errors=True)
    return Owner("weights", MODEL, folder / "weights")


@pytest.fixture(scope="module")
def partner(owner: Owner) -> Owner:
    """Another owner, with a corpus."""
    return Owner("partner", "data/corpus", owner.folder.parent / "partner")


@pytest.fixture(scope="module")
def image(owner: Owner, partner: Owner) -> Path:
    """An image with a volume of each owner, whose guests both allow."""
    out = encrypted_image(ROOT / "out/keys/recipes", ROOT / "out/keys/image", owner, partner)
    owner.allow(1, out)
    partner.allow(1, out)
    return out


@pytest.fixture(scope="module")
def launch(image: Path) -> Launch:
    target = resolve(str(image))
    return replace(launch_of(image, target.manifest(), ROOT / "out/keys/recipes"), share_memory=True)


@contextmanager
def waiting(tools: ToolsTree, launch: Launch) -> Iterator[Machine]:
    """A guest that waits for its keys."""
    with started(tools, launch) as machine:
        end = time.monotonic() + READY
        while True:
            machine.check_running()
            with contextlib.suppress(OSError, http.client.HTTPException):
                if request(machine, WANTED, timeout=5)[0] == 200:
                    break
            if time.monotonic() > end:
                raise HostError(machine.console_tail())
            time.sleep(0.5)
        yield machine


def has(machine: Machine, key: bytes) -> bool:
    """True if the guest's memory has one of the two AES keys in ``key``: round keys begin with the key itself."""
    half = len(key) // 2
    with machine.memory.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        return any(memory.find(part) >= 0 for part in (key[:half], key[half:]))


def posted(url: str, body: bytes) -> tuple[int, bytes]:
    """The answer to a POST."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.request.HTTPError as error:
        return error.code, error.read()


def released(machine: Machine, url: str, nonce: bytes | None = None, resource: str = MODEL) -> tuple[int, bytes]:
    """What the broker answers to this guest's document: a courier's steps, one by one."""
    if nonce is None:
        nonce = bytes.fromhex(json.loads(posted(f"{url}/v1/challenge", b"")[1])["nonce"])
    document = fetch(machine, f"{WANTED}?nonce={nonce.hex()}", 60).encode()
    return posted(f"{url}/v1/release", Request(nonce, document, ((resource, 1),)).encode())


def brought(machine: Machine, release: bytes) -> tuple[int, bytes]:
    """The guest's answer to a release, when it checks one again: one a second."""
    time.sleep(1.1)
    return request(machine, RELEASE, data=release, timeout=60)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def refused_by_policy(machine: Machine, partner: Owner, image: Path) -> list[bytes]:
    """Let the partner's broker refuse the waiting guest by each policy; gives two releases that it made before.

    Every refusal is what the courier is told, and the guest goes on waiting.
    """
    key = unb64(json.loads(partner.key.read_bytes())["key"])

    def refusal() -> str:
        with partner.serving(image) as broker:
            found = delivered(machine.port, broker, code=8)
        assert found["released"] == [] and {want["broker"] for want in found["missing"]} == {"weights", "partner"}
        assert request(machine, "/readyz", timeout=10)[0] == 503 and not has(machine, key)
        ((code,),) = ([each["code"] for each in row["refusals"]] for row in found["brokers"])
        return str(code)

    partner.allow(2, image, until="2020-01-01T00:00:00Z")
    assert refusal() == "release-expired"
    older = str(partner.folder / "policy-1.dsse")
    done = succeeded(privml("keys", "policy", "add", older, *partner.store), 8)
    assert "policy-serial" in done.stderr
    assert refusal() == "release-expired", "the policy from before did not come back"
    partner.allow(3, image, more=("--min-tcb-evaluation", "1001"))
    assert refusal() == "release-tcb-evaluation"
    partner.allow(4, image, more=("--max-releases", "2"))
    with partner.serving(image) as broker:
        made = [released(machine, broker, resource=partner.resource) for _ in range(2)]
    assert [status for status, _ in made] == [200, 200], made
    assert refusal() == "release-limit"
    return [body for _, body in made]


def code_of(answer: tuple[int, bytes]) -> str:
    assert answer[0] >= 400, answer
    return str(json.loads(answer[1])["error"]["code"])


def test_only_the_boot_that_was_judged_can_open_the_volumes(
    tools: ToolsTree, launch: Launch, owner: Owner, partner: Owner, image: Path
) -> None:
    key = unb64(json.loads(owner.key.read_bytes())["key"])
    with ExitStack() as machines:
        first = machines.enter_context(waiting(tools, launch))
        assert not has(first, key)
        with owner.serving(image) as broker:
            status, release = released(first, broker)
        assert status == 200
        swapped = json.loads(release)
        swapped["sealed"] = swapped["sealed"][::-1]
        answer = request(first, RELEASE, data=json.dumps(swapped).encode(), timeout=60)
        assert code_of(answer).startswith("release-"), answer
        assert code_of(request(first, RELEASE, data=b"{" * 70000, timeout=60))
        early, late = refused_by_policy(first, partner, image)

        second = machines.enter_context(waiting(tools, launch))
        # The key of the first boot, carried to the second: the same image, and another release key.
        answer = request(second, RELEASE, data=release, timeout=60)
        assert code_of(answer) == "release-other-boot", answer
        assert request(second, "/readyz", timeout=10)[0] == 503
        assert code_of(request(second, "/.well-known/privml-attestation?nonce=" + "00" * 32, timeout=10))
        with owner.serving(image) as broker:
            assert code_of(released(second, broker, secrets.token_bytes(32))) == "challenge"
            with partner.serving(image) as other:
                found = delivered(second.port, broker, other, code=8)
            missing = [each["broker"] for each in found["missing"]]
            assert (missing, len(found["released"])) == (["partner"], 1), "one owner is not enough"
            assert [each["code"] for each in found["brokers"][0]["refusals"]] == ["release-limit"]
            assert request(second, "/readyz", timeout=10)[0] == 503
        partner.allow(5, image)
        with partner.serving(image) as other:
            assert delivered(second.port, other)["missing"] == []
        await_ready(second, READY)
        assert has(second, key), "the key is not found where dm-crypt has it: the other searches show nothing"
        assert code_of(request(second, RELEASE, data=release, timeout=10)) == "keys-closed"
        assert code_of(request(second, WANTED, timeout=10)) == "keys-closed"

        assert request(second, "/x/claims/crash", timeout=30) == (200, b"True False"), "a guest leaves no core dump"

        # With a guest that serves and one that waits, root, volume's key and owner are replaced.
        owner.rotate(2)
        assert request(second, "/x/claims/", timeout=30) == (200, CLAIMS)
        assert "Paris" in complete(second, "The capital of France is", 6)
        owner.allow(3, image)
        # Of two releases the courier brings the second first, minutes later: its policy was replaced meanwhile.
        assert brought(first, late)[0] == 200
        assert code_of(brought(first, early)) == "already-released"
        with owner.serving(image) as broker:
            with captured(port_of(broker), first.port) as wire:
                assert delivered(first.port, broker)["missing"] == []
            with captured(port_of(broker)) as leaked:
                posted(f"{broker}/v1/release", json.dumps({"key": b64(key)}).encode())
        assert len(wire.streams) >= 4 and not wire.has(key)
        assert leaked.has(key), "a key that is sent is not found: the other search shows nothing"
        await_ready(first, READY)
        assert code_of(brought(first, early)) == "keys-closed"
        for machine in (first, second):
            console = machine.console.read_bytes()
            assert b"stage model: ok" in console and key not in console and key.hex().encode() not in console
        trust = ("--expect", str(image), "--allow-simulated", str(SIMULATED_ROOT))
        done = succeeded(privml("verify", f"https://127.0.0.1:{second.port}", *trust, "--json"), 10)
        assert json.loads(done.stdout)["outcome"] == "accepted-simulated"
    for each, refused in ((owner, 0), (partner, 5)):
        kinds = [entry["kind"] for entry in each.log()]
        assert (kinds.count("release"), kinds.count("refuse")) == (3, refused)


def test_a_broker_that_crashes_leaves_no_core_dump(owner: Owner, image: Path) -> None:
    pattern = CORE_PATTERN.read_text().strip()
    if "/" in pattern or pattern.startswith("|"):
        pytest.skip(f"core dumps go elsewhere here: {pattern}")
    uri, path = f"file:{owner.folder}/store.kek", owner.folder / "store"
    with owner.serving(image, signal.SIGABRT):
        pass
    assert cores(owner.folder) == []
    # The same store, opened by a process that a key broker is not: what is in a core dump is found.
    with store.opened(path, uri) as found:
        root, key = found.root, unb64(json.loads(owner.key.read_bytes())["key"])
    code = (
        "import os, sys; from pathlib import Path; from privml.keybroker import store\n"
        "with store.opened(Path(sys.argv[1]), sys.argv[2]) as found:\n"
        "    key = found.secret(store.VOLUME, sys.argv[3], 1); os.abort()\n"
    )
    words = [sys.executable, "-c", code, str(path), uri, owner.resource]
    subprocess.run(words, cwd=owner.folder, preexec_fn=core_allowed, check=False)
    (dump,) = cores(owner.folder)
    data = dump.read_bytes()
    dump.unlink()
    assert leaks.has(data, root) and leaks.has(data, key)


def test_another_image_gets_nothing(tools: ToolsTree, launch: Launch, owner: Owner, image: Path) -> None:
    key = unb64(json.loads(owner.key.read_bytes())["key"])
    before = len(owner.log())
    other = pulled(launch, append(f"{resolve(str(image)).manifest().cmdline} audit=0"))
    with owner.serving(image) as broker, waiting(tools, other) as machine:
        found = delivered(machine.port, broker, code=8)
        codes = {refusal["code"] for each in found["brokers"] for refusal in each["refusals"]}
        assert "rtmr2" in codes and found["released"] == []
        assert request(machine, "/readyz", timeout=10)[0] == 503
        assert not has(machine, key)
    (entry,) = owner.log()[before:]
    assert entry["kind"] == "refuse" and "rtmr2" in entry["codes"]
