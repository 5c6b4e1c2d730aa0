"""A libnvidia-ml of our own, compiled here and in no image: it reads what it says from a directory.

Files in it: ``init`` (status of nvmlInit_v2), ``state`` (environment, feature, developer tools), ``count``,
``persistence``, ``report-N`` and ``chain-N``; ``report-size`` and ``chain-size`` replace the true ones; with ``slow``
a report takes a minute. All but reports and chains are optional; without ``state``, confidential computing is not
supported. ``asked`` gets the nonce of the last report. GPUs are set ready only after one; ``ready`` gets the state.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import privml
from privml.agent import gpureader
from privml.agent.nvml import Nvml
from privml.evidence.document import DeviceEvidence

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct { unsigned environment, feature, devtools; } state_t;
typedef struct { unsigned size, attestation_size; unsigned char chain[0x1000], attestation[0x1400]; } certificate_t;
typedef struct {
  unsigned cec, size, cec_size;
  unsigned char nonce[32], report[0x2000], cec_report[0x1000];
} report_t;
_Static_assert(sizeof(state_t) == 12 && sizeof(certificate_t) == 9224 && sizeof(report_t) == 12332, "nvml.h");

static size_t bytes(const char *name, void *into, size_t most)
{
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", PLACE, name);
  FILE *file = fopen(path, "rb");
  if (!file)
    return 0;
  size_t got = fread(into, 1, most, file);
  fclose(file);
  return got;
}

static unsigned number(const char *name, unsigned otherwise)
{
  char text[64] = {0};
  return bytes(name, text, sizeof text - 1) ? (unsigned)strtoul(text, NULL, 0) : otherwise;
}

static void note(const char *name, const void *data, size_t size)
{
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", PLACE, name);
  FILE *file = fopen(path, "wb");
  if (!file)
    abort();
  fwrite(data, 1, size, file);
  fclose(file);
}

int nvmlInit_v2(void) { return (int)number("init", 0); }
int nvmlShutdown(void) { return 0; }

int nvmlSystemGetConfComputeState(state_t *state)
{
  char text[64] = {0};
  if (!bytes("state", text, sizeof text - 1))
    return 3;
  return sscanf(text, "%u %u %u", &state->environment, &state->feature, &state->devtools) == 3 ? 0 : 999;
}

int nvmlDeviceGetCount_v2(unsigned *count) { *count = number("count", 1); return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **gpu)
{
  *gpu = (void *)(unsigned long)(index + 1);
  return 0;
}

int nvmlDeviceGetPersistenceMode(void *gpu, unsigned *mode) { (void)gpu; *mode = number("persistence", 1); return 0; }

int nvmlDeviceGetConfComputeGpuCertificate(void *gpu, certificate_t *into)
{
  char name[32];
  snprintf(name, sizeof name, "chain-%lu", (unsigned long)gpu - 1);
  size_t size = bytes(name, into->attestation, sizeof into->attestation);
  into->attestation_size = number("chain-size", (unsigned)size);
  return size ? 0 : 6;
}

int nvmlDeviceGetConfComputeGpuAttestationReport(void *gpu, report_t *into)
{
  char name[64];
  note("asked", into->nonce, sizeof into->nonce);
  if (number("slow", 0))
    sleep(60);
  snprintf(name, sizeof name, "report-%lu", (unsigned long)gpu - 1);
  size_t size = bytes(name, into->report, sizeof into->report);
  into->size = number("report-size", (unsigned)size);
  return size ? 0 : 6;
}

int nvmlSystemGetConfComputeGpusReadyState(unsigned *ready) { *ready = number("ready", 0); return 0; }

int nvmlSystemSetConfComputeGpusReadyState(unsigned ready)
{
  char nonce[32], text[16];
  if (!bytes("asked", nonce, sizeof nonce))
    return 4;
  note("ready", text, (size_t)snprintf(text, sizeof text, "%u", ready));
  return 0;
}
"""


def reader_code(library: Path) -> str:
    """The code of a reader's process with ``library`` in the place of the image's."""
    return (
        "from functools import partial\nfrom pathlib import Path\n"
        "from privml.agent import gpureader\nfrom privml.agent.nvml import Nvml\n"
        f"reads = partial(gpureader.read, open_library=lambda: Nvml(Path({str(library)!r})))\n"
        "raise SystemExit(gpureader.main(reads))"
    )


class FakeDriver:
    """The directory, the library that reads it, and the service of the reader, which uses the library."""

    def __init__(self, place: Path, library: Path) -> None:
        self.place = place
        self.shared_object = library

    def emptied(self) -> FakeDriver:
        """This, with nothing in the directory."""
        for path in self.place.iterdir():
            path.unlink()
        return self

    def says(self, **files: object) -> None:
        """Write files of the directory: text or bytes; None removes one. ``_`` in names is ``-``."""
        for name, value in files.items():
            path = self.place / name.replace("_", "-")
            if value is None:
                path.unlink()
            else:
                path.write_bytes(value if isinstance(value, bytes) else str(value).encode())

    def has(self, *evidence: DeviceEvidence, state: str = "2 1 0") -> None:
        """Say that these are the GPUs' reports and chains."""
        self.says(state=state, count=len(evidence))
        for number, device in enumerate(evidence):
            self.says(**{f"report-{number}": device.report, f"chain-{number}": device.certificates})

    def read(self, nonces: Sequence[bytes]) -> gpureader.Reading:
        """What the reader reads, in this process."""
        return gpureader.read(nonces, lambda: Nvml(self.shared_object))

    @property
    def reader(self) -> str:
        """The code of the reader's process."""
        return reader_code(self.shared_object)


def compiled(place: Path, folder: Path) -> FakeDriver:
    """Compile the library, which reads ``folder``, into ``place``."""
    if shutil.which("gcc") is None:
        pytest.skip("this host has no gcc")
    folder.mkdir(exist_ok=True)
    (place / "nvml.c").write_text(SOURCE)
    library = place / "libnvidia-ml.so.1"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f'-DPLACE="{folder}"']
    subprocess.run(["gcc", *flags, "-o", library, place / "nvml.c"], check=True, capture_output=True)
    return FakeDriver(folder, library)


@contextmanager
def reader_service(place: Path, work: str | gpureader.Read) -> Iterator[None]:
    """What systemd does with the reader's socket: a process for each connection, which is its standard input.

    ``work`` is its code; a function answers in this process, which is faster.
    """
    place.parent.mkdir(exist_ok=True)
    source = Path(privml.__file__).parent.parent
    path = os.pathsep.join([str(source), *(entry for entry in sys.path if entry)])
    children: list[subprocess.Popen[bytes]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if not isinstance(work, str):
                    gpureader.answer(connection, work)
                    continue
                child = subprocess.Popen(
                    [sys.executable, "-B", "-P", "-c", work],
                    env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
                    stdin=connection.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            children.append(child)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        for child in children:
            child.kill()
            child.wait()
