"""Paths, sockets and user ids of the guest, in one value that tests can replace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privml.engines.engine import DIRECTORY, Engine
from privml.events import services, volumes
from privml.events.services import DATA_ID

SERVER_ID = 900
"""uid and gid of the user `privml` (images/guest: sysusers.d/privml.conf)."""
ENGINE_ID = 901
"""uid and gid of the user `privml-engine` (sysusers.d/privml-engine.conf)."""
GPU_ID = 902
"""uid and gid of the user `privml-gpu`; its group owns the nodes of GPUs (sysusers.d/privml-gpu.conf)."""
FABRIC_ID = 903
"""uid and gid of the user `privml-fabric`, which runs Fabric Manager; its group owns what configures NVLink."""
SWITCH_ID = 904
"""gid of the group that owns the nodes of NVSwitches (sysusers.d/privml-fabric.conf)."""


@dataclass(frozen=True)
class Layout:
    """Paths and numbers of the running guest.

    ``run`` is a tmpfs directory owned by root; ``root_id`` is the uid that may drive the stages, ``server_id`` the
    uid (and group) that may ask for quotes and owns the TLS key, ``engine_id`` the engine's group, ``data_id`` the
    group that may read data volumes.
    """

    config: Path = Path("/etc/privml/config.json")
    run: Path = Path("/run/privml")
    engine: Path = Path(DIRECTORY)
    services: Path = Path(services.DIRECTORY)
    data: Path = Path(volumes.DATA_DIRECTORY)
    gpu: Path = Path("/run/privml-gpu")
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    dev: Path = Path("/dev")
    root_id: int = 0
    server_id: int = SERVER_ID
    engine_id: int = ENGINE_ID
    data_id: int = DATA_ID

    @property
    def stages(self) -> Path:
        """The stage table as JSON, for the server."""
        return self.run / "stages.json"

    @property
    def stage_socket(self) -> Path:
        """The attestor's socket for the boot stages: root only, removed after the last stage."""
        return self.run / "attestor" / "stage.sock"

    @property
    def control_socket(self) -> Path:
        """The attestor's socket that suspends and resumes quotes: root only."""
        return self.run / "attestor" / "control.sock"

    @property
    def attestor_place(self) -> Path:
        """How far the attestor has come, for the one that is started in its place: root only."""
        return self.run / "attestor" / "place.json"

    @property
    def quote_socket(self) -> Path:
        """The attestor's socket for quotes: the server's group."""
        return self.run / "attestor" / "quote.sock"

    @property
    def release_socket(self) -> Path:
        """The boot process's socket for released volume keys: the server's group, only during stage `keys`."""
        return self.run / "release.sock"

    @property
    def tls_key(self) -> Path:
        """PEM private key of this boot, mode 0400, owned by the server's user."""
        return self.run / "keys" / "tls.pem"

    @property
    def tls_certificate(self) -> Path:
        """PEM self-signed certificate of this boot."""
        return self.run / "keys" / "certificate.pem"

    @property
    def channel_key(self) -> Path:
        """The Ed25519 key of this boot that signs the sealed channel's keys (32 bytes), like ``tls_key``."""
        return self.run / "keys" / "channel"

    @property
    def receipt_key(self) -> Path:
        """The Ed25519 key of this boot that signs receipts (32 bytes), like ``tls_key``."""
        return self.run / "keys" / "receipt"

    @property
    def keys_section(self) -> Path:
        """The keys section of this boot's documents, for the server to name in what it signs."""
        return self.run / "keys" / "section"

    @property
    def engine_line(self) -> Path:
        """The boot process's socket for the engine's last line: the engine's group, only during stage `engine`."""
        return self.run / "engine-line.sock"

    def engine_socket(self, engine: Engine) -> Path:
        """The engine's socket. Only the users of engine and server may enter its directory."""
        return self.engine / engine.socket_name

    def service_socket(self, name: str) -> Path:
        """The socket of one of the image's own services. Only its user and the server may enter its directory."""
        return self.services / name / services.SOCKET

    @property
    def gpu_socket(self) -> Path:
        """The socket of the process that reads the GPUs: root only."""
        return self.gpu / "reader.sock"

    def model(self, number: int) -> Path:
        """Where model volume ``number`` (from 0) is mounted."""
        return self.run / volumes.MODEL.stem(number)

    def data_volume(self, name: str) -> Path:
        """Where the data volume ``name`` is mounted. Only the services' users may enter its directory."""
        return self.data / name
