"""What a recipe adds to the guest: files, sysctls, kernel modules and options, and the exceptions that some need."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from json_schema import accepts

from privml.base.errors import RecipeError
from privml.cli.lint import lint
from privml.events.verity import Verity
from privml.image import resources, root
from privml.image.uki import BASE_WORDS, command_line
from privml.lock import lockfile, make
from privml.lock.changes import changes
from privml.lock.locate import inputs_now
from privml.lock.lockfile import read_lock
from privml.lock.models import Lock
from privml.lock.moves import moves
from privml.lock.trees import images_folder, own_tree
from privml.recipe import document, kernelsettings, ownfiles, places, programs, schema, wishes
from privml.recipe.exceptions import KINDS, NO_KIND
from privml.recipe.fields import facts
from privml.recipe.kernelsettings import MODULE, MODULES, OPTION, OPTIONS, SYSCTL, SYSCTLS, never
from privml.recipe.loader import Recipe, load, shipped
from privml.recipe.packages import guest_packages
from privml.recipe.programs import PROGRAM
from privml.recipe.starter import commented

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = (images_folder() / "guest/common/etc/sysctl.d/privml.conf").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(shipped(), tmp_path / "recipes")
    data = tmp_path / "recipes/data"
    (data / "sub").mkdir(parents=True)
    (data / "a.json").write_text("{}")
    (data / "sub/tool").write_bytes(b"#!/usr/bin/python3\n")
    (data / "sub/tool").chmod(0o755)
    (data / "sub/link").symlink_to("../a.json")
    return tmp_path / "recipes"


def recipe(folder: Path, text: str) -> Recipe:
    path = folder / "mine.yaml"
    path.write_text(f"extends: ./tdx-min.yaml\n{text}\n")
    return load(path)


def refused(folder: Path, text: str) -> str:
    """What reading the recipe, or else its files, ends with."""
    with pytest.raises(RecipeError) as caught:
        own_tree(recipe(folder, text))
    return caught.value.message


def test_a_file_and_a_folder_are_in_the_lock_with_their_digests(folder: Path) -> None:
    mine = recipe(folder, "files: {/etc/acme/a.json: {source: data/a.json}, /usr/lib/acme: {source: data}}")
    tree = own_tree(mine)
    assert tree is not None
    assert {file.path: file.kind for file in tree.files} == {
        "etc/acme/a.json": "file",
        "usr/lib/acme/a.json": "file",
        "usr/lib/acme/sub/link": "symlink",
        "usr/lib/acme/sub/tool": "executable",
    }
    assert tree == own_tree(mine)
    (folder / "data/a.json").write_text("[]")
    assert tree != own_tree(mine)


@pytest.mark.parametrize(("given", "kinds"), [("true", {"executable"}), ("false", {"file"})])
def test_the_mode_can_be_said(folder: Path, given: str, kinds: set[str]) -> None:
    (folder / "data/sub/link").unlink()
    tree = own_tree(recipe(folder, f"files: {{/usr/lib/acme: {{source: data, executable: {given}}}}}"))
    assert tree is not None
    assert {file.kind for file in tree.files} == kinds


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("/etc/acme", "expected a folder of your own, such as /etc/acme/acme"),
        ("/etc/passwd", "expected a folder of your own"),
        ("/etc/motd/x", "`etc/motd` is removed"),
        ("/etc/ld.so.conf.d/x", "`etc/ld.so.conf*` is removed"),
        ("/etc/systemd/system/x.service", "programs of the guest read /etc/systemd"),
        ("/etc/privml/config.json", "programs of the guest read /etc/privml"),
        ("/etc/modules-load.d/x.conf", "programs of the guest read /etc/modules-load.d"),
        ("/usr/lib/privml/x.py", "programs of the guest read /usr/lib/privml"),
        ("/usr/lib/systemd/system/x.service", "programs of the guest read /usr/lib/systemd"),
        ("/usr/lib/python3.14/x.py", "programs of the guest read /usr/lib/python3.14"),
        ("/usr/lib/python3/x.py", "programs of the guest read /usr/lib/python3"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", "programs of the guest read /usr/lib/x86_64-linux-gnu"),
        ("/usr/lib/ssl/openssl.cnf", "programs of the guest read /usr/lib/ssl"),
        ("/usr/bin/acme", "it is not on the list of programs"),
        ("/usr/share/acme/x", "`usr/share` is removed"),
        ("/opt/acme/x", "`opt` is removed"),
        ("/var/lib/acme/x", "`var/lib/*` is removed"),
        ("/run/acme/x", "expected a path in /etc/NAME/ or /usr/lib/NAME/"),
        ("/usr/lib/acme/sh", "the name `sh` is forbidden in the guest"),
        ("/usr/lib/acme/bash/x", "the name `bash` is forbidden in the guest"),
        ("/usr/lib/acme/../x", "`..` is not a plain name"),
        ("/usr/lib//x", "`` is not a plain name"),
        ("/usr/lib/acme/a b", "`a b` is not a plain name"),
    ],
)
def test_places_that_are_not_the_recipe_s_are_refused(folder: Path, target: str, text: str) -> None:
    message = refused(folder, f'files: {{"{target}": {{source: data/a.json}}}}')
    assert text in message
    assert message.startswith("recipes/mine.yaml:2: files.")
    assert message.partition(" (")[0] and "[file-place]" in message


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("absent", "`absent` does not exist"),
        ("/etc/hostname", "expected a path below the recipe's folder"),
        ("../x", "expected a path below the recipe's folder"),
        ("data/../../x", "expected a path below the recipe's folder"),
        ("out", "`out` leads outside the recipe's folder"),
        ("empty", "`empty` has no files"),
        ("pipe", "`pipe` is neither a file nor a folder"),
        ("links", r"the link `a` -> `\S+` leads out of `links`"),
        ("dangling", r"the link `a` -> `absent` leads out of `dangling`"),
        ("up", r"the link `a` -> `\.\./data/a\.json` leads out of `up`"),
        ("around", r"the link `a` -> `\.\./around/b` leads out of `around`"),
        ("pipes", "`p` in `pipes` is neither a file nor a link"),
    ],
)
def test_only_files_below_the_recipe_are_taken(folder: Path, source: str, text: str) -> None:
    (folder / "out").symlink_to(folder.parent)
    for name in ("empty", "links", "dangling", "up", "around", "pipes"):
        (folder / name).mkdir()
    (folder / "around/b").touch()
    (folder / "around/a").symlink_to("../around/b")
    (folder / "links/a").symlink_to(folder / "data/a.json")
    (folder / "dangling/a").symlink_to("absent")
    (folder / "up/a").symlink_to("../data/a.json")
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipes/p")
    message = refused(folder, f"files: {{/usr/lib/acme/x: {{source: {source}}}}}")
    assert re.search(text, message)
    assert "[file-source]" in message


def test_a_file_given_twice_a_key_and_a_cache_are_refused(folder: Path) -> None:
    twice = "files: {/usr/lib/acme: {source: data}, /usr/lib/acme/a.json: {source: data/a.json}}"
    assert "/usr/lib/acme/a.json is given twice" in refused(folder, twice)
    (folder / "data/a.json").write_text("-----BEGIN PRIVATE KEY-----\n")
    assert "[generated-keys]" in refused(folder, "files: {/etc/acme: {source: data}}")
    (folder / "data/a.json").rename(folder / "data/a.pyc")
    assert "caches are not allowed" in refused(folder, "files: {/etc/acme: {source: data}}")


def test_settings_are_files_of_the_root_and_words_of_the_command_line(folder: Path) -> None:
    mine = recipe(
        folder,
        "sysctl: {vm.swappiness: 10, fs.file-max: 9}\n"
        "kernel: {modules: [tcp_bbr, sch-fq], options: [nosmt, swiotlb=65536]}",
    )
    files, findings = ownfiles.read(mine)
    assert findings == []
    assert {path: file.data for path, file in files.items()} == {
        "etc/modules-load.d/privml-recipe.conf": b"tcp_bbr\nsch_fq\n",
        "etc/sysctl.d/privml-recipe.conf": b"fs.file-max = 9\nvm.swappiness = 10\n",
    }
    line = command_line(Verity(b"Z" * 32, bytes(32), 1, 2), mine.content.kernel.options)
    assert line.startswith(" ".join((*BASE_WORDS, "nosmt swiotlb=65536 privml.root=")))


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("kernel: {options: [mitigations=off]}", '{kind: kernel-option, subject: "mitigations=off", reason: ...}'),
        ("kernel: {options: [swiotlb=0]}", '{kind: kernel-option, subject: "swiotlb=0", reason: ...}'),
        ("kernel: {options: [nokaslr]}", '{kind: kernel-option, subject: "nokaslr", reason: ...}'),
        ("kernel: {modules: [nvme]}", '{kind: kernel-module, subject: "nvme", reason: ...}'),
        ("sysctl: {vm.swappiness: 201}", '{kind: sysctl, subject: "vm.swappiness=201", reason: ...}'),
        ("programs: [env]", '{kind: program, subject: "env", reason: ...}'),
        ("programs: [lua5.4]", '{kind: program, subject: "lua5.4", reason: ...}'),
        ("sysctl: {kernel.randomize_va_space: 0}", '{kind: sysctl, subject: "kernel.randomize_va_space=0", '),
    ],
)
def test_what_is_not_on_a_list_needs_an_exception(folder: Path, text: str, needed: str) -> None:
    message = refused(folder, text)
    assert needed in message
    assert ("can run other programs" if "programs" in text else "is not on the list (") in message
    assert "[exception-missing]" in message
    kind, subject = re.search(r'kind: (\S+), subject: "(\S+)"', message).groups()  # type: ignore[union-attr]
    granted = f'{text}\nexceptions: [{{kind: {kind}, subject: "{subject}", reason: It is alone.}}]'
    assert [each.subject for each in recipe(folder, granted).content.exceptions] == [subject]


@pytest.mark.parametrize(
    "text",
    [
        "kernel: {options: [lockdown=none]}",
        "kernel: {options: [init=/x]}",
        "kernel: {options: [systemd.unit=x]}",
        "kernel: {options: [privml.root=x]}",
        "kernel: {options: [module.sig_enforce=0]}",
        "kernel: {options: [--]}",
        "kernel: {modules: [vmw_vsock_virtio_transport]}",
        "kernel: {modules: [nvidia]}",
        "programs: [dash]",
        "programs: [bash-static]",
        "programs: [tcsh]",
        "programs: [sudo]",
        "programs: [pkexec]",
        "programs: [curl]",
        "kernel: {modules: [tdx-guest]}",
        "sysctl: {kernel.modules_disabled: 0}",
        "sysctl: {net.ipv4.ip_forward: 1}",
        "sysctl: {kernel.core_uses_pid: 1}",
    ],
)
def test_for_some_settings_no_exception_exists(folder: Path, text: str) -> None:
    message = refused(folder, text)
    assert "[exception-never]" in message
    given = re.search(r"`(\S+)` is not allowed", message)[1]  # type: ignore[index]
    for kind in KINDS:
        granted = f'{text}\nexceptions: [{{kind: {kind}, subject: "{given}", reason: none}}]'
        assert "[exception-never]" in refused(folder, granted)


@pytest.mark.parametrize("kind", NO_KIND)
def test_what_no_exception_gives_is_answered_with_its_reason(folder: Path, kind: str) -> None:
    message = refused(folder, f"exceptions: [{{kind: {kind}, subject: x, reason: y}}]")
    assert f"there is no exception `{kind}`: {NO_KIND[kind]}" in message
    assert ("ADR 0012" in message) == (kind == "outbound")
    assert "expected kernel-option or kernel-module or sysctl or program" in refused(
        folder, "exceptions: [{kind: other, subject: x, reason: y}]"
    )


def test_our_own_settings_are_never_a_recipe_s() -> None:
    for line in SETTINGS.splitlines():
        if line and not line.startswith("#"):
            name = line.lstrip("-").partition(" ")[0]
            assert never(SYSCTL, name), name
    for word in BASE_WORDS:
        name = word.partition("=")[0]
        assert never(OPTION, name) or name == "TERM", name
    assert never(OPTION, "privml.root")


def test_the_lists_do_not_contradict_each_other() -> None:
    for kind, names in ((SYSCTL, SYSCTLS), (OPTION, OPTIONS), (MODULE, MODULES)):
        assert [name for name in names if never(kind, name)] == []
    assert set(KINDS) == {SYSCTL, OPTION, MODULE, PROGRAM}
    assert [name for name in programs.RUN_OTHERS if programs.never(name)] == []
    assert not set(KINDS) & set(NO_KIND)
    assert kernelsettings.module_name("a-b") == "a_b"


def test_recipes_without_additions_keep_their_digest_and_their_lock(folder: Path) -> None:
    committed = shipped() / "tdx-min.lock.json"
    assert read_lock(committed).recipe_sha256 == load(folder / "tdx-min.yaml").digest
    assert lockfile.serialise(read_lock(committed)) == committed.read_bytes()
    unused = recipe(folder, "files: {}\nsysctl: {}\nexceptions: []\nkernel: {modules: [], options: []}")
    assert unused.content == recipe(folder, "").content
    assert own_tree(unused) is None


def test_the_lock_says_what_moves_and_what_is_stale(folder: Path) -> None:
    (folder / "mine.yaml").write_text("extends: ./tdx-min.yaml\nfiles: {/etc/acme: {source: data}}\n")
    mine = load(folder / "mine.yaml")
    now = inputs_now(mine)
    old = read_lock(shipped() / "tdx-min.lock.json").model_copy(
        update={"recipe_sha256": now.recipe_sha256, "agent": now.agent, "guest": now.guest}
    )
    new = old.model_copy(update={"files": now.files, "kernel_options": ("nosmt",)})
    assert lockfile.parse(lockfile.serialise(new), Lock, "lock") == new
    told = "the recipe's files and settings, kernel options"
    assert moves(old, new) == [f"RTMR1 moves: {told}", f"RTMR2 moves: {told}"]
    assert "file + etc/acme/a.json" in changes(old, new)
    assert "kernel options: nosmt" in changes(old, new)
    make.check(mine, new, now)
    (folder / "data/a.json").write_text("[]")
    with pytest.raises(Exception, match=r"file etc/acme/a\.json changed"):
        make.check(mine, new, inputs_now(mine))
    with pytest.raises(Exception, match=r"/etc/acme/a\.json of mine changed while the image was built"):
        root.plan_of(mine, new, b"{}")


def test_the_plan_has_files_and_modules(folder: Path) -> None:
    mine = recipe(
        folder, "files: {/etc/acme: {source: data}}\nkernel: {modules: [sch-fq]}\nsysctl: {vm.swappiness: 1}"
    )
    lock = read_lock(shipped() / "tdx-min.lock.json").model_copy(update={"files": own_tree(mine)})
    plan = root.plan_of(mine, lock, b"{}")
    assert plan.own == ("etc/acme/a.json", "etc/acme/sub/link", "etc/acme/sub/tool")
    assert plan.modules == ("sch_fq",)
    assert plan.overlay["etc/acme/sub/link"].link == "../a.json"
    assert plan.overlay["etc/acme/sub/tool"].executable
    assert set(resources.own_files(mine)) < set(plan.overlay)


def test_lint_reports_every_file_with_its_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    text = "files:\n  /etc/systemd/x: {source: data}\n  /etc/acme/x: {source: absent}\n  /etc/good: {source: data}\n"
    (folder / "mine.yaml").write_text(f"extends: ./tdx-min.yaml\n{text}")
    shutil.copyfile(folder / "tdx-min.lock.json", folder / "mine.lock.json")
    result = CliRunner().invoke(lint, ["mine", "--json"])
    (told,) = json.loads(result.stdout)["recipes"]
    found = [(each["rule"], each["line"]) for each in told["findings"] if each["severity"] == "error"]
    assert found == [("file-place", 3), ("file-source", 4)]


FINALIZE = (images_folder() / "mkosi/finalize.py").read_text()
OWN = FINALIZE[FINALIZE.index("# -- a recipe's files") : FINALIZE.index("# -- collect the declared licence")]


def finalize(own: list[str]) -> None:
    def fail(text: str) -> None:
        raise SystemExit(text)

    packages = {"etc": "base-files", "usr/lib": "base-files", "usr": "base-files", "etc/acme": "acme"}
    exec(OWN, {"facts": {"own": own}, "packages": packages, "Path": Path, "fail": fail})


def test_the_build_refuses_a_file_in_a_package_s_folder() -> None:
    finalize(["etc/mine/x", "usr/lib/mine/sub/x"])
    with pytest.raises(SystemExit, match=r"^/etc/acme/sub/x, .* is in /etc/acme, a folder of the package acme$"):
        finalize(["etc/acme/sub/x"])


def test_a_place_of_one_s_own_is_allowed() -> None:
    for path in ("etc/acme/x", "usr/lib/acme/a/b-1.2+c@d", "usr/lib/acme-2/_x"):
        assert places.refused(path, frozenset()) is None


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("files: {/etc/a: {source: b, executable: true}}\nkernel: {options: [nosmt], modules: [loop]}", True),
        ("sysctl: {vm.swappiness: 10}\nexceptions: [{kind: sysctl, subject: a, reason: b}]", True),
        ("files: {etc/a: {source: b}}", False),
        ("files: {/etc/a: {source: b, executable: null}}", False),
        ("files: {/etc/a: {}}", False),
        ("sysctl: {swappiness: 10}", False),
        ("sysctl: {vm.swappiness: yes}", False),
        ("kernel: {options: [a b]}", False),
        ("exceptions: [{kind: sysctl, subject: a}]", False),
        ("exceptions: [{kind: shell, subject: a, reason: b}]", False),
    ],
)
def test_editors_know_the_fields(text: str, good: bool) -> None:
    made = schema.recipe_schema()
    assert accepts(made, document.parse(f"extends: ./a.yaml\n{text}\n".encode(), "t.yaml").value, made) is good


def test_packages_are_requested_after_the_guest_s_own(folder: Path) -> None:
    mine = recipe(folder, "packages: [jq, systemd, python3-yaml]")
    assert guest_packages(mine)[:-2] == guest_packages(load(folder / "tdx-min.yaml"))
    assert list(map(str, guest_packages(mine)[-2:])) == ["jq", "python3-yaml"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("packages: [openssh-server]", "packages[0]: got `openssh-server`, expected none of apt, "),
        ("packages: [linux-image-amd64]", "expected no package of a kernel"),
        ("packages: ['?essential']", "packages[0]: got `?essential`, expected text of the form"),
        ("packages: ['file:../x.deb']", "packages[0]: got `file:../x.deb`, expected text of the form"),
        ("packages: ['file:x.rpm']", "packages[0]: got `file:x.rpm`, expected text of the form"),
        ("packages: [jq, jq]", "the same package is listed twice"),
        ("programs: [a/b]", "programs[0]: got `a/b`"),
    ],
)
def test_packages_that_no_guest_may_have_are_refused(folder: Path, text: str, problem: str) -> None:
    assert problem in refused(folder, text)


def test_a_file_can_be_a_program_that_the_recipe_names(folder: Path) -> None:
    text = "programs: [tool]\nfiles: {/usr/bin/%s: {source: data/%s}}"
    tree = own_tree(recipe(folder, text % ("tool", "sub/tool")))
    assert tree is not None
    assert [(file.path, file.kind) for file in tree.files] == [("usr/bin/tool", "executable")]
    assert "/usr/bin/tool is not executable" in refused(folder, text % ("tool", "a.json"))
    assert "it is not on the list of programs" in refused(folder, text % ("other", "sub/tool"))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("cmdline: quiet", "words of the kernel command line are in `kernel.options`"),
        ("gpus: 8", "the GPUs of the machine and their driver are in `gpu`"),
        ("base: {snapshot: 20260101}", "which state of the archives is used is in the lock"),
        ("kernel: {cmdline: x}", "words of the kernel command line are in `kernel.options`"),
        ("run: [apt install x]", "a recipe runs nothing"),
        ("agent: {ssh-keys: []}", "the guest has no logins"),
        ("fils: {}", "did you mean `files`?"),
        (
            "agent: {quux: 1}",
            "agent.quux: unknown field; known: listen, max_concurrency, per_address, metrics, callers, issuer",
        ),
    ],
)
def test_an_unknown_field_is_answered(folder: Path, text: str, answer: str) -> None:
    message = refused(folder, text)
    assert "unknown field; " in message
    assert answer in message


def test_no_field_is_a_wish() -> None:
    for path in facts():
        assert path.startswith("platform.") or "." in path or wishes.answer(path) is None, path


def test_a_new_recipe_can_start_from_one_with_additions(folder: Path) -> None:
    shutil.copytree(REPOSITORY / "tests/real/additions", folder, dirs_exist_ok=True, symlinks=True)
    mine = load(folder / "additions.yaml")
    (folder / "copy.yaml").write_text(commented(mine.content, "a test"))
    assert load(folder / "copy.yaml").content == mine.content
    odd = recipe(folder, 'files: {"/etc/acme/a": {source: "a, b"}}\nsysctl: {vm.swappiness: 1}')
    (folder / "copy.yaml").write_text(commented(odd.content, "a test"))
    assert load(folder / "copy.yaml").content == odd.content


def test_a_new_recipe_can_start_from_one_with_services_and_a_split_model(folder: Path) -> None:
    source = recipe(
        folder,
        'services: {metrics: {run: [/usr/bin/python3, "a,b", "[c]"], environment: {LEVEL: "x, y"}, memory: 64MiB}}',
    )
    assert source.content.inference is None
    split = yaml.safe_load((folder / "demo-cpu.yaml").read_text())
    parts = [{"name": f"tiny-0000{number}-of-00002.gguf", "sha256": str(number) * 64} for number in (1, 2)]
    model = {"name": "tiny", "source": f"hub:acme/tiny@{'a' * 40}", "files": parts, "licence": "MIT OR Apache-2.0"}
    split["inference"]["models"] = [model]
    (folder / "split.yaml").write_text(yaml.safe_dump(split))
    for content in (source.content, load(folder / "split.yaml").content):
        (folder / "copy.yaml").write_text(commented(content, "a test"))
        assert load(folder / "copy.yaml").content == content
