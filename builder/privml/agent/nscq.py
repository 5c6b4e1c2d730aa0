"""NVIDIA's library for NVSwitches (NSCQ), as far as a guest needs it. Only short-lived processes load it.

Layouts and paths are those of `nscq_attestation.h` in NVIDIA/nvtrust (API 2.0). The library answers a query by
calling a function for each switch that the query's path matches. Whatever it says is checked by the process that
asked (`agent.gpucheck`), not here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from privml.agent.nvml import MAX_CERTIFICATES, MAX_REPORT, NONCE_SIZE
from privml.base.errors import PrivmlError
from privml.events.gpus import MAX_SWITCHES

LIBRARY = Path("/usr/lib/nvidia/libnvidia-nscq.so.2")
"""Where the image has the library (`recipe.fabrics`)."""

LOCKED = 3
"""The mode of a switch in protected PCIe mode whose routing cannot be changed any more; 1 before it is locked."""

_MOUNT_DEVICES = 1
_TEXTS = {
    -2: "invalid UUID",
    -6: "driver and library have different versions",
    -7: "an error of the driver",
    -8: "timeout",
}


class NscqError(PrivmlError):
    """A call of the library failed, or its answer does not fit its own structure."""


class Uuid(ctypes.Structure):
    """``nscq_uuid_t``."""

    _fields_ = (("bytes", ctypes.c_uint8 * 16),)


class Label(ctypes.Structure):
    """``nscq_label_t``: the text form of a UUID."""

    _fields_ = (("data", ctypes.c_char * 64),)


class Report(ctypes.Structure):
    """``nscq_attestation_report_t``."""

    _fields_ = (("size", ctypes.c_uint32), ("data", ctypes.c_uint8 * MAX_REPORT))


class Certificates(ctypes.Structure):
    """``nscq_attestation_certificate_t``."""

    _fields_ = (("data", ctypes.c_uint8 * MAX_CERTIFICATES), ("size", ctypes.c_uint32))


class Session(ctypes.Structure):
    """``nscq_session_result_t``."""

    _fields_ = (("status", ctypes.c_int8), ("session", ctypes.c_void_p))


class Nscq:
    """The library at ``path``, with a session that has all switches, within a ``with`` block."""

    def __init__(self, path: Path = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise NscqError(f"{path.name}: {error}") from error
        self._session = ctypes.c_void_p()

    def __enter__(self) -> Self:
        create = self._function("nscq_session_create", Session)
        made = create(ctypes.c_uint32(_MOUNT_DEVICES))
        _check("nscq_session_create", made.status)
        self._session = ctypes.c_void_p(made.session)
        return self

    def __exit__(self, *_: object) -> None:
        self._function("nscq_session_destroy", None)(self._session)

    def switches(self) -> tuple[str, ...]:
        """The label of each switch, sorted."""
        found = [self._label(uuid.contents) for uuid in self._observe("/drv/nvswitch/{device}/uuid", _POINTER)]
        if len(found) > MAX_SWITCHES:
            raise NscqError(f"switches: got {len(found)}, expected at most {MAX_SWITCHES}")
        return tuple(sorted(found))

    def mode(self, switch: str) -> int:
        """Whether a switch is in protected PCIe mode, and locked: `LOCKED` for both."""
        return int(self._one(f"/{switch}/config/pcie_mode", ctypes.c_int8))

    def certificates(self, switch: str) -> bytes:
        """The PEM chain of the key that signs reports."""
        return _bytes(self._one(f"/{switch}/config/certificate", Certificates), "certificate chain")

    def report(self, switch: str, nonce: bytes) -> bytes:
        """A new attestation report over ``nonce`` (32 bytes)."""
        given = (ctypes.c_uint8 * NONCE_SIZE)(*nonce)
        call = self._function("nscq_session_set_input", ctypes.c_int8)
        status = call(self._session, ctypes.c_uint32(0), ctypes.byref(given), ctypes.c_uint32(NONCE_SIZE))
        _check("nscq_session_set_input", status)
        return _bytes(self._one(f"/{switch}/config/attestation_report", Report), "report")

    def _label(self, uuid: Uuid) -> str:
        label = Label()
        call = self._function("nscq_uuid_to_label", ctypes.c_int8)
        _check("nscq_uuid_to_label", call(ctypes.byref(uuid), ctypes.byref(label), ctypes.c_uint32(0)))
        text = bytes(label.data).decode("ascii", "replace")
        # It becomes a part of a path.
        if not text or not all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in text):
            raise NscqError(f"label: got {text!r}, expected letters, digits, - and _")
        return text

    def _one(self, path: str, kind: Any) -> Any:
        found = self._observe(path, kind)
        if len(found) != 1:
            raise NscqError(f"{path}: got {len(found)} answers, expected one")
        return found[0]

    def _observe(self, path: str, kind: Any) -> list[Any]:
        """The values at ``path``, one for each switch that it matches."""
        found: list[Any] = []
        faults: list[int] = []

        def take(_device: object, status: int, value: Any, _data: object) -> None:
            if status:
                faults.append(status)
            elif kind is _POINTER:
                found.append(ctypes.pointer(Uuid.from_buffer_copy(value.contents)))
            else:
                found.append(value)

        callback = ctypes.CFUNCTYPE(None, _POINTER, ctypes.c_int8, kind, ctypes.c_void_p)(take)
        call = self._function("nscq_session_path_observe", ctypes.c_int8)
        _check(path, call(self._session, path.encode("ascii"), callback, None, ctypes.c_uint32(0)))
        for status in faults:
            _check(path, status)
        return found

    def _function(self, name: str, result: Any) -> Any:
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise NscqError(f"{name}: the library does not have it") from error
        function.restype = result
        return function


_POINTER = ctypes.POINTER(Uuid)


def _check(what: str, status: int) -> None:
    if status:
        raise NscqError(f"{what}: status {status}, {_TEXTS.get(status, 'see nscq_attestation.h')}")


def _bytes(found: Report | Certificates, what: str) -> bytes:
    """The data of a structure; its size is the library's word."""
    data: Sequence[int] = found.data
    if not 0 < found.size <= len(data):
        raise NscqError(f"{what}: got {found.size} bytes, expected 1 to {len(data)}")
    return bytes(data[: found.size])
