"""The tables in docs/VERIFIERS.md: every element that a verdict checks, with the line where this verifier does."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from privml.verify import check
from privml.verify.rules import Check

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "builder" / "privml"
PAGE = ROOT / "docs" / "VERIFIERS.md"
TABLES: dict[str, Callable[[], str]] = {"codes": lambda: codes(), "bytes": lambda: read()}

# What is read before anything is judged: (what, where).
READ = (
    ("JSON: no key twice, whole numbers, bounded size and depth, UTF-8", "base.strictjson:loads"),
    ("base64 with padding, in its one spelling", "base.strictjson:unb64"),
    ("hex in lower case", "base.strictjson:unhex"),
    ("document: exactly its fields, each bounded", "evidence.document:parse"),
    ("header: canonical JSON, known words only", "evidence.sections:Header.decode"),
    ("keys: canonical JSON, sorted, each use once, known sizes", "evidence.sections:Keys.decode"),
    ("devices: canonical JSON", "evidence.sections:Devices.decode"),
    ("agent's log: canonical lines, numbered from 0, each with its newline", "events.agent:parse_log"),
    ("nonce and its path: a leaf can be no node, at most 32 steps", "evidence.merkle:root"),
    ("report data: computed over the bytes as they were sent", "evidence.report_data:compute"),
    ("quote: version, key type and TEE; every length; nothing but zeros behind it", "evidence.tdx.quote:parse"),
    ("collateral: exactly nine fields", "evidence.tdx.collateral:decode"),
    ("four certificate chains: PEM in its one spelling, nothing around it, the root the anchor's bytes",
     "evidence.tdx.chain:read"),
    ("each certificate's role: names, extensions, issuer", "evidence.tdx.chain:check"),
    ("signatures, revocation, times, QE report, QE identity, TCB levels", "evidence.tdx.signature:check"),
    ("SNP report: version, size; no reserved byte or unknown bit set", "evidence.snp.report:parse"),
    ("collateral of SNP: a chain, a revocation list, or both", "evidence.snp.collateral:decode"),
    ("a key's certificate: one form, every byte read", "evidence.snp.leaf:parse"),
    ("its chain: exactly three certificates, names, AMD's root of the product", "evidence.snp.chain:read"),
    ("signatures, revocation, times, and that the certificate is the report's", "evidence.snp.signature:check"),
    ("GPU or switch: request and response of SPDM 1.1, every length and constant", "evidence.nvidia.spdm:parse"),
    ("its opaque data: known fields only, each once and with its length", "evidence.nvidia.opaque:parse"),
    ("its five certificates: PEM in its one spelling, names, extensions, issuers, firmware",
     "evidence.nvidia.chain:read"),
    ("NVIDIA's collateral: exactly two lists, bounded", "evidence.nvidia.collateral:decode"),
    ("revocation answers: one certificate each, its issuer's or a named responder's signature",
     "evidence.nvidia.ocsp:check"),
    ("reference values: one signature over the whole document; values from the verified bytes",
     "evidence.nvidia.rim:read"),
    ("answers and reference values that no device here needs", "evidence.nvidia.signature:check"),
    ("boot log: explains a refusal, decides nothing", "evidence.facts:read_boot_log"),
    ("all of it together: there is no partial mode, and every reason is given", "verify.check:verify"),
    ("the guest's keys: they exist only in an accepted judgement", "verify.judgement:Judgement.keys"),
)  # fmt: skip


def page() -> str:
    """docs/VERIFIERS.md with its tables as the code is now."""
    text = PAGE.read_text()
    for name, table in TABLES.items():
        head, begin, rest = text.partition(f"<!-- table: {name} -->\n")
        _, end, tail = rest.partition("<!-- end -->")
        if not begin or not end:
            raise ValueError(f"{PAGE.name}: no place for the table `{name}`")
        text = head + begin + table() + end + tail
    return text


def codes() -> str:
    """One row for each refusal code."""
    rows: dict[str, str] = {}
    for each in _checks():
        for code, meaning in each.codes.items():
            rows.setdefault(code, f"| {meaning} | `{code}` | {_places(each, code)} |")  # two TEEs may share a code
    return "\n".join(["| a document is refused when | code | where |", "|---|---|---|", *rows.values(), ""])


def read() -> str:
    """One row for each part of the evidence."""
    rows = []
    for what, where in READ:
        module, _, name = where.partition(":")
        found: Any = importlib.import_module(f"privml.{module}")
        for part in name.split("."):
            found = inspect.getattr_static(found, part)
        rows.append(f"| {what} | {_line(_function(found))} |")
    return "\n".join(["| what is read, and refused in any other form | where |", "|---|---|", *rows, ""])


def _checks() -> Iterator[Check[Any]]:
    """Every check, in the order of `verify.check.CODES`."""
    found = [value for rules in check.RULES.values() for value in (rules.signature, *rules.checks)]
    found += [value for value in vars(check).values() if isinstance(value, Check)]
    found += [value for module in _modules() for value in vars(module).values() if isinstance(value, Check)]
    for code in check.CODES:
        owner = next(each for each in found if code in each.codes)
        if code == next(iter(owner.codes)):
            yield owner


def _modules() -> list[Any]:
    names = sorted((SOURCE / "verify").glob("*.py"))
    return [importlib.import_module(f"privml.verify.{path.stem}") for path in names if path.stem != "__init__"]


def _places(each: Check[Any], code: str) -> str:
    """The lines that give ``code``: in the check, else where evidence is read, else the check's first line."""
    path, first = _position(each.find)
    last = first + len(inspect.getsource(each.find).splitlines())
    body = range(first + 1, last)
    inside = [line for line in _lines(path, code) if line in body and line > _body(each.find)]
    if inside:
        return _text(path, inside[0])
    evidence = [(path, line) for path in sorted((SOURCE / "evidence").rglob("*.py")) for line in _lines(path, code)]
    if evidence:
        return ", ".join(_text(*place) for place in evidence[:3])
    return _text(path, _body(each.find))


def _lines(path: Path, text: str) -> list[int]:
    """The lines with the string ``text``."""
    return sorted({line for line, found in _strings(path) if found == text})


@cache
def _strings(path: Path) -> list[tuple[int, str]]:
    """Every string of a module, with its line."""
    nodes = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.Constant)]
    return [(node.lineno, node.value) for node in nodes if isinstance(node.value, str)]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _body(function: Callable[..., Any]) -> int:
    """The line of ``def``, after the decorators."""
    path, first = _position(function)
    name = function.__name__
    return next(
        node.lineno
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef) and node.name == name and node.lineno >= first
    )


def _function(found: Any) -> Callable[..., Any]:
    if isinstance(found, classmethod | staticmethod):
        return found.__func__
    if isinstance(found, property):
        assert found.fget is not None
        return found.fget
    return inspect.unwrap(found)


def _position(function: Callable[..., Any]) -> tuple[Path, int]:
    return Path(inspect.getsourcefile(function) or ""), inspect.getsourcelines(function)[1]


def _line(function: Callable[..., Any]) -> str:
    return _text(_position(function)[0], _body(function))


def _text(path: Path, line: int) -> str:
    return f"`{path.relative_to(SOURCE).as_posix()}:{line}`"
