"""`keys serve`: answer guests that wait for keys, through their couriers."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

import click

from privml.base.errors import Refused, UsageError
from privml.cli.anchor import CriteriaWords, anchors_options
from privml.cli.keystore import StoreWords, store_options
from privml.cli.output import show
from privml.cli.paths import Existing, listen_address
from privml.events.stages import KEY_RELEASE


@click.command()
@anchors_options
@store_options
@click.option(
    "--listen", metavar="HOST:PORT", default="127.0.0.1:8200", show_default=True, help="The address to listen on."
)
@click.option("--tls-cert", metavar="FILE", type=Existing("a certificate in PEM"), help="Serve HTTPS with this.")
@click.option("--tls-key", metavar="FILE", type=Existing("a private key in PEM"), help="The key of --tls-cert.")
def serve(
    *, criteria: CriteriaWords, words: StoreWords, listen: str, tls_cert: Path | None, tls_key: Path | None
) -> None:
    """Judge guests by their documents, and release keys to those that the owners' policies allow.

    The options are those of `verify`: each guest must be an image of --expect, which can be repeated, or a
    published one under --trust, and in the owners' policy as well. Every release is in the log before it is
    answered, and so are refusals of guests that proved what they are, up to 64 an hour for each machine. Nothing
    is administered here: stop it, use another verb, start it again; guests wait meanwhile.
    docs/privml-key-broker.service starts it in a sandbox.

    \b
    Examples:
      privml-build keys serve --expect out/me
      privml-build keys serve --expect out/me --expect out/me-next
      privml-build keys serve --trust root.json me --listen 0.0.0.0:8200 \\
        --tls-cert cert.pem --tls-key key.pem
      privml-build keys serve --expect out/me --store /var/lib/broker/store \\
        --kek file:/run/credentials/broker/kek
    """
    from privml.client import anchors, attested
    from privml.keybroker import server
    from privml.keybroker.broker import Broker
    from privml.verify.judgement import Judgement

    if (tls_cert is None) is not (tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together, expected both or neither")
    address = listen_address(listen)
    policy = dataclasses.replace(criteria.policy(), purpose=KEY_RELEASE)
    source = anchors.Recent(criteria.anchor().source())
    collateral = criteria.collateral(policy)

    def judge(document: bytes, nonce: bytes) -> Judgement:
        now = int(time.time())
        return attested.judge(
            document,
            source(now),
            policy,
            now=now,
            nonce=nonce,
            tls_spki_sha256=None,
            collateral=collateral,
            carried=True,
        )

    logging.getLogger("privml").setLevel(logging.INFO)
    with words.opened() as store:
        if policy.allow_simulated is not None and not store.development:
            raise Refused(
                "store-production: --allow-simulated needs a store that was made with --development",
                hint="a simulated guest can be anything: use a store of its own for tests",
            )
        tls = None if tls_cert is None or tls_key is None else server.Tls(tls_cert, tls_key)
        scheme = "http" if tls is None else "https"
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        broker = Broker(store, judge)
        server.serve(
            address,
            broker,
            tls=tls,
            listening=lambda port: show(f"broker {store.public.hex()} on {scheme}://{host}:{port}", err=True),
        )
