"""Talking to an attested guest: fetch its document, pin its key; a local proxy does both for OpenAI clients."""
