"""A courier between two real brokers and the agent's own processes: from stage `keys` to ready."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from contextlib import ExitStack
from pathlib import Path

import broker_samples as samples
import pytest
from agent_guest import VOLUME_KEY, a_config, a_model, guest
from key_guest import broker_at
from test_agent_keys import Waiting
from test_agent_purposes import predicted

from privml.base.errors import Refused
from privml.client import attested
from privml.client.courier import courier
from privml.events.configuration import decode
from privml.events.crypt import Broker as Named
from privml.events.crypt import Crypt, check_value
from privml.keybroker import kek, resources, store
from privml.keybroker.broker import Broker
from privml.keybroker.entry import ADMIN, Entry
from privml.keybroker.store import VOLUME, Store
from privml.output.volumekey import VolumeKey
from privml.statement import predicate
from privml.verify.anchor import Built, Expected
from privml.verify.judgement import Judgement

OWNERS = {"data": "corpus", "weights": "model/tiny"}


def crypt(owner: str) -> Crypt:
    return Crypt(owner, OWNERS[owner], 1, check_value(OWNERS[owner], 1, VOLUME_KEY))


def stored(folder: Path, owner: str, stack: ExitStack) -> Store:
    """A store with the owner's resource, whose key is that of the guest's volumes."""
    made = stack.enter_context(store.create(folder / owner, kek.make(f"file:{folder}/kek"), development=True))
    resources.add(made, OWNERS[owner], samples.role())
    with made.changing(Entry(ADMIN)):
        made.keep(VOLUME, OWNERS[owner], 1, VOLUME_KEY)
        made.db.execute("UPDATE key SET value = ?", (crypt(owner).check,))
    return made


def test_two_brokers_release_to_the_agent_and_it_becomes_ready(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stores = {owner: stored(tmp_path, owner, stack) for owner in OWNERS}
        config = a_config(
            models=(
                dataclasses.replace(a_model(), crypt=crypt("weights")),
                dataclasses.replace(a_model("corpus", 0xCC), crypt=crypt("data")),
            ),
            brokers=tuple(Named(owner, each.public) for owner, each in stores.items()),
        )
        made = stack.enter_context(guest(config))
        found = Waiting(made)
        made.start_server()
        found.thread.start()
        expected = Expected(predicted(decode(made.layout.config.read_bytes())), Built("out/x"))
        image = hashlib.sha256(predicate.encode(expected.predicate)).digest()
        now = int(time.time())

        def judge(document: bytes, nonce: bytes) -> Judgement:
            return attested.judge(
                document, expected, samples.VERIFYING, now=now, nonce=nonce, tls_spki_sha256=None, carried=True
            )

        urls = []
        for owner, each in stores.items():
            policy = samples.policy(resource=OWNERS[owner], broker=each.public, images=(image,), not_after=now + 1000)
            resources.set_policy(each, samples.signed(policy))
            key = VolumeKey(OWNERS[owner], 1, VOLUME_KEY)
            desk = samples.Desk(tmp_path, "", each, Broker(each, judge), key)
            urls.append(f"http://127.0.0.1:{stack.enter_context(broker_at(desk))}")
        carrying = courier(f"https://127.0.0.1:{config.listen}", urls, patience=30)
        done = carrying.deliver()
        assert (done.missing, done.errors) == ([], {})
        assert found.ended(), made.said
        assert [name for name, _ in made.had_keys] == ["privml:privml-model", "privml:privml-model-2"]
        with pytest.raises(Refused, match="keys-closed"):
            carrying.deliver()
