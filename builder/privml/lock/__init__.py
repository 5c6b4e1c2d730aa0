"""Locks name every input of an image by digest; only `lock` writes them."""
