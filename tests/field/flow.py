"""The steps of a field test. Each runs a verb as a user does, in the time that is left; what fails is recorded."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.field import compared, facts
from tests.field.guest import Guest, command, last
from tests.field.record import (
    BUNDLE,
    CAPTURE,
    FACTS,
    FAILED,
    LAUNCH,
    NOT_RUN,
    PASSED,
    PLATFORM,
    REPLAY,
    STEPS,
    Machine,
    Report,
    Row,
    Step,
)
from tests.field.scrub import Names
from tests.field.signed import origin_of

from privml.base.errors import EXIT_ACCEPTED_SIMULATED, HostError, PrivmlError, Refused, UsageError
from privml.base.strictjson import canonical, loads
from privml.client.attested import new_nonce
from privml.events.variants import DEVELOPMENT
from privml.evidence import bundle, capture, document
from privml.evidence.capture import Capture
from privml.image import madeby
from privml.image.target import recipes_directory, resolve
from privml.image.workplace import Workplace
from privml.measure import firmware, uki
from privml.measure.firmware import FirmwareFacts
from privml.output.artefacts import UKI
from privml.recipe.loader import load_platform, platform_path
from privml.sim.quote import root_pem
from privml.statement.launch import MeasuredLaunch
from privml.verify.bare import Origin
from privml.vm import qtest
from privml.vm.ask import complete, request
from privml.vm.platforms import platform_named
from privml.vm.predicted import predict_image

LIMIT = 30 * 60.0
_READY = 900.0
_VERB = 300.0
_QUOTES = 5
_TOKENS = 16
_PROMPT = "The capital of France is"
NO_HOST = HostError.exit_code


@dataclass(frozen=True)
class Options:
    """What to test: an image and its machine. ``simulation``: a development image outside a TD."""

    target: str
    simulation: bool
    platform: str | None = None
    qemu: Path | None = None
    quote_socket: str | None = None
    gpus: tuple[str, ...] = ()
    service: str | None = None


@dataclass
class State:
    """What the steps have found so far."""

    report: Report
    files: dict[str, bytes] = field(default_factory=dict)
    directory: Path = Path()
    platform_file: Path = Path()
    launch: MeasuredLaunch | None = None
    firmware: FirmwareFacts | None = None
    blobs: dict[str, bytes] = field(default_factory=dict)
    port: int = 0
    model: bool = False
    found: document.Document | None = None


class NotRun(Exception):
    """A step that cannot run here, and why."""


class Failed(Exception):
    """A step that ran and failed; ``status`` is its verb's."""

    def __init__(self, status: int | None, why: str) -> None:
        super().__init__(why if status is None or status >= 0 else f"ended by signal {-status}: {why}")
        self.status = None if status is None or status < 0 else status


