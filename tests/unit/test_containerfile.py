"""The Containerfile of `proxy`: what goes in, who runs it, and that its locked requirements are those of the base."""

from __future__ import annotations

import re
from pathlib import Path

import click
from test_packaging import PROJECT, closure

from privml.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Containerfile").read_text()
BODY = re.sub(r" *\\\n *", " ", "".join(line for line in TEXT.splitlines(keepends=True) if not line.startswith("#")))
INSTRUCTIONS = [tuple(line.split(" ", 1)) for line in BODY.splitlines() if line]


def of(name: str) -> list[str]:
    return [rest for word, rest in INSTRUCTIONS if word == name]


def rows(file: str) -> dict[str, frozenset[str]]:
    """`name==version` -> its hashes."""
    blocks = re.findall(r"^([\w.-]+==\S+)(.*?)(?=^\w|\Z)", (ROOT / file).read_text(), re.MULTILINE | re.DOTALL)
    return {pin: frozenset(re.findall(r"--hash=(sha256:[0-9a-f]{64})", rest)) for pin, rest in blocks}


def test_the_base_s_locked_requirements_are_its_closure_as_the_whole_lock_pins_it() -> None:
    base, whole = rows("requirements-base.txt"), rows("requirements.txt")
    assert {pin.partition("==")[0] for pin in base} == closure(PROJECT["dependencies"])
    assert {pin: whole[pin] for pin in base} == base
    assert all(base.values())


def test_the_base_image_is_named_by_digest_and_may_be_replaced() -> None:
    assert of("ARG") == [of("ARG")[0]]
    assert re.fullmatch(r"BASE=\S+@sha256:[0-9a-f]{64}", of("ARG")[0])
    assert of("FROM") == ["${BASE} AS install", "${BASE}"]


def test_every_package_is_installed_by_hash_or_from_the_wheel() -> None:
    (run,) = of("RUN")
    installs = [part for part in run.split("&&") if "pip install" in part]
    assert all("--no-deps" in part and ("--require-hashes" in part or "--no-index" in part) for part in installs)
    assert len(installs) == 2


def test_only_the_wheel_and_its_requirements_reach_the_build() -> None:
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    assert ignored == ["*", *(f"!{name}" for name in of("COPY")[0].split()[:-1])]
    assert all(copy.startswith("--from=install ") for copy in of("COPY")[1:])


def test_it_runs_the_proxy_as_an_unprivileged_user_who_owns_only_the_state() -> None:
    user = of("USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    uid, gid = user.split(":")
    assert f"install -d -o {uid} -g {gid} /state" in of("RUN")[0]
    assert of("VOLUME") == ["/state"]
    assert of("ENTRYPOINT") == ['["/opt/privml/bin/privml-build", "proxy"]']
    assert "HOME=/state" in of("ENV")[0]


def test_the_shown_command_line_is_one_of_the_proxy() -> None:
    (shown,) = re.findall(r"privml-proxy (https://.*)$", TEXT, re.MULTILINE)
    proxy = cli.get_command(click.Context(cli), "proxy")
    assert proxy is not None
    words = [str(ROOT / "examples/image") if word == "/image" else word for word in shown.split()]
    assert proxy.make_context("proxy", words).params["upstreams"] == ("https://HOST:8443",)
