"""Keys of encrypted volumes: released to the image that the owner named, and to nothing else."""

from __future__ import annotations

import contextlib
import http.client
import json
import mmap
import secrets
import shutil
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.real.brokers import CLAIMS, MODEL, Owner, delivered, encrypted_image
from tests.real.conftest import ROOT, privml, succeeded
from tests.real.levers import append, pulled
from tests.real.simulation import SIMULATED_ROOT

from privml.base.errors import HostError
from privml.base.strictjson import unb64
from privml.channel.release import Request
from privml.image.target import resolve
from privml.image.tools import ToolsTree
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


def released(machine: Machine, url: str, nonce: bytes | None = None) -> tuple[int, bytes]:
    """What the broker answers to this guest's document: a courier's steps, one by one."""

    def post(path: str, body: bytes) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{url}{path}", data=body), timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.request.HTTPError as error:
            return error.code, error.read()

    if nonce is None:
        nonce = bytes.fromhex(json.loads(post("/v1/challenge", b"")[1])["nonce"])
    document = fetch(machine, f"{WANTED}?nonce={nonce.hex()}", 60).encode()
    return post("/v1/release", Request(nonce, document, ((MODEL, 1),)).encode())


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

        second = machines.enter_context(waiting(tools, launch))
        # The key of the first boot, carried to the second: the same image, and another release key.
        answer = request(second, RELEASE, data=release, timeout=60)
        assert code_of(answer) == "release-other-boot", answer
        assert request(second, "/readyz", timeout=10)[0] == 503
        assert code_of(request(second, "/.well-known/privml-attestation?nonce=" + "00" * 32, timeout=10))
        with owner.serving(image) as broker:
            assert code_of(released(second, broker, secrets.token_bytes(32))) == "challenge"
            found = delivered(second.port, broker, code=5)
            missing = [each["broker"] for each in found["missing"]]
            assert (missing, len(found["released"])) == (["partner"], 1), "one owner is not enough"
            assert request(second, "/readyz", timeout=10)[0] == 503
            with partner.serving(image) as other:
                assert delivered(second.port, broker, other)["missing"] == []
        await_ready(second, READY)
        assert has(second, key), "the key is not found where dm-crypt has it: the other searches show nothing"
        assert code_of(request(second, RELEASE, data=release, timeout=10)) == "keys-closed"
        assert code_of(request(second, WANTED, timeout=10)) == "keys-closed"

        # With a guest that serves and one that waits, root, volume's key and owner are replaced.
        owner.rotate(2)
        assert request(second, "/x/claims/", timeout=30) == (200, CLAIMS)
        assert "Paris" in complete(second, "The capital of France is", 6)
        owner.allow(3, image)
        with owner.serving(image) as broker, partner.serving(image) as other:
            assert delivered(first.port, broker, other)["missing"] == []
        await_ready(first, READY)
        for machine in (first, second):
            console = machine.console.read_bytes()
            assert b"stage model: ok" in console and key not in console and key.hex().encode() not in console
        trust = ("--expect", str(image), "--allow-simulated", str(SIMULATED_ROOT))
        done = succeeded(privml("verify", f"https://127.0.0.1:{second.port}", *trust, "--json"), 10)
        assert json.loads(done.stdout)["outcome"] == "accepted-simulated"
    kinds = [entry["kind"] for entry in owner.log()]
    assert (kinds.count("release"), kinds.count("refuse")) == (3, 0)


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
