"""The repository's workflows and its action: valid, pinned, with least permissions; their steps do what they say."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from published_fake import NOW, Fake

from privml.cli.main import cli
from privml.recipe import starter
from privml.statement.attestation import MEDIA_TYPE
from privml.statement.predicate import PREDICATE_TYPE
from privml.statement.release import CI_FILE

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
FOLDER = ROOT / ".github/workflows"
WORKFLOWS = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.yml"))}
ACTION = (ROOT / "action.yml").read_text()
STARTED = starter.workflow("mine")
TEXTS = {**WORKFLOWS, "action": ACTION, "init": STARTED}
# The only jobs that may write anything, and what.
WRITES = {
    ("release", "attest"): {"id-token": "write", "attestations": "write"},
    ("refresh", "refresh"): {"contents": "write"},
    ("log", "append"): {"contents": "write"},
    ("pages", "deploy"): {"pages": "write", "id-token": "write"},
}
needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="this host has no jq, which hosted runners have")
findings = runpy.run_path(str(ROOT / ".github/endorsement.py"))["findings"]


def read(name: str) -> dict[Any, Any]:
    document: dict[Any, Any] = yaml.safe_load(TEXTS[name])
    return document


def jobs(name: str) -> dict[str, Any]:
    found: dict[str, Any] = read(name)["jobs"]
    return found


def steps(name: str) -> list[dict[str, Any]]:
    document = read(name)
    if "runs" in document:
        return list(document["runs"]["steps"])
    return [step for job in document["jobs"].values() for step in job["steps"]]


def step(name: str, title: str) -> str:
    """The script of the step with this name."""
    (script,) = (each["run"] for each in steps(name) if each.get("name") == title)
    return str(script)


def checked(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_are_valid_by_the_schemas(tmp_path: Path) -> None:
    (tmp_path / "init.yml").write_text(STARTED)
    flows = [*FOLDER.glob("*.yml"), tmp_path / "init.yml"]
    checked(BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *flows)
    checked(BIN / "check-jsonschema", "--builtin-schema", "vendor.github-actions", ROOT / "action.yml")


def test_zizmor_finds_nothing_above_low(tmp_path: Path) -> None:
    # Low is that `uses: ./` has a newer spelling, which the schemas do not know.
    (tmp_path / ".github/workflows").mkdir(parents=True)
    (tmp_path / ".github/workflows/init.yml").write_text(STARTED)
    for folder in (ROOT / ".github", ROOT / "action.yml", tmp_path / ".github"):
        checked(BIN / "zizmor", "--offline", "--no-progress", "--min-severity", "medium", folder)


def test_a_script_that_takes_the_name_of_a_branch_is_found(tmp_path: Path) -> None:
    """The control: zizmor refuses what these workflows must never do."""
    (tmp_path / "bad.yml").write_text(
        WORKFLOWS["ci"].replace("run: make test", 'run: make test "${{ github.head_ref }}"')
    )
    done = subprocess.run(
        [str(BIN / "zizmor"), "--offline", "--no-progress", "--min-severity", "medium", str(tmp_path / "bad.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "template-injection" in done.stdout


@pytest.mark.parametrize("name", TEXTS)
def test_actions_are_pinned_by_commit_and_one_commit_an_action(name: str) -> None:
    used = re.findall(r"uses: (\S+)(.*)", TEXTS[name])
    pinned = {action: rest for action, rest in used if action != "./"}
    for action, rest in pinned.items():
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", rest), action
    everywhere = {action for text in TEXTS.values() for action in re.findall(r"uses: ([^\s@]+@\S+)", text)}
    assert len(everywhere) == len({action.partition("@")[0] for action in everywhere})


@pytest.mark.parametrize("name", TEXTS)
def test_no_script_contains_an_expression(name: str) -> None:
    for each in steps(name):
        assert "${{" not in each.get("run", ""), each


@pytest.mark.parametrize("name", WORKFLOWS)
def test_only_the_listed_jobs_may_write(name: str) -> None:
    assert read(name)["permissions"] == {}
    for job, content in jobs(name).items():
        expected = WRITES.get((name, job))
        given = content["permissions"]
        assert given == expected if expected else given in ({}, {"contents": "read"}), (name, job)
        assert content["timeout-minutes"] <= 90
        secret = {"refresh": ("ONLINE_KEY", "online-key"), "log": ("LOG_KEY", "log-key")}.get(name)
        assert re.findall(r"secrets\.(\w+)", str(content)) == ([secret[0]] if secret else [])
        environment = "github-pages" if (name, job) == ("pages", "deploy") else None
        assert content.get("environment") == (secret[1] if secret else environment)
        for each in content["steps"]:
            if "actions/checkout@" in each.get("uses", ""):
                assert each["with"]["persist-credentials"] is False


def test_no_workflow_runs_code_of_a_change_with_the_rights_of_the_branch() -> None:
    for name in WORKFLOWS:
        triggers = read(name)[True]  # YAML reads the word `on` as true
        assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(triggers), name


@pytest.mark.parametrize("name", TEXTS)
def test_scripts_call_verbs_with_options_that_exist(name: str) -> None:
    called = 0
    for each in steps(name):
        for line in each.get("run", "").splitlines():
            match = re.search(r'(?:privml-build|"\$privml") ([a-z].*?)(?: ;;|; done| \|\| .+)?$', line)
            if match is None:
                continue
            words = shlex.split(match[1].replace('"${against[@]}"', "--against /"))
            command: click.Command = cli
            while isinstance(command, click.Group):
                verb = words.pop(0)
                found = command.get_command(click.Context(command), verb)
                assert found is not None, verb
                command = found
            command.make_context(command.name, [word.replace("$", "") for word in words])
            called += 1
    assert called >= {"publish": 1, "rebuild": 1, "refresh": 2, "log": 3, "action": 4, "init": 3}.get(name, 0)


# Images of gigabytes, with inputs as large: a hosted runner has neither the disk nor the time. `make check-gpu`
# builds them, and rebuild.yml says so.
TOO_LARGE = {"tdx-h100-vllm"}


def test_matrices_name_recipes_that_have_a_record_unless_they_are_too_large() -> None:
    named = {
        recipe
        for text in WORKFLOWS.values()
        for row in re.findall(r"recipe: \[(.*)\]", text)
        for recipe in row.split(", ")
    }
    recorded = {path.parent.name for path in (ROOT / "measurements").glob("*/current.json")}
    assert named == recorded - TOO_LARGE
    large = re.findall(r"^# Not built here: (.*)\.$", WORKFLOWS["rebuild"], flags=re.MULTILINE)
    assert large == [", ".join(sorted(TOO_LARGE))]
    assert {path.stem for path in (ROOT / "recipes").glob("*.yaml")} >= TOO_LARGE


def bash(script: str, folder: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run a step as a runner does."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GITHUB_OUTPUT": str(folder / "output")}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env=environment | {name: str(value) for name, value in variables.items()},
        capture_output=True,
        text=True,
        check=False,
    )


FAKE = """#!/bin/sh
echo "$*" >> "$HOME/calls"
[ "$1" != "$FAILS" ] || exit 4
case $1 in image|repro) mkdir -p "$3" && echo "$1" > "$3/manifest.json" ;; esac
"""


@pytest.fixture
def action(tmp_path: Path) -> Path:
    (tmp_path / "at/.venv/bin").mkdir(parents=True)
    program = tmp_path / "at/.venv/bin/privml-build"
    program.write_text(FAKE)
    program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("recipe", "repro", "built"),
    [
        ("demo", "false", "image --output out/demo"),
        ("r/demo.yaml", "true", "repro --output out/demo"),
        ("x$(id).yml", "false", "image --output out/x$(id)"),
    ],
)
def test_the_action_lints_checks_the_lock_and_builds(action: Path, recipe: str, repro: str, built: str) -> None:
    given = {"GITHUB_ACTION_PATH": action / "at", "RECIPE": recipe, "REPRO": repro, "FAILS": ""}
    done = bash(step("action", "build"), action, **given)
    assert done.returncode == 0, done.stderr
    calls = ("lint", "lock --check", built)
    assert (action / "calls").read_text().splitlines() == [f"{call} -- {recipe}" for call in calls]
    directory, digest = (action / "output").read_text().splitlines()
    assert directory == f"directory={built.split(' ')[2]}"
    assert re.fullmatch(r"manifest-sha256=[0-9a-f]{64}", digest)


FAILURES = [("lint", "false", 4, 1), ("lock", "false", 4, 2), ("repro", "true", 4, 3), ("", "yes", 2, 2)]


@pytest.mark.parametrize(("fails", "repro", "status", "calls"), FAILURES)
def test_the_action_fails_at_the_first_failure(action: Path, fails: str, repro: str, status: int, calls: int) -> None:
    given = {"GITHUB_ACTION_PATH": action / "at", "RECIPE": "demo", "REPRO": repro, "FAILS": fails}
    done = bash(step("action", "build"), action, **given)
    assert done.returncode == status
    assert len((action / "calls").read_text().splitlines()) == calls
    assert not (action / "output").exists()


def built(folder: Path, *manifests: str) -> Path:
    for number, text in enumerate(manifests):
        place = folder / f"built/demo-cpu-ubuntu-{number}"
        place.mkdir(parents=True)
        (place / "manifest.json").write_text(text)
        subject = {"name": "uki.efi", "digest": {"sha256": "ab" * 32}}
        statement = {"predicateType": PREDICATE_TYPE, "predicate": {"a": 1}, "subject": [subject]}
        (place / "prediction.json").write_text(json.dumps(statement))
    return folder


@pytest.mark.parametrize("name", ["repro", pytest.param("release", marks=needs_jq)])
@pytest.mark.parametrize(("manifests", "equal"), [("aa", True), ("ab", False), ("a", False), ("aaa", False)])
def test_two_builds_and_equal_manifests_are_needed(tmp_path: Path, name: str, manifests: str, equal: bool) -> None:
    done = bash(step(name, "compare"), built(tmp_path, *manifests))
    assert (done.returncode == 0) is equal, done.stderr


@needs_jq
def test_what_both_runners_agree_on_is_attested(tmp_path: Path) -> None:
    assert bash(step("release", "compare"), built(tmp_path, "a", "a")).returncode == 0
    assert (tmp_path / "agreed/predicate.json").read_text() == '{\n  "a": 1\n}\n'
    assert (tmp_path / "agreed/subjects.txt").read_text() == f"{'ab' * 32}  uki.efi\n"
    (attest,) = (each["with"] for each in steps("release") if "actions/attest@" in each.get("uses", ""))
    assert attest["predicate-type"] == PREDICATE_TYPE


@needs_jq
@pytest.mark.parametrize(
    ("text", "taken"),
    [
        (f'{{"mediaType": "{MEDIA_TYPE}"}}\n', True),
        (f'{{"mediaType": "{MEDIA_TYPE}"}}\n{{"mediaType": "{MEDIA_TYPE}"}}\n', False),
        (f'{{"mediaType": "{MEDIA_TYPE.replace("v0.3", "v0.2")}"}}\n', False),
        ("", False),
    ],
)
def test_the_bundle_of_an_attestation_is_kept_as_verify_reads_it(tmp_path: Path, text: str, taken: bool) -> None:
    (tmp_path / "attestation.json").write_text(text)
    done = bash(step("release", "bundle"), tmp_path, BUNDLE="attestation.json")
    assert (done.returncode == 0) is (tmp_path / CI_FILE).is_file() is taken
    (kept,) = (each["with"] for each in steps("release")[-1:])
    assert kept["path"] == CI_FILE


@needs_jq
def test_a_prediction_of_another_type_is_not_attested(tmp_path: Path) -> None:
    built(tmp_path, "a", "a")
    for path in tmp_path.glob("built/*/prediction.json"):
        path.write_text(path.read_text().replace("/v2", "/v3"))
    assert bash(step("release", "compare"), tmp_path).returncode != 0


TAGS = {"demo-cpu/2026.11.1": "demo-cpu", "x/1": "x"} | dict.fromkeys(("../x", "a/b/c", "A/1", "a/$(id)", "-a/1"))


@pytest.mark.parametrize(("tag", "name"), TAGS.items())
def test_a_tag_names_an_image_and_a_version(tmp_path: Path, tag: str, name: str | None) -> None:
    done = bash(step("release", "name"), tmp_path, GITHUB_REF_NAME=tag)
    assert (done.returncode == 0) is (name is not None)
    assert name is None or (tmp_path / "output").read_text() == f"name={name}\n"


ONE = "measurements/demo-cpu/1.0/endorsements/zoe.dsse.json"


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ([("A", ONE)], 0),
        ([("A", ONE), ("A", ONE.replace("1.0", "1.1"))], 0),
        ([("M", "README.md"), ("M", "measurements/demo-cpu/index.json")], 0),
        ([("M", ONE)], 1),
        ([("D", ONE)], 1),
        ([("A", ONE), ("A", ONE.replace("zoe", "ann"))], 1),
        ([("A", ONE), ("M", "README.md")], 1),
        ([("A", ONE), ("M", "measurements/demo-cpu/index.json"), ("M", ".github/workflows/ci.yml")], 2),
        ([("A", ONE.replace("zoe.", "zoe/x."))], 1),
        ([("A", ONE.replace("zoe", "Zoe"))], 1),
        ([("A", ONE.replace("zoe", ".."))], 1),
    ],
)
def test_an_endorsement_adds_files_of_one_rebuilder_and_nothing_else(
    changes: list[tuple[str, str]], wrong: int
) -> None:
    assert len(findings(changes)) == wrong


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """The workspace of `publish`: `change` with a repository, `base` to come with this checkout's tool."""
    change = tmp_path / "change"
    change.mkdir()
    git(change, "init")
    for path, data in Fake().files.items():
        (change / "measurements" / path).parent.mkdir(parents=True, exist_ok=True)
        (change / "measurements" / path).write_bytes(data)
    git(change, "add", "."), git(change, "commit", "-m", "base")
    return tmp_path


