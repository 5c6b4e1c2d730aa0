"""Stage `model` of a boot: open every volume of models and data at its place."""

from __future__ import annotations

import os
from collections.abc import Callable

from privml.agent.layout import Layout
from privml.agent.volume import Volumes
from privml.base.errors import HostError
from privml.events.configuration import Config, Model
from privml.events.crypt import Crypt


def open_all(config: Config, layout: Layout, volumes: Volumes, key: Callable[[Crypt], bytes] | None) -> list[str]:
    """Open the volumes of ``config`` in order; gives the name and root hash of each, in words.

    ``key`` gives the key of an encrypted volume; None where no volume is encrypted. ``HostError`` for the first
    volume that is not the measured one, or without its model's file.
    """
    if config.data:
        _make_data_directory(layout)
    opened = []
    for slot, entry in config.volumes:
        if isinstance(entry, Model):
            mount, what = layout.model(slot.number), entry.name
        else:
            mount, what = layout.data_volume(entry.name), f"data {entry.name}"
        volumes.open(slot, entry.verity, mount, None if key is None or entry.crypt is None else key(entry.crypt))
        if isinstance(entry, Model) and not (mount / entry.file).is_file():
            raise HostError(f"model: the volume has no file `{entry.file}`")
        opened.append(f"{what}, root hash {entry.verity.root_hash.hex()}")
    return opened


def _make_data_directory(layout: Layout) -> None:
    """Make the directory of data volumes, which only the services' users may enter."""
    place = layout.data
    place.mkdir(mode=0o700)
    os.chown(place, -1, layout.data_id)
    place.chmod(0o750)
