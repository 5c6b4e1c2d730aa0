"""dm-verity parameters of a volume: everything that the guest needs to open it.

Those of the root are on the kernel command line, those of a model in the measured configuration, and both are in the
manifest. The guest never reads the verity superblock.
"""

from __future__ import annotations

from dataclasses import dataclass

from privml.base.strictjson import Fields

BLOCK_SIZE = 4096
MAX_BLOCKS = 2**40


@dataclass(frozen=True)
class Verity:
    """Root hash and salt (32 bytes each), number of data blocks, block of the hash device where the tree begins.

    Blocks are 4096 bytes.
    """

    root_hash: bytes
    salt: bytes
    data_blocks: int
    hash_start: int

    def to_dict(self) -> dict[str, object]:
        """The JSON object VERITY (docs/ARCHITECTURE.md)."""
        return {
            "root_hash": self.root_hash.hex(),
            "salt": self.salt.hex(),
            "data_blocks": self.data_blocks,
            "hash_start": self.hash_start,
            "block_size": BLOCK_SIZE,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Verity:
        """Read VERITY; ``EvidenceError`` if it is malformed."""
        verity = cls(
            root_hash=fields.hexadecimal("root_hash", 32),
            salt=fields.hexadecimal("salt", 32),
            data_blocks=fields.integer("data_blocks", low=1, high=MAX_BLOCKS),
            hash_start=fields.integer("hash_start", high=MAX_BLOCKS),
        )
        fields.integer("block_size", low=BLOCK_SIZE, high=BLOCK_SIZE)
        fields.end()
        return verity

    def argument(self) -> str:
        """The value of ``privml.root=`` on the kernel's command line."""
        return f"{self.root_hash.hex()}:{self.salt.hex()}:{self.data_blocks}:{self.hash_start}"