def merged(gate: Path) -> None:
    """Commit what is in `change` as GitHub merges it, and run the workflow's first step."""
    (
        git(gate / "change", "switch", "-c", "pull"),
        git(gate / "change", "add", "."),
        git(gate / "change", "commit", "-m", "pull"),
    )
    git(gate / "change", "switch", "main"), git(gate / "change", "merge", "--no-ff", "pull")
    assert bash(step("publish", "the branch as it is"), gate).returncode == 0
    (gate / "base/.github").symlink_to(ROOT / ".github")
    program = gate / "base/.venv/bin/privml-build"
    program.parent.mkdir(parents=True)
    # The fake's metadata is valid at its own time only.
    program.write_text(
        f"#!{sys.executable}\nimport time\ntime.time = lambda: {NOW}\nfrom privml.cli.main import main\nmain()\n"
    )
    program.chmod(0o755)


def test_the_gate_takes_an_endorsement_alone(gate: Path) -> None:
    place = gate / "change" / ONE
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"{}")
    merged(gate)
    assert bash(step("publish", "an endorsement comes alone"), gate).returncode == 0
    done = bash(step("publish", "publish check"), gate)
    assert done.returncode == 8, "an endorsement must also be signed"
    assert "endorsements/zoe.dsse.json" in done.stdout


