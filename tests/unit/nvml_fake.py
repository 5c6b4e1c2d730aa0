"""A libnvidia-ml of our own, compiled here and in no image: it reads what it says from a directory.

Files in it: ``init`` (status of nvmlInit_v2), ``state`` (environment, feature, developer tools), ``count``,
``persistence``, ``multi-gpu``, ``fabric`` (state of each GPU's links, or ``fabric-N``), ``report-N`` and ``chain-N``;
``report-size`` and ``chain-size`` replace the true ones; with ``slow`` a report takes a minute. All but reports and
chains are optional; without ``state``, confidential computing is not supported. ``asked`` gets the nonce of the last
report. GPUs are set ready only after one; ``ready`` gets the state.

It has the functions of libnvidia-nscq too: ``nscq`` (status of nscq_session_create), ``switches`` (their number),
``label`` (the form of a switch's label), ``mode-N`` (``mode`` for those without), ``switch-report-N``,
``switch-chain-N`` and ``switch-chain-size``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import privml
from privml.agent import gpureader
from privml.agent.gpuanswer import Question
from privml.agent.nscq import Nscq
from privml.agent.nvml import Nvml
from privml.evidence.document import GPU, SWITCH, DeviceEvidence

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

typedef struct { unsigned version, environment, feature, devtools, multi_gpu; } settings_t;
typedef struct {
  unsigned version;
  unsigned char cluster[16];
  unsigned status, clique;
  unsigned char state;
  unsigned health;
} fabric_t;
_Static_assert(sizeof(settings_t) == 0x14 && sizeof(fabric_t) == 0x24, "nvml.h");

int nvmlSystemGetConfComputeSettings(settings_t *found)
{
  state_t state;
  if (found->version != 0x1000014)
    return 25;
  found->multi_gpu = number("multi-gpu", 0);
  int status = nvmlSystemGetConfComputeState(&state);
  found->environment = state.environment, found->feature = state.feature, found->devtools = state.devtools;
  return status;
}

int nvmlDeviceGetGpuFabricInfoV(void *gpu, fabric_t *found)
{
  char name[32];
  snprintf(name, sizeof name, "fabric-%lu", (unsigned long)gpu - 1);
  if (found->version != 0x2000024)
    return 25;
  found->state = (unsigned char)number(name, number("fabric", 3));
  found->status = number("fabric-status", 0);
  return 0;
}

typedef struct { unsigned char bytes[16]; } uuid_of_t;
typedef struct { char data[64]; } label_t;
typedef struct { signed char rc; void *session; } session_t;
typedef struct { unsigned size; unsigned char data[0x2000]; } switch_report_t;
typedef struct { unsigned char data[0x1400]; unsigned size; } switch_chain_t;
_Static_assert(sizeof(switch_report_t) == 8196 && sizeof(switch_chain_t) == 5124, "nscq_attestation.h");

session_t nscq_session_create(unsigned flags)
{
  static int here;
  return (session_t){flags == 1 ? (signed char)(int)number("nscq", 0) : -1, &here};
}

void nscq_session_destroy(void *session) { note("destroyed", "1", session ? 1 : 0); }

signed char nscq_uuid_to_label(const uuid_of_t *uuid, label_t *label, unsigned flags)
{
  char form[64] = {0};
  if (!bytes("label", form, sizeof form - 1))
    strcpy(form, "SWX-%08X");
  snprintf(label->data, sizeof label->data, form, uuid->bytes[0]);
  return flags ? -1 : 0;
}

signed char nscq_session_set_input(void *session, unsigned flags, void *data, unsigned size)
{
  note("switch-asked", data, size);
  return session && !flags ? 0 : -1;
}

signed char nscq_session_path_observe(void *session, const char *path, void (*call)(void), void *user, unsigned flags)
{
  static switch_report_t report;
  static switch_chain_t chain;
  char rest[64], name[64];
  unsigned number_of_switch;
  uuid_of_t uuid = {{0}};
  if (!session || flags)
    return -1;
  if (!strcmp(path, "/drv/nvswitch/{device}/uuid")) {
    for (unsigned n = 0; n < number("switches", 0); n++) {
      uuid.bytes[0] = (unsigned char)n;
      ((void (*)(const uuid_of_t *, signed char, const uuid_of_t *, void *))call)(&uuid, 0, &uuid, user);
    }
    return 0;
  }
  if (sscanf(path, "/SWX-%8X/config/%63s", &number_of_switch, rest) != 2)
    return -5;
  uuid.bytes[0] = (unsigned char)number_of_switch;
  if (!strcmp(rest, "pcie_mode")) {
    snprintf(name, sizeof name, "mode-%u", number_of_switch);
    int mode = (int)number(name, number("mode", 3));
    ((void (*)(const uuid_of_t *, signed char, signed char, void *))call)(&uuid, 0, (signed char)mode, user);
  } else if (!strcmp(rest, "attestation_report")) {
    snprintf(name, sizeof name, "switch-report-%u", number_of_switch);
    report.size = (unsigned)bytes(name, report.data, sizeof report.data);
    signed char status = report.size ? 0 : -7;
    ((void (*)(const uuid_of_t *, signed char, switch_report_t, void *))call)(&uuid, status, report, user);
  } else if (!strcmp(rest, "certificate")) {
    snprintf(name, sizeof name, "switch-chain-%u", number_of_switch);
    chain.size = (unsigned)bytes(name, chain.data, sizeof chain.data);
    chain.size = number("switch-chain-size", chain.size);
    ((void (*)(const uuid_of_t *, signed char, switch_chain_t, void *))call)(&uuid, 0, chain, user);
  }
  return 0;
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
        "from privml.agent.nscq import Nscq\n"
        f"place = Path({str(library)!r})\n"
        "reads = partial(gpureader.read, open_library=lambda: Nvml(place), open_switches=lambda: Nscq(place))\n"
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
        """Say that these are the reports and chains of the GPUs, and of the switches behind them."""
        gpus, switches = ([each for each in evidence if each.kind == kind] for kind in (GPU, SWITCH))
        self.says(state=state, count=len(gpus), switches=len(switches), multi_gpu=1 if switches else 0)
        for prefix, found in (("", gpus), ("switch-", switches)):
            for number, device in enumerate(found):
                self.says(
                    **{f"{prefix}report-{number}": device.report, f"{prefix}chain-{number}": device.certificates}
                )

    def read(self, asked: Question) -> gpureader.Reading:
        """What the reader reads, in this process."""
        return gpureader.read(asked, lambda: Nvml(self.shared_object), lambda: Nscq(self.shared_object))

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
    flags = [
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-format-nonliteral",
        "-shared",
        "-fPIC",
        f'-DPLACE="{folder}"',
    ]
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
