"""`keys`: from an empty folder to a key in the guest, each step by the command line."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import attestation_samples
import broker_samples
import pytest
from broker_samples import RESOURCE, Desk, guest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from key_guest import broker_at, guest_at, waiting
from test_cli_main import Outcome, as_found, image, place  # noqa: F401 - fixtures

from privml.base.errors import HostError, Refused
from privml.base.strictjson import canonical, unb64
from privml.channel.kem import X25519
from privml.cli import keys_serve
from privml.client import anchors
from privml.keybroker import kek, resources, server, store
from privml.keybroker.broker import Broker
from privml.keybroker.policy import ReleasePolicy
from privml.keybroker.snprelease import SnpRelease
from privml.output.volumekey import VolumeKey
from privml.verify.snptcb import TcbFloor

LATER = "2099-01-01T00:00:00Z"
Run = Callable[..., str]


def owner(folder: Path, name: str, number: int) -> None:
    """The files NAME.pem and NAME.pub of an owner."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    (folder / f"{name}.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:  # noqa: F811
    """Runs `keys` in a folder with an image and two owners' keys; gives stdout and checks the exit status."""
    monkeypatch.setattr(kek, "SCRYPT_N", 2**4)
    monkeypatch.setattr(attestation_samples, "PREDICATE", broker_samples.PREDICATE)
    image(place)
    (place / "root.pem").write_bytes(attestation_samples.sim.root_pem())
    owner(place, "a", 1)
    owner(place, "b", 2)

    def ran(*words: str, code: int = 0) -> str:
        done = Outcome(capsys, "keys", *words)
        assert done.code == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    return ran


def with_policy(run: Run, *more: str) -> None:
    """A store with a resource and an accepted policy."""
    made = json.loads(run("init", "--development", "--json"))
    run("add", RESOURCE, "--owner", "a.pub", "--out", "qwen.key")
    words = [
        "--resource",
        RESOURCE,
        "--broker",
        made["ed25519"],
        "--serial",
        "1",
        "--image",
        "out/demo-cpu",
        "--not-after",
        LATER,
        *more,
    ]
    run("policy", "new", *words, "-o", "policy.json")
    run("policy", "sign", "policy.json", "--key", "a.pem")
    run("policy", "add", "policy.dsse")