def test_the_gate_refuses_an_endorsement_with_something_else(gate: Path) -> None:
    place = gate / "change" / ONE
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"{}")
    (gate / "change/evil\n.py").write_text("")
    merged(gate)
    done = bash(step("publish", "an endorsement comes alone"), gate)
    assert (done.returncode, done.stdout) == (
        1,
        "evil\\n.py: not an endorsement, expected a change of its own for it\n",
    )


def test_the_gate_refuses_a_change_of_what_was_published_and_takes_another(gate: Path) -> None:
    (gate / "change/README.md").write_text("hello")
    merged(gate)
    done = bash(step("publish", "publish check"), gate)
    assert done.returncode == 0, done.stdout + done.stderr
    assert bash(step("publish", "an endorsement comes alone"), gate).returncode == 0
    (gate / "change/measurements/tuf/1.root.json").write_text("{}")
    done = bash(step("publish", "publish check"), gate)
    assert done.returncode in (8, 9)


def test_the_gate_refuses_that_everything_published_is_gone(gate: Path) -> None:
    subprocess.run(["rm", "-r", str(gate / "change/measurements")], check=True)
    merged(gate)
    assert bash(step("publish", "publish check"), gate).returncode == 9


def test_with_nothing_published_the_gate_the_refresh_and_the_log_say_so(tmp_path: Path) -> None:
    for name, title in (
        ("publish", "publish check"),
        ("refresh", "is anything published?"),
        ("pages", "is anything published?"),
        ("log", "is a log kept?"),
    ):
        done = bash(step(name, title), tmp_path)
        assert done.returncode == 0
        assert re.fullmatch(r"::notice::(nothing is published|no log is kept) here\n", done.stdout)
        assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("name", "title", "variable"), [("refresh", "refresh", "ONLINE_KEY"), ("log", "append", "LOG_KEY")]
)
def test_a_key_is_gone_after_its_step_also_when_that_fails(
    tmp_path: Path, name: str, title: str, variable: str
) -> None:
    program = tmp_path / ".venv/bin/privml-build"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nstat -c %a "$4" >> "$HOME/seen"; cat "$4" >> "$HOME/seen"; exit 8\n')
    program.chmod(0o755)
    done = bash(step(name, title), tmp_path, RUNNER_TEMP=tmp_path, **{variable: "KEY"})
    assert done.returncode == 8
    assert (tmp_path / "seen").read_text() == "600\nKEY\n"
    assert not list(tmp_path.glob("*.pem"))


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (5, 0), (8, 8), (9, 9)])
def test_witnesses_are_asked_if_they_are_named_and_one_that_is_away_stops_nothing(
    tmp_path: Path, code: int, ends: int
) -> None:
    program = tmp_path / ".venv/bin/privml-build"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "$*" >> "$HOME/calls"\n[ "$1" = publish ] || exit {code}\n')
    program.chmod(0o755)
    assert bash(step("log", "ask witnesses"), tmp_path).returncode == 0
    assert (tmp_path / "calls").read_text() == "publish check\n"
    (tmp_path / "witnesses.txt").write_text("quorum none\n")
    assert bash(step("log", "ask witnesses"), tmp_path).returncode == ends
    calls = (tmp_path / "calls").read_text().splitlines()[1:]
    assert calls == ["log witness --policy witnesses.txt", *(["publish check"] if ends == 0 else [])]


