"""What a guest shows: sections, report data, attestation document, each TEE's evidence. Bytes in, facts out.

No policy. Standard library only, except `tdx.signature` and `tdx.chain`, which the guest never imports.
"""
