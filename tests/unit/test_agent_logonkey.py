"""A volume's key is in the kernel's keyring while its table is loaded, and nowhere else afterwards."""

from __future__ import annotations

import ctypes

import pytest

from privml.agent.logonkey import logon_key
from privml.base.errors import HostError

KEY = bytes(range(64))
NAME = "privml:privml-model"


class Kernel:
    """The two system calls; it takes the key if ``takes``."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.payloads: list[ctypes.Array[ctypes.c_char]] = []
        self.held: dict[int, bytes] = {}

    def __call__(self, number: int, *arguments: object) -> int:
        if number == 248:
            kind, name, payload, size, keyring = arguments
            assert isinstance(payload, ctypes.Array)
            self.payloads.append(payload)
            assert (kind, name, size.value, keyring.value) == (b"logon", NAME.encode(), 64, -3)  # type: ignore[attr-defined]
            if not self.takes:
                raise OSError(122, "Disk quota exceeded")
            self.held[7] = payload.raw
            return 7
        assert number == 250
        operation, key, keyring = (each.value for each in arguments)  # type: ignore[attr-defined]
        assert (operation, keyring) == (9, -3)
        del self.held[key]
        return 0


def test_the_key_is_held_only_inside() -> None:
    kernel = Kernel()
    with logon_key(NAME, KEY, kernel):
        assert kernel.held == {7: KEY}
        assert kernel.payloads[0].raw == bytes(64)  # our copy is already overwritten
    assert kernel.held == {}


def test_the_key_is_removed_also_when_the_table_is_refused() -> None:
    kernel = Kernel()
    with pytest.raises(HostError, match="dmsetup"), logon_key(NAME, KEY, kernel):
        raise HostError("dmsetup failed")
    assert kernel.held == {}


def test_a_key_that_the_kernel_does_not_take_is_named_without_the_key() -> None:
    kernel = Kernel(takes=False)
    with pytest.raises(HostError) as caught, logon_key(NAME, KEY, kernel):
        pytest.fail("there is no key")
    assert caught.value.message == f"keyring: the kernel did not take the key {NAME}: Disk quota exceeded"
    assert kernel.payloads[0].raw == bytes(64)
