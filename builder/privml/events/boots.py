"""How firmware gets an image's UKI: from QEMU's ``-kernel``, or from the image's own disk."""

from __future__ import annotations

from typing import Final, Literal, get_args

Boot = Literal["direct", "disk"]
BOOTS: tuple[Boot, ...] = get_args(Boot)
DIRECT: Final = "direct"
DISK: Final = "disk"
