"""Clients of attested guests: fetch the document, pin the key; a local proxy does both for OpenAI clients."""
