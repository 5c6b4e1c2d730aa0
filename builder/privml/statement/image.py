"""All that a repository publishes of one image: for a search over every version, and for pages about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.statement import follow
from privml.statement.follow import Fetch, Version
from privml.statement.index import Index
from privml.statement.keys import Role
from privml.statement.untrusted import UntrustedError
from privml.statement.update import Update


@dataclass(frozen=True)
class Image:
    """The index of an image, its publishers, and what could be read of each version.

    ``versions`` has those that verify, by version, in the index's order. ``unread`` says for each other one why it
    does not: such a version counts no more, or else reading the image is an error.
    """

    index: Index
    publishers: Role
    versions: Mapping[str, Version]
    unread: Mapping[str, str]

    @property
    def name(self) -> str:
        """The image's name."""
        return self.index.name


def read(update: Update, fetch: Fetch, name: str) -> Image:
    """Read every version of image ``name``; ``update`` is at its targets.

    ``UntrustedError`` or ``EvidenceError`` if the index, or a version that counts, is not what its publishers signed.
    """
    index = follow.index_of(update, fetch, name)
    role = update.publishers(name)
    versions, unread = {}, {}
    for entry in index.versions:
        try:
            versions[entry.version] = follow.version_of(fetch, index, entry, role)
        except (UntrustedError, EvidenceError) as error:
            # Publishers who were replaced may have signed what does not count any more.
            if index.counts(entry):
                raise
            unread[entry.version] = error.message
    return Image(index, role, versions, unread)
