"""All that a repository publishes of one image: for a search over every version, and for pages about them."""

from __future__ import annotations

from dataclasses import dataclass, field

from privml.base.errors import EvidenceError
from privml.statement import follow
from privml.statement.follow import Fetch, Version
from privml.statement.index import Entry, Index
from privml.statement.keys import Role
from privml.statement.untrusted import UntrustedError
from privml.statement.update import Update


@dataclass(frozen=True)
class Image:
    """The index of an image, its publishers, and what was read of each version.

    ``versions`` has those that verify, by version. ``unread`` says for each other one why it does not: such a version
    counts no more, or else reading it is an error.
    """

    index: Index
    publishers: Role
    versions: dict[str, Version] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The image's name."""
        return self.index.name

    def read(self, fetch: Fetch, entry: Entry) -> Version | None:
        """Read one version; None if it counts no more and does not verify.

        ``UntrustedError`` or ``EvidenceError`` for one that counts and is not what its publishers signed.
        """
        try:
            found = follow.version_of(fetch, self.index, entry, self.publishers)
        except (UntrustedError, EvidenceError) as error:
            # Publishers who were replaced may have signed what does not count any more.
            if self.index.counts(entry):
                raise
            self.unread[entry.version] = error.message
            return None
        self.versions[entry.version] = found
        return found


def read(update: Update, fetch: Fetch, name: str) -> Image:
    """Read every version of image ``name``; ``update`` is at its targets.

    ``UntrustedError`` or ``EvidenceError`` if the index, or a version that counts, is not what its publishers signed.
    """
    image = Image(follow.index_of(update, fetch, name), update.publishers(name))
    for entry in image.index.versions:
        image.read(fetch, entry)
    return image
