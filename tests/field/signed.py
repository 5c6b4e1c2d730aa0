"""Who signed a bundle's quote: Intel's root, the simulation's, or nobody that counts."""

from __future__ import annotations

from privml.client import bare
from privml.evidence import document
from privml.evidence.bundle import Bundle
from privml.evidence.tdx import claims as tdx
from privml.evidence.tdx.signature import root_der
from privml.sim.quote import root_pem
from privml.verify.bare import Origin
from privml.verify.policy import Policy


def origin_of(made: Bundle) -> Origin:
    """The origin of the quote as of the bundle's time, with the collateral that it was judged with."""
    found = document.parse(made.document)
    collateral = (made.collateral or found.collateral or {}).get(tdx.TEE)
    policy = Policy(allow_simulated=root_der(root_pem()))
    quote = bare.Evidence(tdx.TEE, found.evidence)
    return bare.judge(quote, (), policy, now=made.judged_at, collateral=collateral).origin
