"""Print what a file is and what it measures to, for `measure FILE`."""

from __future__ import annotations

from privml.base.errors import MeasurementError
from privml.cli.output import print_json, show
from privml.events.event import Event, seen_words
from privml.events.registers import LAUNCH
from privml.events.types import type_name
from privml.measure.description import Description


def print_description(description: Description, *, events: bool, as_json: bool) -> None:
    """Print a description; ``MeasurementError`` after it for a log that has no SHA-384 digests."""
    if as_json:
        print_json(description.to_dict())
    else:
        _show(description, events=events)
    if description.records:
        raise MeasurementError(description.notes[0], hint="`explain LOG` lists its events")


def _show(description: Description, *, events: bool) -> None:
    show(description.title)
    for order, value in description.mrtd.items():
        show(f"  mrtd   {value.hex()}  {'' if order == 'mrtd' else order.replace('_', '-')}".rstrip())
    for register, value in description.registers.items():
        show(f"  {register}  {value.hex()}")
    for event in description.events:
        if not events and event.register in description.registers:
            continue
        show(f"    {event.register}  {event.digest.hex()}  {_what(event)}")
    for record in description.records if events else ():
        show(f"    {record.index:2}  {record.text()}")
    for name, text in description.facts.items():
        show(f"  {name}: {text}")
    for note in description.notes:
        show(f"  note: {note}")


def _what(event: Event) -> str:
    kind = f"{event.count} pages" if event.register == LAUNCH else type_name(event.type)
    return f"{event.evidence.value:9}  {kind}  {event.origin}  {event.note}".rstrip() + seen_words(event)
