"""A demonstration: a repository whose keys one person made, marked as one in its root, and replaced whole.

Its keys are thrown away once it is signed, so nothing in it is ever changed or renewed. A later one is another
repository in the same folder, with another first root (ADR 0070).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from privml.base.errors import EvidenceError, Refused, UsageError
from privml.base.files import directory_atomic, read_start
from privml.publish import changes
from privml.publish.changes import Files, Place
from privml.publish.repository import ROOT_FILE
from privml.publish.roles import Roles
from privml.statement import metadata
from privml.statement.follow import FOLDER
from privml.statement.index import INDEX_FILE
from privml.statement.metadata import MAX_METADATA, Root
from privml.statement.names import is_name


def replace_whole(place: Place, roles: Roles, until: int) -> Files:
    """Begin a demonstration in the place of the one in the folder, if any, with all its versions.

    ``Refused`` if there is another repository than a demonstration, ``UsageError`` if there are other files. The old
    one stays until the new one is written.
    """
    _check(place.folder)
    with directory_atomic(place.folder.absolute()) as fresh:
        new = replace(place, folder=fresh)
        files = changes.new_roles(new, roles, until)
        new.write(files)
    return files


def _check(folder: Path) -> None:
    if not folder.exists():
        return
    for each in sorted(folder.iterdir()):
        image = is_name(each.name) and (each / INDEX_FILE).is_file()
        if not image and each.name not in (FOLDER, ROOT_FILE):
            raise UsageError(
                f"{each} is not part of a demonstration, and --replace would remove it", hint="move it elsewhere"
            )
    roots = sorted((folder / FOLDER).glob("*.root.json"))
    if not roots and any(folder.iterdir()):
        raise UsageError(f"{folder} has no root, expected a demonstration", hint="name its folder with --in")
    for path in (*roots, folder / ROOT_FILE):
        if not _is_demonstration(path):
            raise Refused(
                f"{path} is not the root of a demonstration: nothing else is replaced",
                hint="a project's own repository changes its keys with `privml-build publish root ROLES`",
            )


def _is_demonstration(path: Path) -> bool:
    try:
        return metadata.decode(Root, read_start(path, MAX_METADATA), str(path)).body.demonstration
    except FileNotFoundError:
        return True  # of an interrupted one
    except EvidenceError:
        return False