def test_what_a_workflow_signed_is_committed_and_pushed_and_nothing_if_nothing_changed(tmp_path: Path) -> None:
    origin, work = tmp_path / "origin", tmp_path / "work"
    for folder in (origin, work):
        folder.mkdir()
    git(origin, "init", "--bare")
    git(work, "init"), git(work, "remote", "add", "origin", str(origin))
    (work / "measurements").mkdir()
    (work / "measurements/a").write_text("1")
    git(work, "add", "."), git(work, "commit", "-m", "first"), git(work, "push", "origin", "HEAD:main")
    (tmp_path / "gh").write_text('#!/bin/sh\necho "$*" >> "$HOME/calls"\n')
    (tmp_path / "gh").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    script = f"cd work && {ROOT}/.github/push.sh 'log: more'"
    assert bash(script, tmp_path, PATH=path).returncode == 0
    assert not (tmp_path / "calls").exists()
    (work / "measurements/a").write_text("2")
    (work / "other").write_text("not signed")
    done = bash(script, tmp_path, PATH=path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "calls").read_text() == "auth setup-git\n"
    shown = ["git", "-C", str(origin), "log", "--format=%s %an", "--name-only", "-1", "main"]
    said = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    assert said == "log: more github-actions[bot]\n\nmeasurements/a\n"


