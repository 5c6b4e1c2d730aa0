"""The state of a recipe's lock for `lint`, without store or network."""

from __future__ import annotations

from privml.base.errors import InputsError
from privml.lock.locate import inputs_now
from privml.lock.lockfile import read_lock
from privml.lock.make import check
from privml.lock.modelrecord import LocalSource
from privml.recipe.finding import RecipeProblems
from privml.recipe.lint import LockFacts
from privml.recipe.loader import Recipe


def lock_facts(recipe: Recipe) -> LockFacts:
    """Whether the recipe's lock exists and is up to date, and the size of its model."""
    if not recipe.lock_path.is_file():
        return LockFacts(there=False)
    try:
        lock = read_lock(recipe.lock_path)
        size = sum(file.size for model in lock.models for file in model.files)
        local = frozenset(each.source.local for each in lock.volumes if isinstance(each.source, LocalSource))
    except InputsError as error:
        return LockFacts(there=True, stale=error.message)
    try:
        check(recipe, lock, inputs_now(recipe))
    except RecipeProblems:
        # `lint` reports them itself.
        return LockFacts(there=True, model_size=size, local_models=local)
    except InputsError as error:
        head, *parts = error.message.splitlines()
        return LockFacts(
            there=True,
            stale=f"{head} {'; '.join(part.strip() for part in parts)}",
            model_size=size,
            local_models=local,
        )
    return LockFacts(there=True, model_size=size, local_models=local)
