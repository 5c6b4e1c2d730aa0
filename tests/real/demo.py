"""The demo: an unmodified OpenAI client through `proxy`; the honest image is accepted, three tampered ones are not.

A TLS terminator in front of the honest one reads nothing of a sealed prompt. A broker releases the key of an
encrypted model to the honest image, and not to a tampered one.

Run by `make demo`, and by `make check` as a test. Exit status 0 only if every act ended as required. The variable TEE
names what the guest simulates: `tdx` (the default) or `snp`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import openai
from tests.real import demokeys, tamper, terminator
from tests.real.conftest import privml, succeeded
from tests.real.levers import append, pulled, swapped
from tests.real.relay import CountingRelay
from tests.real.simulation import SIMULATIONS
from tests.real.terminator import Nginx

from privml.base.errors import HostError
from privml.base.steps import say, step
from privml.image.target import recipes_directory, resolve
from privml.image.tools import ToolsTree
from privml.image.workplace import Workplace
from privml.vm.ask import await_ready
from privml.vm.launch import launch_of
from privml.vm.machine import Machine, started
from privml.vm.platforms import platform

NAME = "demo-cpu-dev"
PROMPT = "The capital of France is"
READY = 300.0
VERIFIED_TIMEOUT = 300.0
ROOT = Path(__file__).resolve().parents[2]

TEE = os.environ.get("TEE", "tdx")
if TEE not in SIMULATIONS:
    sys.exit(f"demo: TEE={TEE}: nothing simulates it, expected {' or '.join(SIMULATIONS)}")
SIMULATION = SIMULATIONS[TEE]
# A prompt that cannot hide: incompressible, and longer than all that attestation sends.
CANARY_SIZE = 65536


class DemoError(Exception):
    """An act that did not end as required."""


@dataclass(frozen=True)
class Refusal:
    """How one tampered image was refused: the proxy's message, and the number of bytes the client sent."""

    act: str
    text: str
    sent: int


def main() -> int:
    start = time.monotonic()
    place = Workplace()
    target = resolve(NAME, ROOT / "out" / NAME)
    assert target.recipe is not None
    tools = place.tools(target.recipe)
    with step(f"Building {NAME}"):
        succeeded(privml("image", NAME))
    manifest = target.manifest()
    tampered = ROOT / "out" / f"{NAME}-tampered"
    with step("Building the operator's images"):
        logger = tamper.root_with_logger(tools, target.directory, manifest, tampered / "logger")
        model = tamper.other_model(tools, target.directory, manifest, tampered / "model")
    recipes = recipes_directory(target)
    honest = launch_of(target.directory, manifest, recipes, platform=platform(SIMULATION.platform, recipes))

    title("The image as published")
    with started(tools, honest) as machine:
        ready(machine)
        accepted(machine, target.directory)
        title("The answer is shown to somebody else, with its receipt")
        with tempfile.TemporaryDirectory(prefix="privml-") as folder:
            receipted(machine, target.directory, Path(folder))
        title("Somebody else ends TLS in front of it: nginx, which logs every body")
        with tempfile.TemporaryDirectory(prefix="privml-") as folder:
            terminated(machine, target.directory, tools, Path(folder))
    refusals = []
    title("(a) The operator adds one word to the kernel command line")
    with started(tools, pulled(honest, append(f"{manifest.cmdline} audit=0"))) as machine:
        ready(machine)
        refusals.append(
            refused("one more word", machine, target.directory, SIMULATION.code, *named("recipes/", "audit=0"))
        )
    title("(b) The operator builds a prompt logger into the root, with its own root hash")
    with started(tools, pulled(honest, swapped(*logger), attached=logger)) as machine:
        ready(machine)
        refusals.append(refused("prompt logger", machine, target.directory, SIMULATION.code, *named("recipes/")))
        shown_without_verifying(machine)
    title("(c) The operator attaches another model")
    with started(tools, pulled(honest, swapped(*model), attached=model)) as machine:
        stage = failed_stage(machine)
        if stage != "model":
            raise DemoError(f"the guest failed in stage {stage}, expected model")
        refusals.append(refused("another model", machine, target.directory, "model", ""))
    title("The model is encrypted, and its owner's key broker releases the key to this image")
    owner, image, launch = demokeys.image_with_key(SIMULATION)
    demokeys.released(tools, owner, image, launch, answering)
    title("(d) The operator adds one word to the command line, and asks the broker for the key")
    if SIMULATION.code not in demokeys.withheld(tools, owner, image, launch):
        raise DemoError("the broker did not refuse the changed command line")
    title("The broker's log shows both")
    if demokeys.shown(owner) != ["release", "refuse"]:
        raise DemoError("the log has not exactly one release and one refusal")
    title(f"All acts ended as they must, in {time.monotonic() - start:.0f} s")
    for refusal in refusals:
        print(
            f"  {refusal.act}: refused; prompt bytes sent: 0 of {CANARY_SIZE}; to attest, {refusal.sent} bytes left"
        )
    return 0


