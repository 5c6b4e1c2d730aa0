"""Build tampered images from an honest one with the project's own tools, so that they boot."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from privml.base.files import write_atomic
from privml.events import volumes
from privml.events.verity import Verity
from privml.image import uki, volume
from privml.image.render import ROOT_LABEL
from privml.image.tools import Bind, ToolsTree
from privml.measure import gpt, pe
from privml.output.manifest import Manifest

LOGGER = """

# The operator's addition: whatever a request's body says also goes to the console.
_body = Conversation._body


def _logged(self, request, limit):
    body = _body(self, request, limit)
    if body:
        print("LOGGED", body.decode(errors="replace"), file=sys.stderr, flush=True)
    return body


Conversation._body = _logged
"""


CALLER = """

# Somebody else's code in the server's process: every way to begin to speak to the outside, from the moment on in
# which somebody could have brought it there (before there is a key, nothing listens).
def _calls():
    import errno
    from pathlib import Path

    while not Path("/run/privml/keys/certificate.pem").exists():
        time.sleep(0.2)
    there = ("10.0.2.2", 9)

    def tcp(family=socket.AF_INET, address=there, protocol=0):
        with socket.socket(family, socket.SOCK_STREAM, protocol) as call:
            call.settimeout(2)
            call.connect(address)

    def udp():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as call:
            call.sendto(b"x", there)

    def fastopen():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as call:
            call.settimeout(2)
            call.sendto(b"x", socket.MSG_FASTOPEN, there)

    def again():
        # An accepted socket is there already: forget the caller (AF_UNSPEC), call somebody else.
        import ctypes

        with accepted.get(timeout=120) as call:
            if ctypes.CDLL(None).connect(call.fileno(), bytes(16), 16):
                raise TimeoutError("it still has its caller")
            call.connect(there)

    def loopback():
        tcp(address=("127.0.0.1", 9))

    def mapped():
        tcp(socket.AF_INET6, ("::ffff:10.0.2.2", 9))

    def mptcp():
        tcp(protocol=262)

    for probe in (tcp, udp, fastopen, again, loopback, mapped, mptcp):
        try:
            probe()
            said = "went-out"
        except OSError as error:
            said = errno.errorcode.get(error.errno, str(error)).replace(" ", "-")
        print("PROBE", probe.__name__, said, file=sys.stderr, flush=True)


import queue

accepted = queue.SimpleQueue()
_first = threading.Lock()
_honest = Server._connection


def _connection(self, connection, slot):
    if _first.acquire(blocking=False):
        accepted.put(socket.socket(fileno=os.dup(connection.fileno())))
    _honest(self, connection, slot)


Server._connection = _connection
threading.Thread(target=_calls).start()
"""


def root_with_logger(tools: ToolsTree, image: Path, manifest: Manifest, out: Path) -> dict[str, Path]:
    """root.raw with a prompt logger in the agent's server, and a uki.efi that names its new root hash."""
    return root_with(tools, image, manifest, out, LOGGER)


def root_with(tools: ToolsTree, image: Path, manifest: Manifest, out: Path, addition: str) -> dict[str, Path]:
    """root.raw with further code in the agent's server, and a uki.efi that names its new root hash."""
    targets = {"root.raw": out / "root.raw", "uki.efi": out / "uki.efi"}
    if all(path.is_file() for path in targets.values()) and _of(out, manifest, addition):
        return targets
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tamper.", dir=out) as name:
        work = Path(name)
        extract(tools, image / "root.raw", ROOT_LABEL, work)
        package = work / "tree/usr/lib/privml/privml/agent"
        server = package / "server.py"
        source = server.read_text()
        main = source.rindex('if __name__ == "__main__":')
        server.write_text(f"{source[:main]}import sys\nimport h11\n{addition}\n{source[main:]}")
        unit = work / "tree/usr/lib/systemd/system/privml-server.service"
        unit.write_text(unit.read_text().replace("StandardError=null", "StandardError=tty\nTTYPath=/dev/console"))
        # Compiled files do not look at their source any more: without its own the logger's module is compiled anew.
        for stale in (package / "__pycache__").glob("server.*"):
            stale.unlink()
        raw, verity = volume.make(
            tools, work, ROOT_LABEL, compression="lz4hc,1", seed=str(_SEED), epoch=manifest.source_date_epoch
        )
        raw.rename(targets["root.raw"])
        _uki(tools, image / "uki.efi", manifest, verity, work).rename(targets["uki.efi"])
    write_atomic(out / ".of", manifest.encode() + addition.encode())
    return targets


def other_model(tools: ToolsTree, image: Path, manifest: Manifest, out: Path) -> dict[str, Path]:
    """model.raw with the same file name and other weights."""
    targets = {"model.raw": out / "model.raw"}
    if targets["model.raw"].is_file() and _of(out, manifest):
        return targets
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tamper.", dir=out) as name:
        work = Path(name)
        extract(tools, image / "model.raw", volumes.MODEL.partition(0), work)
        (weights,) = (work / "tree").iterdir()
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1  # one bit of one weight
        weights.write_bytes(data)
        raw, _ = volume.make(
            tools,
            work,
            volumes.MODEL.partition(0),
            compression=None,
            seed=str(_SEED),
            epoch=manifest.source_date_epoch,
        )
        raw.rename(targets["model.raw"])
    write_atomic(out / ".of", manifest.encode())
    return targets


_SEED = "7d1f0b8e-0000-4000-8000-000000000001"


def _of(out: Path, manifest: Manifest, addition: str = "") -> bool:
    mark = out / ".of"
    return mark.is_file() and mark.read_bytes() == manifest.encode() + addition.encode()


def extract(tools: ToolsTree, disk: Path, label: str, work: Path) -> None:
    """Put the files of one volume of a disk into ``work/tree``."""
    (part,) = [partition for partition in gpt.read(disk).partitions if partition.name == label]
    with disk.open("rb") as source, (work / "data.erofs").open("wb") as target:
        source.seek(part.start)
        left = part.size
        while left:
            block = source.read(min(left, 1 << 20))
            target.write(block)
            left -= len(block)
    tools.run(["fsck.erofs", "--extract=/work/tree", "/work/data.erofs"], binds=[Bind(work, "/work", writable=True)])
    (work / "data.erofs").unlink()


def _uki(tools: ToolsTree, honest: Path, manifest: Manifest, root: Verity, work: Path) -> Path:
    image = honest.read_bytes()
    sections = {section.name: pe.in_memory(image, section) for section in pe.headers(image).sections}
    cmdline = manifest.cmdline.replace(manifest.root.argument(), root.argument())
    assert cmdline != manifest.cmdline
    shutil.rmtree(work / "tree")
    (work / "vmlinuz").write_bytes(sections[".linux"])
    return uki.build(
        tools,
        work,
        kernel=work / "vmlinuz",
        initrd=sections[".initrd"],
        cmdline=cmdline,
        release=manifest.kernel,
        name=manifest.name,
    )