class Field:
    """One field test. ``folder`` is for work files; ``names`` cleans every text; ``limit`` is in seconds."""

    def __init__(self, options: Options, folder: Path, names: Names, *, limit: float = LIMIT) -> None:
        self.options = options
        self.folder = folder
        self.names = names
        self.state = State(Report(version("privml-build"), options.simulation))
        self._end = time.monotonic() + limit
        self._guest: Guest | None = None

    def run(self) -> State:
        """All steps in order; the guest is stopped at the end."""
        steps: list[Step] = []
        try:
            for name in STEPS:
                step = self._step(name)
                steps.append(step)
                print(
                    f"{name}: {step.result}{f': {step.detail}' if step.detail else ''}", file=sys.stderr, flush=True
                )
        finally:
            if self._guest is not None:
                self._guest.stop()
        self.state.report = replace(self.state.report, steps=tuple(steps))
        return self.state

    def _step(self, name: str) -> Step:
        started = time.monotonic()
        status: int | None = None
        try:
            self._need_time()
            status, detail = getattr(self, f"_{name}")()
            result = PASSED
        except NotRun as why:
            result, detail = NOT_RUN, str(why)
        except Failed as failed:
            result, status, detail = FAILED, failed.status, str(failed)
        except PrivmlError as error:
            result, status, detail = FAILED, error.exit_code, error.message
        except Exception as error:  # noqa: BLE001 - whatever happens, the page is written and shows it
            result, detail = FAILED, f"{type(error).__name__}: {error}"
        return Step(name, result, round(time.monotonic() - started), status, self.names.clean(detail))

    def left(self) -> float:
        """Seconds until the end."""
        return self._end - time.monotonic()

    def _verb(self, *words: str, ok: Sequence[int] = (0,)) -> tuple[int, str]:
        """Run a verb; its status and output. ``Failed`` with its last words for a status that is not in ``ok``."""
        done = subprocess.run(
            command(*words),
            capture_output=True,
            text=True,
            timeout=max(0.5, min(_VERB, self.left())),
            check=False,
            errors="replace",
        )
        if done.returncode not in ok:
            raise Failed(done.returncode, last(done.stderr or done.stdout))
        return done.returncode, done.stdout

    # -- the steps: each gives the status of its verb and a detail ---------------------------------------------------

    def _doctor(self) -> tuple[int | None, str]:
        gpu = ("--gpu",) if self.options.gpus else ()
        status, said = self._verb("doctor", "--tdx", *gpu, "--json", ok=(0, NO_HOST))
        rows = json.loads(said)["lines"]
        rungs = tuple(Row(row["name"][:100], row["status"], self.names.clean(_found(row))) for row in rows)
        self.state.report = replace(self.state.report, rungs=rungs)
        failing = [row.name for row in rungs if row.status == "fail"]
        if failing:
            raise Failed(status, f"a TD needs: {', '.join(failing)}")
        return status, ""

    def _predict(self) -> tuple[int | None, str]:
        state, options = self.state, self.options
        target = resolve(options.target)
        manifest = target.manifest()
        if (manifest.variant == DEVELOPMENT) != options.simulation:
            raise UsageError(f"{manifest.name} is a {manifest.variant} image: --simulation takes a development image")
        recipes = recipes_directory(target)
        name = options.platform or manifest.platforms[0]
        if name not in manifest.platforms:
            raise UsageError(
                f"{name} is none of the image's platforms: add it to `platforms` of the recipe, and build"
            )
        platform, size, place = platform_named(name, recipes, manifest), manifest.shapes[0], Workplace()
        tools = place.tools_of(target)
        predicate = predict_image(tools, place.store.root, target.directory, manifest, recipes, [size], [platform])
        state.directory, state.launch = target.directory, predicate.launches[0]
        state.blobs = qtest.blobs(tools, platform, size, place.store.root)
        state.model = manifest.engine is not None
        here = Path("recipes")
        state.platform_file = platform_path(name, here if (here / f"platforms/{name}.yaml").is_file() else recipes)
        state.firmware = firmware.facts((target.directory / manifest.firmware_for(platform.tee).file).read_bytes())
        image = (target.directory / UKI).read_bytes()
        platforms = state.platform_file.parents[1]
        described = load_platform(name, platforms).model_dump(mode="json", exclude={"description"})
        state.files |= {
            PLATFORM: canonical(described),
            FACTS: canonical(
                facts.to_json(uki.facts(image), state.firmware, madeby.extended_events(target.directory, manifest))
            ),
            LAUNCH: canonical(state.launch.to_dict()),
        }
        machine = Machine(manifest.name, manifest.variant, manifest.sha256.hex(), name, size.vcpus, size.memory)
        state.report = replace(state.report, machine=machine)
        return None, f"{manifest.name} on {name}, {size}"

    def _run(self) -> tuple[int | None, str]:
        if self.state.launch is None:
            raise NotRun("nothing was predicted")
        options = self.options
        words = ["run", str(self.state.directory), "--timeout", str(int(min(_READY, max(1.0, self.left()))))]
        if not options.simulation:
            words += ["--tdx", "--platform", self.state.launch.platform]
            words += ["--qemu", str(options.qemu)] if options.qemu else []
            words += ["--quote-socket", options.quote_socket] if options.quote_socket else []
            words += [word for address in options.gpus for word in ("--gpu", address)]
        started = time.monotonic()
        self._guest = Guest(command(*words))
        port = self._guest.port(min(_READY, self.left()))
        if port is None and self._guest.running:
            raise Failed(None, f"not ready within {time.monotonic() - started:.0f} s")
        if port is None:
            status, said = self._guest.ended()
            if status == NO_HOST and not options.simulation and "cannot run a TD" in said:
                raise NotRun(f"no TDX: exit {status}")
            raise Failed(status, last(said))
        self.state.port = port
        self._measured("ready_ms", time.monotonic() - started)
        return None, "ready, as a simulation" if options.simulation else "ready, as a TD"

    def _stages(self) -> tuple[int | None, str]:
        _, body = self._ask("/boot-stages")
        rows = loads(body, what="stages")["stages"]
        stages = tuple(Row(row["name"][:100], row["status"], self.names.clean(row["detail"])) for row in rows)
        self.state.report = replace(self.state.report, stages=stages)
        return None, f"{len(stages)} stages"

    def _gpu(self) -> tuple[int | None, str]:
        row = next((row for row in self.state.report.stages if row.name == "gpu"), None)
        if row is None:
            raise NotRun("no guest")
        if row.status == "skipped":
            raise NotRun("the image declares no GPU")
        if row.status != "ok":
            raise Failed(None, row.detail)
        return None, row.detail

    def _verify(self) -> tuple[int | None, str]:
        self._need_guest()
        saved = self.folder / BUNDLE
        words = ["verify", f"https://127.0.0.1:{self.state.port}", "--expect", str(self.state.directory)]
        words += ["--save", str(saved), "--json"]
        words += ["--collateral-service", self.options.service] if self.options.service else []
        if self.options.simulation:
            root = self.folder / "simulated-root.pem"
            root.write_bytes(root_pem())
            words += ["--allow-simulated", str(root)]
        wanted = EXIT_ACCEPTED_SIMULATED if self.options.simulation else 0
        try:
            status, said = self._verb(*words, ok=(0, Refused.exit_code, EXIT_ACCEPTED_SIMULATED))
        finally:
            if saved.is_file():
                self._keep_bundle(saved.read_bytes())
        verdict = json.loads(said)
        if status != wanted:
            codes = ", ".join(refusal["code"] for refusal in verdict["refusals"])
            raise Failed(status, f"{verdict['outcome']}: {codes or 'no refusal'}")
        return status, str(verdict["outcome"])

    def _keep_bundle(self, data: bytes) -> None:
        made = bundle.decode(data)
        self.state.found = document.parse(made.document)
        self.state.files[BUNDLE] = data
        self.state.report = replace(self.state.report, origin=origin_of(made).value)

    def _registers(self) -> tuple[int | None, str]:
        state = self.state
        if state.found is None or state.launch is None or state.firmware is None:
            raise NotRun("no quote")
        rows = compared.judge(
            state.found,
            state.launch,
            state.firmware,
            state.platform_file,
            simulated=state.report.origin == Origin.SIMULATED,
        )
        rows = tuple(replace(row, difference=self.names.clean(row.difference)) for row in rows)
        state.report = replace(state.report, registers=rows)
        if not state.report.equal:
            raise Failed(None, "; ".join(f"{row.name} {row}" for row in rows))
        return None, "every register is the predicted one"

    def _capture(self) -> tuple[int | None, str]:
        if self.state.found is None:
            raise NotRun("no quote")
        parts = {capture.QUOTE: self.state.found.evidence, capture.LOG: self.state.found.bootlog}
        parts |= {
            capture.FW_CFG_FOLDER + name: data for name, data in self.state.blobs.items() if name in capture.FW_CFG
        }
        why = "a locked guest does not show it"
        missing = {name: why for name in capture.NAMES if name not in parts}
        made = Capture(parts, missing).encode()
        (self.folder / CAPTURE).write_bytes(made)
        self.state.files[CAPTURE] = made
        return None, f"{len(parts)} parts; the tables are those of the platform's QEMU"

    def _replay(self) -> tuple[int | None, str]:
        if CAPTURE not in self.state.files:
            raise NotRun("no capture")
        if self.state.report.origin == Origin.SIMULATED:
            raise NotRun("a simulated guest has a TPM's log; it was compared above")
        archive = str(self.folder / CAPTURE)
        status, said = self._verb("measure", str(self.state.directory), "--replay", archive, "--json", ok=(0, 1))
        found = loads(said.encode(), what=REPLAY)
        self.state.files[REPLAY] = self._clean_json(found)
        if status:
            raise Failed(status, "; ".join(found["problems"]) or f"{len(found['differences'])} events differ")
        return status, "every event"

    def _bench(self) -> tuple[int | None, str]:
        self._need_guest()
        times = []
        for _ in range(_QUOTES):
            started = time.monotonic()
            status, _ = self._ask(f"/.well-known/privml-attestation?nonce={new_nonce().hex()}")
            if status != 200:
                raise Failed(None, f"an attestation was answered with {status}")
            times.append(time.monotonic() - started)
        self._measured("attestation_median_ms", statistics.median(times))
        if self.state.model:
            started = time.monotonic()
            complete(self._machine(), _PROMPT, _TOKENS, min(_VERB, self.left()))
            self._measured(f"completion_{_TOKENS}_tokens_ms", time.monotonic() - started)
        return None, ", ".join(f"{name} {value}" for name, value in self.state.report.bench.items())

    # -- what they share ---------------------------------------------------------------------------------------------

    def _need_time(self) -> None:
        if self.left() < 1:
            raise NotRun("the time is over")

    def _need_guest(self) -> None:
        if not self.state.port:
            raise NotRun("no guest")

    def _machine(self) -> Any:
        return SimpleNamespace(port=self.state.port)

    def _ask(self, path: str) -> tuple[int, bytes]:
        self._need_guest()
        return request(self._machine(), path, timeout=min(150.0, self.left()))

    def _measured(self, name: str, seconds: float) -> None:
        bench = {**self.state.report.bench, name: round(seconds * 1000)}
        self.state.report = replace(self.state.report, bench=bench)

    def _clean_json(self, value: Any) -> bytes:
        def clean(item: Any) -> Any:
            if isinstance(item, str):
                return self.names.clean(item)
            if isinstance(item, list):
                return [clean(one) for one in item]
            return {key: clean(one) for key, one in item.items()} if isinstance(item, dict) else item

        return canonical(clean(value))


def _found(row: dict[str, str]) -> str:
    return f"{row['found']}; {row['remedy']}" if row["remedy"] else row["found"]
