"""Set the GPUs ready: a process of its own, because the driver lets only an administrator do it.

The boot process starts it (`privml-gpu-ready.service`) after the GPUs were checked and the events extended. It has no
keys and opens no socket. It never sets GPUs ready that are not confidential or have developer tools on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from privml.agent import console
from privml.agent.nvml import Nvml
from privml.base.errors import PrivmlError


def main(open_library: Callable[[], Nvml] = Nvml) -> int:
    """Set them ready and check that they are."""
    try:
        with open_library() as nvml:
            nvml.set_ready()
            done = nvml.is_ready()
    except PrivmlError as error:
        console.say(f"privml: gpu ready: {error}")
        return 1
    if not done:
        console.say("privml: gpu ready: the driver still says that the GPUs are not ready")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
