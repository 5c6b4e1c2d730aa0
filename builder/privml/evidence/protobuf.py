"""Read messages of Protocol Buffers strictly: only the encoding that serialisers write, and no field that is unknown.

The wire format lets many byte strings mean the same message: fields in any order, numbers with leading zeros, the
last of several values. Signed messages are read here, so only one of them is accepted: fields in rising order, each
once unless it is repeated, numbers in their shortest form, no explicit zeros or empty bytes outside of maps.
Source: protobuf.dev, "Encoding" and "Proto Serialization Is Not Canonical".
"""

from __future__ import annotations

from collections.abc import Mapping

from privml.base.errors import EvidenceError

VARINT, BYTES = 0, 2
_MAX_VARINT = 10
_MAX_FIELDS = 1024


class Message:
    """One message: the values of its fields by number, each of which is then taken once.

    ``known`` has the wire type of each field; ``repeated`` are those that may be there several times.
    ``EvidenceError`` for anything else, with ``name`` in front.
    """

    def __init__(
        self,
        data: bytes,
        name: str,
        known: Mapping[int, int],
        repeated: frozenset[int] = frozenset(),
        *,
        zeros: bool = False,
    ) -> None:
        self._name = name
        self._values: dict[int, list[int | bytes]] = {}
        at = last = count = 0
        while at < len(data):
            key, at = self._varint(data, at)
            number, kind = key >> 3, key & 7
            if known.get(number) != kind:
                raise self._error(f"field {number} of wire type {kind} is not known")
            if number < last or (number == last and number not in repeated):
                raise self._error(f"field {number} after field {last}, expected rising numbers, each once")
            value, at = self._varint(data, at) if kind == VARINT else self._bytes(data, at)
            if not value and not zeros and number not in repeated:
                raise self._error(f"field {number} is written out with its default")
            count += 1
            if count > _MAX_FIELDS:
                raise self._error(f"more than {_MAX_FIELDS} fields")
            last = number
            self._values.setdefault(number, []).append(value)

    def number(self, field: int, *, bits: int) -> int:
        """The number of a field, 0 without it."""
        value = self._values.get(field, [0])[0]
        if not isinstance(value, int) or value >> bits:
            raise self._error(f"field {field} is {value!r}, expected a number of {bits} bits")
        return value

    def flag(self, field: int) -> bool:
        """True or false; false without the field."""
        return bool(self.number(field, bits=1))

    def data(self, field: int, *, sizes: tuple[int, int]) -> bytes:
        """The bytes of a field, empty without it; ``sizes`` are the fewest and the most."""
        return self._sized(field, self._values.get(field, [b""])[0], sizes)

    def each(self, field: int, *, sizes: tuple[int, int]) -> tuple[bytes, ...]:
        """The bytes of every occurrence of a repeated field."""
        return tuple(self._sized(field, value, sizes) for value in self._values.get(field, ()))

    def has(self, field: int) -> bool:
        """True if the field is there."""
        return field in self._values

    def _sized(self, field: int, value: int | bytes, sizes: tuple[int, int]) -> bytes:
        low, high = sizes
        if not isinstance(value, bytes) or not low <= len(value) <= high:
            size = len(value) if isinstance(value, bytes) else 0
            raise self._error(
                f"field {field} has {size} bytes, expected {low if low == high else f'{low} to {high}'}"
            )
        return value

    def _varint(self, data: bytes, at: int) -> tuple[int, int]:
        value = 0
        for place in range(_MAX_VARINT):
            if at + place >= len(data):
                raise self._error("cut off inside a number")
            byte = data[at + place]
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if (place and not byte) or value >> 64:
                    raise self._error("a number with leading zeros, or of more than 64 bits")
                return value, at + place + 1
        raise self._error(f"a number of more than {_MAX_VARINT} bytes")

    def _bytes(self, data: bytes, at: int) -> tuple[bytes, int]:
        size, at = self._varint(data, at)
        if size > len(data) - at:
            raise self._error(f"a field of {size} bytes, but {len(data) - at} follow")
        return data[at : at + size], at + size

    def _error(self, text: str) -> EvidenceError:
        return EvidenceError(f"{self._name}: {text}")
