"""What a guest shows: quote, report data, attestation document. Bytes in, facts out; no policy.

Standard library only, except `signature`, which the guest never imports.
"""
