"""The direct way to a guest: TLS connections pinned to its attested key, kept while its judgement is in force."""

from __future__ import annotations

from functools import partial

from privml.base.errors import Refused
from privml.client.connection import Endpoint, check_pin, tls_context
from privml.client.gate import Decision
from privml.client.kept import Connections
from privml.client.ways import Answer, Asked, Judged
from privml.verify.judgement import AttestedKeys


class Direct:
    """The `client.ways.Way` of a guest whose port can be reached."""

    def __init__(self, where: Endpoint) -> None:
        self._where = where
        self._tls = tls_context()
        self._keys: AttestedKeys | None = None
        self._kept: Connections | None = None

    async def send(self, asked: Asked, judged: Judged) -> Answer:
        """Send a request over a connection whose peer has the attested key."""
        return await self._connections(judged.decision).send(asked, judged)

    def settled(self, decision: Decision) -> None:
        """Close what is kept unless the decision has the same keys."""
        if decision.keys is None or decision.keys != self._keys:
            self.close()

    def close(self) -> None:
        """Close what is kept."""
        if self._kept is not None:
            self._kept.close()
        self._kept = self._keys = None

    def _connections(self, decision: Decision) -> Connections:
        keys = decision.keys
        if keys is None:
            raise Refused(decision.message)
        if self._kept is None or keys != self._keys:
            self.close()
            self._keys = keys
            self._kept = Connections(self._where, self._tls, partial(check_pin, keys=keys))
        return self._kept