def named(*words: str) -> tuple[str, ...]:
    """What a refusal says besides its code, if the TEE has a log that shows it."""
    return words if SIMULATION.cause else ()


def title(text: str) -> None:
    print(f"\n== {text} ==", flush=True)


def ready(machine: Machine) -> None:
    with step("Booting until ready"):
        await_ready(machine, READY)


def failed_stage(machine: Machine) -> str:
    """The stage in which the guest reports its failure."""
    with step("Booting until a stage fails"):
        try:
            await_ready(machine, READY)
        except HostError as error:
            match = re.match(r"guest stage `([a-z-]+)` failed", error.message)
            if match is None:
                raise
            print(f"  {error.message}")
            return match[1]
    raise DemoError("the guest became ready")


@contextlib.contextmanager
def proxied(where: Sequence[str], image: Path, *more: str) -> Iterator[str]:
    """`privml-build proxy` as a user runs it, to ``where`` and with ``more`` options; gives the OpenAI base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = probe.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("privml-build")), "proxy", *where,
        "--expect", str(image.relative_to(ROOT)), *SIMULATION.accept,
        "--listen", f"127.0.0.1:{listen}", *more,
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ, cwd=ROOT)
    try:
        end = time.monotonic() + VERIFIED_TIMEOUT
        while not verified(listen):
            if process.poll() is not None:
                raise DemoError(f"proxy ended with {process.returncode}")
            if time.monotonic() > end:
                raise DemoError("the proxy has no verdict")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{listen}/v1"
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        for line in said.decode().splitlines():
            if line.startswith("https:"):
                print(f"  proxy: {line}")


def verified(port: int) -> bool:
    """True when the proxy on ``port`` has a first verdict, for which it waits a limited time before it listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/healthz")
        return bool(json.loads(connection.getresponse().read())["message"] != "not verified yet")
    except OSError:
        return False
    finally:
        connection.close()


def accepted(machine: Machine, image: Path) -> None:
    relay = CountingRelay(machine.port)
    with proxied([f"https://127.0.0.1:{relay.port}"], image) as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
        before = relay.sent
        answer = client.completions.create(model="smollm2-135m-instruct", prompt=PROMPT, max_tokens=6, temperature=0)
        text = answer.choices[0].text
        print(f"  {PROMPT}{text!r}")
        if "Paris" not in text:
            raise DemoError(f"the model answered {text!r}")
        again = client.completions.create(model="smollm2-135m-instruct", prompt=PROMPT, max_tokens=1, temperature=0)
        details = again.usage.prompt_tokens_details if again.usage else None
        if details is None or details.cached_tokens != 0:
            raise DemoError(f"the engine kept something of the last prompt: {details}")
        try:
            client.completions.create(model="x", prompt=PROMPT, max_tokens=1, extra_body={"cache_prompt": True})
        except openai.BadRequestError:
            pass
        else:
            raise DemoError("a caller may turn the prompt cache on")
        if relay.sent - before < len(PROMPT):
            raise DemoError("the relay does not see what is sent: it could not show that nothing is")
    relay.close()
    if PROMPT.encode() in machine.console.read_bytes():
        raise DemoError("the prompt is on the honest guest's console")


def answering(machine: Machine, image: Path) -> None:
    """Ask the guest of ``image`` through the proxy, once it is ready."""
    ready(machine)
    with proxied([f"https://127.0.0.1:{machine.port}"], image) as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
        answer = client.completions.create(model="smollm2-135m-instruct", prompt=PROMPT, max_tokens=6, temperature=0)
        print(f"  {PROMPT}{answer.choices[0].text!r}")
        if "Paris" not in answer.choices[0].text:
            raise DemoError(f"the model answered {answer.choices[0].text!r}")


def receipted(machine: Machine, image: Path, folder: Path) -> None:
    """Keep an answer with its receipt; a third person verifies it offline, and refuses one that was altered."""
    with proxied([f"https://127.0.0.1:{machine.port}"], image, "--receipts", str(folder), "--keep-bodies") as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
        client.completions.create(model="smollm2-135m-instruct", prompt=PROMPT, max_tokens=6, temperature=0)
    (kept,) = folder.glob("*.json")
    shown("as it was", kept, image, 10, "ACCEPTED-SIMULATED")
    answer = kept.with_suffix(".response")
    answer.write_bytes(answer.read_bytes().replace(b"Paris", b"Lyons"))
    shown("with another word in the answer", kept, image, 8, "response-hash")


def shown(act: str, kept: Path, image: Path, code: int, word: str) -> None:
    """Verify a kept answer as somebody who has only the files; it must end as ``code`` says, and name ``word``."""
    trust = ("--expect", str(image.relative_to(ROOT)), *SIMULATION.accept)
    bodies = [word for name in ("request", "response") for word in (f"--{name}", str(kept.with_suffix(f".{name}")))]
    done = privml("receipt", "verify", str(kept), *trust, *bodies, "--at", "bundle")
    told = f"{done.stdout}{done.stderr}"
    if done.returncode != code or word not in told:
        raise DemoError(f"receipt {act}: exit {done.returncode}, expected {code} and `{word}`: {told}")
    line = next(line for line in told.splitlines() if word in line)
    print(f"  {act}: {line.strip()[:160]}")


