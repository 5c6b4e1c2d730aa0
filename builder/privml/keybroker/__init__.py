"""The key broker: keeps keys of volumes, and releases them to guests that prove to be the owner's images."""
