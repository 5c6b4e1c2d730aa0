"""Parse what a guest sends: sections, report data, attestation document, each TEE's evidence.

There is no policy here. Standard library only, except `tdx.signature` and `tdx.chain`, which the guest never imports.
"""
