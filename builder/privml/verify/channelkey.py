"""Check that the channel's keys are those of the attested guest, where the verdict rests on them.

Through somebody else's TLS terminator the key of the connection proves nothing. The attested channel key then takes
its place: it signed which keys seal requests, for the keys section of this document. So the verdict holds for what is
sealed to these keys, and for nothing that travels outside the channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privml.base.errors import EvidenceError, Refused
from privml.evidence.sections import CHANNEL_KEY, Keys
from privml.verify.rules import refuses
from privml.verify.verdict import Refusal

if TYPE_CHECKING:
    from privml.channel.keyconfig import KeyConfig


@dataclass(frozen=True)
class ChannelCase:
    """The document's keys, and the signed record of the channel's keys as it was received; no bytes if none was."""

    keys: Keys
    record: bytes

    def config(self) -> KeyConfig:
        """The key to seal for; ``Refused`` if it is not of these keys, ``EvidenceError`` if there is none."""
        # Loaded here, because all else of this room needs the standard library only.
        from privml.channel import record
        from privml.channel.keyconfig import choose

        key = self.keys.find(*CHANNEL_KEY)
        if key is None:
            raise Refused("no channel key in the document")
        if not self.record:
            raise EvidenceError("no record")
        found = record.verify(self.record, channel_key=key, keys_sha256=self.keys.sha256)
        return choose(found.configs)[0]


@refuses(
    {
        "channel-key": "the keys of the sealed channel are not signed by the attested channel key of this boot",
        "channel-record": "the record of the sealed channel's keys is missing, malformed or unusable here",
    }
)
def channel(case: ChannelCase) -> Iterator[Refusal]:
    """Check that the attested channel key signed the record for this document's keys."""
    try:
        case.config()
    except Refused as refused:
        yield Refusal("channel-key", refused.message, "a record signed by the channel key in the document")
    except EvidenceError as error:
        yield Refusal(
            "channel-record", error.message, "a signed record of the channel's keys, with one that is usable here"
        )


def notes(case: ChannelCase) -> Iterator[str]:
    """What to know about an accepted record: whether the channel is post-quantum."""
    try:
        config = case.config()
    except (EvidenceError, Refused):
        return
    if not config.kem.post_quantum:
        yield f"channel not post-quantum: {config.kem.name}, the best that this guest and this machine both have"
