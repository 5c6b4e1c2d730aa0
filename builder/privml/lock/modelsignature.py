"""Check the signature of a model when it is locked: who signed, and that exactly the locked files are signed.

Signature, key and trusted root are files next to the recipe. The lock names signature and signer, and is stale when
they change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from privml.base import keyless
from privml.base.errors import EvidenceError, InputsError
from privml.base.files import read_start
from privml.lock import omsbundle
from privml.lock.modelrecord import Model, ModelFile, Signature
from privml.lock.models import Lock
from privml.recipe.inference import Signature as Wanted
from privml.recipe.loader import Recipe
from privml.recipe.packages import models_in

_SHOWN = 6


def signed(recipe: Recipe, number: int, model: Model) -> Model:
    """``model``, number ``number`` of the recipe, with the signature that the recipe names for it.

    ``InputsError`` if a file is missing, the signature is malformed or not by the key, or covers other files.
    """
    wanted = models_in(recipe)[number].signature
    if wanted is None:
        return model.model_copy(update={"signature": None})
    where = recipe.origin(f"inference.models[{number}].signature")
    data = _bytes(recipe, wanted.file, f"{where}.file", omsbundle.MAX_BYTES)
    try:
        found, signature = _checked(recipe, wanted, where, data)
    except EvidenceError as error:
        raise InputsError(
            error.message,
            hint="expected a signature in OpenSSF Model Signing 1.0 of whole files: `model_signing sign`",
        ) from error
    if wrong := _differences(found, model.files):
        shown = wrong[:_SHOWN] + ([f"... and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else [])
        raise InputsError(
            f"{where}: the signature is by the signer, but not over exactly the files of model `{model.name}`:\n"
            + "\n".join(f"  {line}" for line in shown),
            hint="sign the file alone, or a folder with exactly the model's files",
        )
    return model.model_copy(update={"signature": signature})


def _checked(recipe: Recipe, wanted: Wanted, where: str, data: bytes) -> tuple[omsbundle.Signed, Signature]:
    """What the signature ``data`` covers, and by whom it is."""
    sha256, what = hashlib.sha256(data).hexdigest(), f"{where}.file: {wanted.file}"
    if (who := wanted.identity) is not None:
        root = _bytes(recipe, who.root, f"{where}.identity.root", keyless.MAX_ROOT)
        found = omsbundle.read_keyless(
            data, lambda: keyless.signed_payload(data, root, who.subject, who.issuer, what), what
        )
        return found, Signature(signer="identity", subject=who.subject, issuer=who.issuer, sha256=sha256)
    assert wanted.key is not None, "the recipe was checked when it was read"
    key = omsbundle.signing_key(
        _bytes(recipe, wanted.key, f"{where}.key", omsbundle.MAX_KEY), f"{where}.key: {wanted.key}"
    )
    return omsbundle.read(data, key, what), Signature(signer="key", key_id=key.key_id, sha256=sha256)


def changed(recipe: Recipe, lock: Lock) -> list[str]:
    """One line for each model of ``lock`` whose signature is not the recipe's, or not over the locked files.

    Before each build, so that a lock that somebody edited cannot put a signer into a manifest.
    """
    lines = []
    for number, model in enumerate(lock.models[: len(models_in(recipe))]):
        try:
            now = signed(recipe, number, model).signature
        except InputsError as error:
            lines.append(f"model {model.name}: {' '.join(error.message.split())}")
            continue
        if now != model.signature:
            lines.append(f"model {model.name}: its signature changed after the lock was written")
    return lines


def _differences(found: omsbundle.Signed, files: Sequence[ModelFile]) -> list[str]:
    """How the signed files differ from the locked ones; empty if they are the same.

    The folder that was signed is the root of the source, or one with just the files, which have no folders there.
    """
    paths = {file.path: file.sha256 for file in files}
    names = {file.path.rpartition("/")[2]: file.sha256 for file in files}
    locked: Mapping[str, str] = names if found.files.keys() == names.keys() else paths
    if found.alone and len(files) == 1:
        locked = dict.fromkeys(found.files, files[0].sha256)  # its name when it was signed says nothing
    return [
        *(f"{name}: not signed" for name in sorted(locked.keys() - found.files.keys())),
        *(f"{name}: signed, and not a file of the model" for name in sorted(found.files.keys() - locked.keys())),
        *(
            f"{name}: got sha256 {locked[name]}, signed is {found.files[name]}"
            for name in sorted(locked.keys() & found.files.keys())
            if locked[name] != found.files[name]
        ),
    ]


def _bytes(recipe: Recipe, path: str, where: str, limit: int) -> bytes:
    place = recipe.path.parent / path
    if not place.is_file():
        raise InputsError(f"{where}: there is no file `{path}`", hint="paths start at the recipe's folder")
    return read_start(place, limit)
