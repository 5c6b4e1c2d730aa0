"""Who signed a bundle's quote or report: the vendor's root, the simulation's, or nobody that counts."""

from __future__ import annotations

from privml.client import bare
from privml.evidence import document
from privml.evidence.bundle import Bundle
from privml.evidence.sections import Header
from privml.evidence.snp import claims as snp
from privml.evidence.tdx.signature import root_der
from privml.sim import snpreport
from privml.sim.quote import root_pem
from privml.verify.bare import Origin
from privml.verify.policy import Policy


def origin_of(made: Bundle) -> Origin:
    """The origin of the evidence as of the bundle's time, with the collateral that it was judged with."""
    found = document.parse(made.document)
    tee = Header.decode(found.header).tee
    collateral = (made.collateral or found.collateral or {}).get(tee)
    root = snpreport.root_der() if tee == snp.TEE else root_der(root_pem())
    evidence = bare.Evidence(tee, found.evidence, found.certificates)
    return bare.judge(evidence, (), Policy(allow_simulated=root), now=made.judged_at, collateral=collateral).origin
