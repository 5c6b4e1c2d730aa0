"""The measured events of a TD's boot, as predicted for a recorded machine."""

from __future__ import annotations

import pytest
from tests.golden import test_measure_disk_boots as boots

from privml.base.svg import Picture
from privml.events.event import Event, Evidence
from privml.events.registers import MRTD, RTMR3
from privml.events.stages import STAGES
from privml.measure.optionrom import Driver
from privml.publish import eventspicture


def events() -> tuple[Event, ...]:
    """A TD's events for production's image on a direct boot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boots.payload.optionrom, "drivers", lambda _: (Driver(0x80000004, boots.IPXE),))
        return boots.kept("port").td


def draw() -> Picture:
    """The picture, with the agent's events in the order of the stages."""
    agent = [name for stage in STAGES for name in stage.events if not name.startswith("gpu-")]
    levels = {MRTD: Evidence.HARDWARE, RTMR3: Evidence.SOURCE}
    return eventspicture.draw("The measured events of a TD's boot", events(), agent, levels)
