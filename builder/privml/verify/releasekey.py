"""Check that a document for key release has a release key, where the verdict rests on it.

A courier carries such a document to a key broker, so there is no connection whose key could be compared. What the
broker sends is sealed to the attested release key, which only this boot of the guest has.
"""

from __future__ import annotations

from collections.abc import Iterator

from privml.evidence.sections import RELEASE_KEYS, Keys
from privml.verify.rules import refuses
from privml.verify.verdict import Refusal


@refuses({"release-key": "the document has no key that volume keys can be sealed to"})
def release(keys: Keys) -> Iterator[Refusal]:
    """Check that the guest made a release key for this boot."""
    if not any(keys.find(use, alg) for use, alg in RELEASE_KEYS):
        known = ", ".join(alg for _, alg in RELEASE_KEYS)
        yield Refusal("release-key", "none", f"a release key of one of {known}")