def test_a_started_workflow_is_green_without_a_variable_and_says_that_it_checked_nothing(tmp_path: Path) -> None:
    done = bash(step("init", "privml-build"), tmp_path, PRIVML_BUILD="", PRIVML_MIRRORS="")
    assert done.returncode == 0
    assert done.stdout.startswith("::warning title=nothing was checked::")
    assert not (tmp_path / "output").exists()
    guarded = [each.get("if") for each in steps("init") if "run" in each and each["name"] != "privml-build"]
    assert guarded == ["steps.privml-build.outputs.installed"] * 4


def test_a_started_workflow_installs_what_its_variable_names(tmp_path: Path) -> None:
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$*" > "$HOME/installed"\n')
    (tmp_path / "python3").write_text('#!/bin/sh\nmkdir -p "$3/bin" && cp "$HOME/pip" "$3/bin/pip"\n')
    (tmp_path / "pip").chmod(0o755)
    (tmp_path / "python3").chmod(0o755)
    done = bash(
        step("init", "privml-build"),
        tmp_path,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        GITHUB_PATH=tmp_path / "path",
        PRIVML_BUILD="privml-build[build] @ x",
        PRIVML_MIRRORS="debian: [a]\nhub: [b]",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "installed").read_text() == "install privml-build[build] @ x\n"
    assert (tmp_path / "path").read_text() == f"{tmp_path}/privml/bin\n"
    assert (tmp_path / ".config/privml-build/mirrors.yaml").read_text() == "debian: [a]\nhub: [b]\n"
    assert (tmp_path / "output").read_text() == "installed=yes\n"


@pytest.mark.parametrize("mirrors", ["", "debian: [a]\nhub: [b]"])
def test_the_set_up_makes_the_environment_and_the_file_of_mirrors(tmp_path: Path, mirrors: str) -> None:
    (tmp_path / "at/.github").mkdir(parents=True)
    shutil.copy(ROOT / ".github/setup.sh", tmp_path / "at/.github")
    for name in ("sudo", "make"):
        # Neither does anything: as root, the real ones would change this machine.
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $* in $(basename "$PWD")" >> "$HOME/calls"\n')
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = bash("at/.github/setup.sh", tmp_path, PATH=path, MIRRORS=mirrors)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call for call in calls if "tee" not in call] == [
        "sudo make --silent host in at",
        "make --silent venv in at",
    ]
    written = tmp_path / ".config/privml-build/mirrors.yaml"
    assert (written.read_text() if written.exists() else "") == (f"{mirrors}\n" if mirrors else "")