def test_a_key_goes_from_the_command_line_to_a_guest(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_policy(run, "--simulated")
    key = json.loads((tmp_path / "qwen.key").read_bytes())
    assert (key["format"], key["resource"], key["generation"]) == ("privml-volume-key/v1", RESOURCE, 1)
    assert stat.S_IMODE((tmp_path / "qwen.key").stat().st_mode) == 0o600
    monkeypatch.setattr(keys_serve, "time", SimpleNamespace(time=lambda: attestation_samples.NOW))

    def served(address: tuple[str, int], broker: Broker, **_: object) -> None:
        assert address == ("127.0.0.1", 8200)
        desk = Desk(Path("x"), "", broker.store, broker, VolumeKey(RESOURCE, 1, b""))
        found = waiting(desk)
        with broker_at(desk) as port, guest_at(found, tmp_path / "guest") as url:
            words = [sys.executable, "-c", "from privml.cli.main import main; main()", "keys", "deliver", url]
            words += ["--broker", f"http://127.0.0.1:{port}", "--json"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["released"] == [{"resource": RESOURCE, "generation": 1}]
        assert [each.hex() for each in found.keys.values()] == [unb64(key["key"]).hex()]

    monkeypatch.setattr(server, "serve", served)
    image(tmp_path, "another", launches=(attestation_samples.launch(8, 8 << 30),))
    images = ["--expect", "out/another", "--expect", "out/demo-cpu"]
    run("serve", *images, "--allow-simulated", "root.pem", "--offline")
    shown = run("log", "show").splitlines()
    assert [line.split()[1] for line in shown if line[0].isdigit()] == ["admin", "admin", "admin", "release"]
    assert json.loads(run("log", "show", "--json", "--since", "3"))[0]["image"] in "".join(shown)
    assert json.loads(run("show", "--json"))["resources"][0]["released"] == 1
    said = run("log", "verify")
    assert "4 entries, all there: 1 release, 0 refuse, 3 admin" in said
    assert run("log", "verify", "--at", said.split("head ")[1].strip()) == said


def test_images_that_no_register_tells_apart_are_not_served(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owners name one by its predicate; which one a guest is would depend on the order of --expect."""
    monkeypatch.setattr(server, "serve", lambda *_, **__: None)
    run("init", "--development")
    image(tmp_path, "twin", variant="development")
    image(tmp_path, "copy")
    words = ["--allow-simulated", "root.pem", "--offline"]
    said = run("serve", "--expect", "out/demo-cpu", "--expect", "out/twin", *words, code=2)
    assert "the build in out/demo-cpu and the build in out/twin differ and have equal registers (tdx: qemu" in said
    found = anchors.told_apart([anchors.built(tmp_path / "out" / name) for name in ("demo-cpu", "copy")])
    assert len(found.versions) == 2, "two copies of one build"


@pytest.mark.parametrize(("served", "status"), [("another demo-cpu", 200), ("another third", 403)])
def test_a_guest_may_be_any_image_that_is_served_and_no_other(
    served: str, status: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_policy(run, "--simulated")
    for name, size in (("another", 8), ("third", 16)):
        image(tmp_path, name, launches=(attestation_samples.launch(size, size << 30),))
    monkeypatch.setattr(keys_serve, "time", SimpleNamespace(time=lambda: attestation_samples.NOW))
    answers = []

    def asked(_: object, broker: Broker, **__: object) -> None:
        desk = Desk(tmp_path, "", broker.store, broker, VolumeKey(RESOURCE, 1, b""))
        answers.append(desk.ask(guest(X25519)))

    monkeypatch.setattr(server, "serve", asked)
    images = [word for name in served.split() for word in ("--expect", f"out/{name}")]
    run("serve", *images, "--allow-simulated", "root.pem", "--offline")
    ((found, told, _),) = answers
    assert found == status, told
    assert status == 200 or {"rtmr0"} & {each["code"] for each in told["refusals"]}


def test_a_policy_says_which_snp_guests_get_the_key(run: Run, place: Path) -> None:  # noqa: F811
    words = [
        "--snp-min-tcb",
        "Turin:fmc=1,bl=1,tee=0,snp=2,ucode=3",
        "--snp-chip",
        "11" * 64,
        "--snp-deny",
        "22" * 64,
    ]
    with_policy(run, *words, "--snp-min-tcb", "Genoa:bl=10,tee=0,snp=23,ucode=84", "--allow-unmeasured-acpi")
    made = ReleasePolicy.decode((place / "policy.json").read_bytes())
    floors = (TcbFloor("Genoa", bl=10, snp=23, ucode=84), TcbFloor("Turin", fmc=1, bl=1, snp=2, ucode=3))
    assert made.snp == SnpRelease(floors, True, (b"\x11" * 64,), (b"\x22" * 64,))
    said = run("policy", "sign", "policy.json", "--key", "a.pem")
    assert "to SEV-SNP guests on Genoa, with at least bl 10, tee 0, snp 23, ucode 84" in said
    assert "ACPI tables of SEV-SNP guests are their host's and not measured" in said


def test_simulation_is_only_for_a_development_store(run: Run) -> None:
    run("init")
    said = run("serve", "--expect", "out/demo-cpu", "--allow-simulated", "root.pem", code=8)
    assert "store-production: --allow-simulated needs a store that was made with --development" in said


def test_two_owners_sign_one_after_the_other(run: Run, place: Path) -> None:  # noqa: F811
    broker = json.loads(run("init", "--json"))["ed25519"]
    run("add", RESOURCE, "--owner", "a.pub", "--owner", "b.pub", "--out", "k")
    words = ["--resource", RESOURCE, "--serial", "1", "--image-sha256", "11" * 32, "--not-after", LATER]
    words += ["--broker", broker]
    run("policy", "new", *words, "--max-releases", "2", "--platform", "22" * 16, "-o", "p.json")
    assert "at most 2 releases, to 22222222" in run("policy", "sign", "p.json", "--key", "a.pem")
    other = json.loads((place / "p.json").read_bytes())
    (place / "none.json").write_bytes(canonical({**other, "platforms": [], "not_after": 253402300799}))
    said = run("policy", "sign", "none.json", "--key", "a.pem")
    assert "until 9999-12-31T23:59:59Z" in said and "releases, to no TDX machine" in said
    assert "policy-signatures: signed by too few of the present owners" in run("policy", "add", "p.dsse", code=8)
    run("policy", "sign", "p.dsse", "--key", "b.pem")
    run("policy", "sign", "p.dsse", "--key", "b.pem")
    assert "accepted, signed by" in run("policy", "add", "p.dsse")
    assert "policy-serial: got serial 1, expected more than 1" in run("policy", "add", "p.dsse", code=8)
    next_owners = ["--resource", RESOURCE, "--broker", broker, "--serial", "2", "--owner", "b.pub"]
    run("policy", "owners", *next_owners, "-o", "o.json")
    run("policy", "sign", "o.json", "--key", "a.pem")
    run("policy", "sign", "o.json", "--key", "b.pem")
    run("policy", "add", "o.dsse")
    (found,) = json.loads(run("show", "--json"))["resources"]
    assert (found["serial"], found["threshold"], len(found["owners"])) == (2, 1, 1)


def test_keys_are_rotated_retired_exported_and_never_overwritten(run: Run, tmp_path: Path) -> None:
    with_policy(run)
    assert "is there already" in run("rotate", RESOURCE, "--out", "qwen.key", code=2)
    run("rotate", RESOURCE, "--out", "qwen-2.key")
    assert "root generation 2" in run("rotate")
    run("retire", RESOURCE, "1")
    run("export", RESOURCE, "1", "--out", "again.key")
    assert (tmp_path / "again.key").read_bytes() == (tmp_path / "qwen.key").read_bytes()
    (found,) = json.loads(run("show", "--json"))["resources"]
    assert found["keys"] == [{"generation": 1, "retired": True}, {"generation": 2, "retired": False}]
    assert "generations 1 (retired), 2" in run("show")
    run("retire", RESOURCE, "1", "--destroy")
    assert "store-damaged" in run("export", RESOURCE, "1", "--out", "gone.key", code=5)
    assert not (tmp_path / "gone.key").exists()
    assert "resource-unknown" in run("retire", "model/none", "1", code=8)


def test_a_store_is_backed_up_and_restored(run: Run, tmp_path: Path) -> None:
    with_policy(run)
    run("backup", "saved", "--backup-kek", "file:saved.kek")
    assert "store-exists" in run("restore", "saved", "--backup-kek", "file:saved.kek", code=2)
    (tmp_path / "broker.store").unlink()
    run("restore", "saved", "--backup-kek", "file:saved.kek")
    assert "generations 1" in run("show")


def test_a_lost_head_is_pinned_again_by_hand(run: Run, tmp_path: Path) -> None:
    run("init", "--head", "pinned")
    (tmp_path / "pinned").unlink()
    assert "head-missing" in run("show", "--head", "pinned", code=8)
    run("log", "verify", "--pin", "--head", "pinned")
    run("show", "--head", "pinned")


def test_a_head_in_a_release_is_compared_with_the_log(run: Run, tmp_path: Path) -> None:
    with broker_samples.desk(tmp_path) as made:
        (tmp_path / "release").write_bytes(made.ask(guest(X25519))[2])
    words = ["log", "verify", "--kek", "file:broker.kek", "--release", "release"]
    assert "4 entries" in run(*words)
    for each in ("store", "store.head", "store.lock"):
        (tmp_path / f"broker.{each}").unlink()
    with broker_samples.desk(tmp_path, signer=Ed25519PrivateKey.generate()):
        pass
    assert "release: by broker" in run(*words, code=8), "of another store"


def test_the_unit_in_the_documents_uses_options_that_exist() -> None:
    unit = (Path(__file__).parents[2] / "docs" / "privml-key-broker.service").read_text()
    command = unit.partition("ExecStart=")[2].partition("LoadCredential")[0]
    known = {option for param in keys_serve.serve.params for option in param.opts}
    used = {word for word in command.split() if word.startswith("--")}
    assert {"--expect", "--store", "--head", "--kek", "--listen"} == used <= known


def test_meaningless_options_are_usage_errors(run: Run) -> None:
    run("init")
    words = [
        "policy",
        "new",
        "--resource",
        RESOURCE,
        "--broker",
        "22" * 32,
        "--serial",
        "1",
        "-o",
        "p",
        "--not-after",
    ]
    digest = ["--image-sha256", "11" * 32]
    floor = ["--snp-min-tcb", "Genoa:bl=10,tee=0,snp=23,ucode=84"]
    for said, bad in (
        ("belong together", ["rotate", RESOURCE]),
        ("--new-kek is for the store's root", ["rotate", RESOURCE, "--out", "k", "--new-kek", "file:k"]),
        ("--kek vault: expected file:PATH", ["show", "--kek", "vault"]),
        ("--not-after: got `soon`", [*words, "soon", *digest]),
        ("no image is given", [*words, LATER]),
        ("expected 32 lower-case hex digits", [*words, LATER, *digest, "--deny", "11"]),
        ("expected 128 lower-case hex digits", [*words, LATER, *digest, *floor, "--snp-chip", "11"]),
        ("--snp-min-tcb PRODUCT:PART=N,... is missing", [*words, LATER, *digest, "--allow-unmeasured-acpi"]),
        ("expected each product once", [*words, LATER, *digest, *floor, *floor]),
        ("expected Turin:fmc=N,bl=N", [*words, LATER, *digest, "--snp-min-tcb", "Turin:bl=1,tee=0,snp=2,ucode=3"]),
        ("expected PRODUCT:PART=N", [*words, LATER, *digest, "--snp-min-tcb", "Naples:bl=1,tee=0,snp=2,ucode=3"]),
        ("expected 0 to 255", [*words, LATER, *digest, "--snp-min-tcb", "Genoa:bl=256,tee=0,snp=2,ucode=3"]),
        ("got `Model`, expected words", ["policy", "new", "--resource", "Model", *words[4:], LATER, *digest]),
        ("--tls-cert and --tls-key belong together", ["serve", "--expect", "out/demo-cpu", "--tls-cert", "a.pub"]),
        ("threshold 3 of 1 keys", ["add", "m/x", "--owner", "a.pub", "--threshold", "3", "--out", "k"]),
        ("is not a public key", ["add", "m/x", "--owner", "a.pem", "--out", "k"]),
        ("expected SIZE:ROOT", ["log", "verify", "--at", "4"]),
        ("store-exists", ["init"]),
        ("there is no store at", ["show", "--store", "other"]),
    ):
        assert said in run(*bad, code=2)


@pytest.mark.parametrize(("refused", "status", "kind"), [(False, 5, HostError), (True, 8, Refused)])
def test_a_delivery_that_is_not_complete_has_its_exit_status(
    refused: bool,
    status: int,
    kind: type,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from privml.client import courier

    done = courier.Delivery(missing=[courier.Want(bytes(32), "a", RESOURCE, 1)], refused=refused)
    monkeypatch.setattr(courier, "courier", lambda *_, **__: SimpleNamespace(deliver=lambda: done))
    said = run("deliver", "https://h", "--broker", "http://b", code=status)
    assert "https://h still waits for model/qwen generation 1 of broker a" in said
    assert kind.exit_code == status


def test_no_secret_is_in_arguments_environment_or_output(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a process that opens the store, rotates it and releases a key; the broker's public key is the control."""
    passphrase = "correct horse battery staple"
    (tmp_path / "words").write_text(passphrase)
    (tmp_path / "words").chmod(0o600)
    out = run("init", "--kek", f"passphrase:{tmp_path}/words", "--development")
    code = (
        "import sys; from privml.cli.main import cli; from privml.keybroker import kek\n"
        "kek.SCRYPT_N = 16\n"
        "files = [open(f'/proc/self/{name}', 'rb') for name in ('cmdline', 'environ')]\n"
        "cli.main(args=sys.argv[1:], standalone_mode=False)\n"
        "print(*(file.read() for file in files))\n"
    )
    words = ["-v", "keys", "rotate", "--kek", f"passphrase:{tmp_path}/words"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    opened = store.opened(tmp_path / "broker.store", f"passphrase:{tmp_path}/words")
    with caplog.at_level("DEBUG"), opened as found:
        key = resources.add(found, RESOURCE, broker_samples.role())
        resources.set_policy(found, broker_samples.signed(broker_samples.policy(broker=found.public)))
        desk = Desk(tmp_path, "", found, Broker(found, broker_samples.judge, lambda: 1), key)
        assert desk.ask(guest(X25519))[0] == 200
        secrets = (found.root, found.secret(store.SIGNING, "", 1), key.key, passphrase.encode())
        public, shown = found.public, repr((found, key))
    text = "\n".join((out, done.stdout, done.stderr, caplog.text, shown, repr(os.environ)))
    assert public.hex() in text, "the search finds what is there"
    assert "released model/qwen" in caplog.text
    for secret in secrets:
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text


def test_a_process_with_an_open_store_is_not_dumpable(run: Run, tmp_path: Path) -> None:
    """The limit alone does not hold where dumps go to a program."""
    run("init", "--development")
    code = (
        "import ctypes, resource\n"
        "from pathlib import Path\n"
        "from privml.cli.keystore import StoreWords\n"
        "with StoreWords(Path('broker.store'), None, None).opened():\n"
        "    print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["0", "0"]
