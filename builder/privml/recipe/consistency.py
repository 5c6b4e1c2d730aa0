"""Whether a recipe's fields fit each other and the records that they name: of the distribution and of the engine."""

from __future__ import annotations

from collections.abc import Iterator

from privml.engines.registry import engine_named
from privml.events import network
from privml.events.variants import PRODUCTION
from privml.recipe import archives, compiled, document, exceptions, gpu, python, volumes
from privml.recipe.document import Document
from privml.recipe.finding import Finding, RecipeProblems
from privml.recipe.models import Content
from privml.recipe.validation import mark_of


def check(content: Content, source: Document) -> None:
    """Raise ``RecipeProblems`` with every field that does not fit; ``source`` has their lines."""
    distribution, variant = content.base.record.distribution, content.variant
    found = []

    def refuse(path: document.Path, got: str, expected: str, rule: str = "") -> None:
        mark = mark_of(path, source)
        text = f"{document.spelled(path)}: got `{got}`, expected {expected}{source.counterpart(path)}"
        found.append(Finding(text, rule=rule, file=mark.file, line=mark.line))

    def check_suite(path: document.Path, suite: str | None) -> None:
        if suite is not None and suite not in distribution.suites:
            refuse((*path, "suite"), suite, " or ".join(distribution.suites))

    if not distribution.kernel.is_image(content.kernel.package):
        refuse(("kernel", "package"), content.kernel.package, f"a package {distribution.kernel.image}...")
    check_suite(("kernel",), content.kernel.suite)
    for index, name in enumerate(content.packages):
        if name.startswith("file:") or "/" in name:
            continue
        if distribution.kernel.is_kernel(name):
            refuse(("packages", index), name, "no package of a kernel: the guest's is in `kernel.package`")
        elif content.variant == PRODUCTION and name in distribution.packages.forbidden:
            refuse(("packages", index), name, f"none of {', '.join(distribution.packages.forbidden)}")
    for tee, chosen in content.firmware.items():
        allowed = [one.package for one in distribution.firmwares(tee, production=variant == PRODUCTION)]
        if chosen.package not in allowed:
            known = distribution.firmware_named(chosen.package, tee)
            rule = "development-firmware" if known is not None else ""
            expected = f"{' or '.join(allowed)} in a {variant} recipe"
            refuse(("firmware", tee, "package"), chosen.package, expected, rule)
        check_suite(("firmware", tee), chosen.suite)
    problems = (each.problems(content) for each in (archives, exceptions, gpu, python, compiled, volumes))
    for path, rule, text in (problem for group in problems for problem in group):
        mark = mark_of(path, source)
        said = f"{document.spelled(path)}: {text}{source.counterpart(path)}"
        found.append(Finding(said, rule=rule, file=mark.file, line=mark.line))
    found += _too_many_models(content, source)
    found += _of_network(content, source)
    if found:
        raise RecipeProblems(found)


def _of_network(content: Content, source: Document) -> Iterator[Finding]:
    for problem in network.problems(content.cards) if content.network else ():
        path: document.Path = ("network", *problem.path)
        mark = mark_of(path, source)
        text = f"{document.spelled(path)}: {problem.text}{source.counterpart(path)}"
        yield Finding(text, rule=problem.rule, file=mark.file, line=mark.line)


def _too_many_models(content: Content, source: Document) -> Iterator[Finding]:
    if content.inference is None:
        return
    engine, models = engine_named(content.inference.engine.name), content.inference.models
    if len(models) > engine.max_models:
        path: document.Path = ("inference", "models")
        mark, names = mark_of(path, source), ", ".join(model.name for model in models)
        text = f"inference.models: {engine.name} serves {engine.max_models}, got {len(models)}: {names}"
        yield Finding(text + source.counterpart(path), file=mark.file, line=mark.line)