def terminated(machine: Machine, image: Path, tools: ToolsTree, folder: Path) -> None:
    """Ask through nginx, sealed: it must find nothing. Ask it openly: it must find the prompt."""
    with terminator.running(tools, folder, [machine.port]) as nginx:
        sealed, known = (f"{secrets.token_hex(16)} {PROMPT}" for _ in range(2))
        url = f"https://127.0.0.1:{nginx.port}"
        with proxied(["--via", url, "--via-ca", str(nginx.authority)], image) as local:
            client = openai.OpenAI(base_url=local, api_key="none", max_retries=0, timeout=600)
            client.completions.create(model="smollm2-135m-instruct", prompt=sealed, max_tokens=1, temperature=0)
            told(nginx, sealed, "sealed", found=False)
        context = ssl.create_default_context(cafile=nginx.authority)
        with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", nginx.port, context=context)) as connection:
            body = json.dumps({"prompt": known, "max_tokens": 1})
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            if connection.getresponse().status != 200:
                raise DemoError("nginx does not reach the guest")
        told(nginx, known, "open", found=True)


def told(nginx: Nginx, prompt: str, way: str, *, found: bool) -> None:
    """Say what nginx has of a prompt of this kind; it must be as ``found`` says."""
    canary = prompt.split()[0].encode()
    logged, remembered = bool(nginx.kept(canary)), nginx.remembers(canary)
    # Of a request that it forwarded openly, memory may be used again by now; its log stays.
    if logged is not found or (remembered and not found):
        raise DemoError(f"{way}: in the log: {logged}, in memory: {remembered}; expected {found}")
    print(f"  {way} prompt: {'in' if logged else 'neither in'} nginx's log{'' if logged else ' nor in its memory'}")


def refused(act: str, machine: Machine, image: Path, *needed: str) -> Refusal:
    """Ask through the proxy; the answer must be a refusal that names ``needed``, and the prompt must not leave."""
    relay = CountingRelay(machine.port)
    canary = secrets.token_hex(CANARY_SIZE // 2)
    with proxied([f"https://127.0.0.1:{relay.port}"], image) as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
        try:
            client.completions.create(model="smollm2-135m-instruct", prompt=canary, max_tokens=1)
        except (openai.PermissionDeniedError, openai.InternalServerError) as error:
            response = error.response
        else:
            raise DemoError(f"{act}: the client got an answer")
        nothing_leaves(act, relay, client, canary)
    text = response.text
    for line in explained(response.json()["error"]):
        print(f"  {line}")
    relay.close()
    missing = [word for word in needed if word not in text]
    if missing:
        raise DemoError(f"{act}: the refusal does not name {missing}: {text[:2000]}")
    if relay.sent >= CANARY_SIZE // 4:
        raise DemoError(f"{act}: {relay.sent} bytes left the client")
    if canary[:64].encode() in machine.console.read_bytes():
        raise DemoError(f"{act}: the prompt is on the guest's console")
    return Refusal(act, text, relay.sent)


def nothing_leaves(act: str, relay: CountingRelay, client: openai.OpenAI, prompt: str) -> None:
    """Ask a refused guest once more, while its verdict holds: not one byte may pass the relay.

    A verdict that has aged asks the guest for another attestation, which is no prompt; then it is tried again.
    """
    for _ in range(5):
        before = relay.sent
        try:
            client.completions.create(model="smollm2-135m-instruct", prompt=prompt, max_tokens=1)
        except (openai.PermissionDeniedError, openai.InternalServerError):
            if relay.sent == before:
                return
        else:
            raise DemoError(f"{act}: the client got an answer when it asked again")
    raise DemoError(f"{act}: each refused request sent something, {relay.sent} bytes in all")


def explained(error: dict[str, object]) -> Sequence[str]:
    """The refusal as a client program sees it."""
    lines = [str(error["message"])]
    refusals = error.get("refusals")
    for refusal in refusals if isinstance(refusals, list) else []:
        lines.append(f"{refusal['code']}: got {refusal['got']}, expected {refusal['expected']}")
        lines += [f"  {line}" for line in str(refusal["where"]).splitlines()]
    return lines


def shown_without_verifying(machine: Machine) -> None:
    """Show that the logger works: a prompt sent without verification appears on the operator's console."""
    from privml.vm.ask import complete

    complete(machine, "I did not verify and this is my secret", 1)
    text = machine.console.read_text(errors="replace")
    lines = [line for line in text.splitlines() if "LOGGED" in line]
    if not any("this is my secret" in line for line in lines):
        raise DemoError("the logger logs nothing, so refusing it shows nothing")
    print(f"  who does not verify: the operator's console says {lines[0][:100]}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DemoError as failure:
        say(f"demo: {failure}")
        sys.exit(1)
