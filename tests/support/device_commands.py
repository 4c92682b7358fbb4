# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The state-changing commands and calls of a device as crash scenarios: from where each starts, and what it does.

A command acknowledges what its user may rely on from then on; ``device_scenarios.check`` holds it to that.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

import edgeprov
from edgeprov.device.attest import attest
from edgeprov.device.boot import activate, boot_check
from edgeprov.device.export import export
from edgeprov.device.install import install_model, remove_model
from edgeprov.device.install_receipt import install_receipt
from edgeprov.device.labels import add_labels
from edgeprov.device.record_server import serve_socket
from edgeprov.device.rotation import at_path
from edgeprov.device.seal import seal
from edgeprov.device.upload import upload
from edgeprov.errors import EdgeprovError, ModelNotReady, StoreError, VerificationError
from edgeprov.formats.packing import Feeder, pack
from edgeprov.formats.record import parse_record
from edgeprov.store import atomic
from edgeprov.store.layout import Layout
from edgeprov.store.spool import RECORD, read_segment
from tests.support.device_scenarios import SETTINGS, Acknowledge, Command, row_name
from tests.support.site import CASES, Published, Site

ROWS = np.load(CASES)["X"]
BRIM = '[record]\nsync = "every"\nfull = "discard-oldest"\nquota_bytes = 65536\n[seal]\nmin_kit_interval_s = 0\n'
SEVERAL = SETTINGS + "max_records = 3\n"
KEEP = SETTINGS + '[upload]\nretention = "keep"\n'


# -- starts -------------------------------------------------------------------------------------


def _bare(site: Site) -> None:
    site.publish()


def _identity(site: Site) -> None:
    site.install_identity()
    site.publish()


def _model(site: Site) -> None:
    site.install_identity()
    site.install()


def _two_models(site: Site) -> None:
    _model(site)
    _infer(site, lambda _: None, 2)
    site.publish(version="2.0.0", parameters={"securityVersion": 3})


def _records(site: Site) -> None:
    _model(site)
    _infer(site, lambda _: None, 3)
    _label(site, lambda _: None)
    _infer(site, lambda _: None, 2)


def _sealed(site: Site) -> None:
    _records(site)
    seal(site.context)


def _second_boot(site: Site) -> None:
    _records(site)
    site.reboot()


def _half_sealed(site: Site) -> None:
    """A seal that died after the counter moved and the kit was written, before the head."""
    _records(site)
    _seal_that_fails(site, lambda target: target.endswith("series.json"))


def _almost_sealed(site: Site) -> None:
    """A seal that died after the head, before the outbox entry."""
    _records(site)
    _seal_that_fails(site, lambda target: "/outbox/" in target)


def _seal_that_fails(site: Site, wanted: Callable[[str], bool]) -> None:
    """The disk refuses the first rename to a name that is ``wanted``."""

    def hook(operation: str, path: str, argument: Any, _: int) -> None:
        if operation == "rename" and wanted(str(argument)):
            raise OSError(5, "Input/output error", path)

    atomic.hook = hook
    try:
        seal(site.context)
    except StoreError:
        pass
    finally:
        atomic.hook = None


def _baked(site: Site) -> None:
    """An image with a model, an identity from the factory line, and a state folder that nobody has written yet."""
    published = site.publish()
    shutil.copytree(site.registry, site.root / "baked")
    Layout.open(site.root / "baked").save_manifest(published.manifest, ref="slot.default")
    (site.root / "identity.json").write_bytes(site.identity_document())


def _brimful(site: Site) -> None:
    """A spool of closed segments that has no room for another."""
    _model(site)
    for _ in range(3):
        _converse(site, lambda _: None, [HELLO_BIG, _big(1), _big(2)])
    assert 65536 - site.context.state().spool_bytes() < 2 * 8192


def _kept(site: Site) -> None:
    """Kits that the stick and the registry hold, and the device still has."""
    _sealed(site)
    export(site.context, site.root / "stick")
    upload(site.context)
    assert site.context.state().outbox()


def _killed(site: Site) -> None:
    """A recorder that was killed between two syncs, in the middle of a write."""
    _model(site)
    told: list[str] = []
    with edgeprov.open_device() as device:
        model = device.load_model()
        for row in ROWS[:3]:
            result = model.run(row.reshape(1, 30), quantise=True)
            told.append(row_name(result.record.n, result.outputs[0].tobytes()))
        shutil.copytree(site.root / "state", site.root / "alive", ignore=no_sockets)
    shutil.rmtree(site.root / "state")
    (site.root / "alive").rename(site.root / "state")
    (info,) = site.context.state(write=False).spool("default").segments()
    with info.path.open("r+b") as file:
        file.seek(read_length(info.path))
        file.write(b"\x30\x00\x00\x00torn")
    (site.root / "told").write_text("\n".join(told))


def _damaged(site: Site) -> None:
    """A bit of a closed segment flipped, in the row of record 2."""
    _model(site)
    told: list[str] = []
    _infer(site, told.append, 4)
    (info,) = site.context.state().spool("default").segments()
    data = bytearray(info.path.read_bytes())
    raw = [payload for kind, payload in read_segment(info.path).frames() if kind == RECORD][1]
    assert parse_record(raw).n == 2
    data[data.index(raw) + 5] ^= 1
    info.path.write_bytes(data)
    (site.root / "told").write_text("\n".join(line if not line.startswith("record 2 ") else "gone 2" for line in told))


def _trial(site: Site) -> None:
    """A new model that never produced a record, loaded as often as it may be."""
    _two_models(site)
    site.install(_published(site)[-1])
    for _ in range(3):
        with edgeprov.open_device() as device:
            device.load_model()


def _unsigned(site: Site) -> None:
    """A second installed model that has lost its signature."""
    _installed_second(site)
    layout = site.context.state().layout
    for signature in layout.referrers(_published(site)[-1].manifest.digest):
        layout.remove_manifest(signature.digest)


def no_sockets(folder: str, names: list[str]) -> list[str]:
    """For copytree: what is neither file nor folder stays behind."""
    return [name for name in names if not os.path.isfile(f"{folder}/{name}") and not os.path.isdir(f"{folder}/{name}")]


def read_length(path: Any) -> int:
    """Where the frames of an open segment end."""
    segment = read_segment(path)
    for _ in segment.frames():
        pass
    return segment.valid_bytes


# -- commands -----------------------------------------------------------------------------------


def identity(site: Site, acknowledge: Acknowledge) -> None:
    site.install_identity()
    acknowledge("identity")


def install(site: Site, acknowledge: Acknowledge) -> None:
    for published in _published(site)[-1:]:
        site.install(published)
        acknowledge(f"active {published.manifest.digest}")


def check_boot(site: Site, acknowledge: Acknowledge) -> None:
    for verdict in boot_check(site.context):
        assert verdict.error is None, verdict.error
    acknowledge("checked")


def record(site: Site, acknowledge: Acknowledge) -> None:
    _infer(site, acknowledge, 3)


def label(site: Site, acknowledge: Acknowledge) -> None:
    _label(site, acknowledge)


def seal_all(site: Site, acknowledge: Acknowledge) -> None:
    for sealed in seal(site.context):
        acknowledge(f"kit {sealed.entry.digest}")


def upload_all(site: Site, acknowledge: Acknowledge) -> None:
    done = upload(site.context)
    if done.error is not None:
        raise done.error
    for entry in done.sent:
        acknowledge(f"sent {entry.digest}")


def export_all(site: Site, acknowledge: Acknowledge) -> None:
    for entry in export(site.context, site.root / "stick").entries:
        acknowledge(f"exported {entry.digest}")


def remove(site: Site, acknowledge: Acknowledge) -> None:
    """Remove the model that nothing uses."""
    state = site.context.state()
    active = state.active("default")
    published = _published(site)[-1]
    if active is None or active.model == published.manifest.digest:
        return
    try:
        remove_model(site.context, published.manifest.digest)
    except EdgeprovError:
        if state.layout.has_manifest(published.manifest.digest):
            raise
    acknowledge("removed")


def _installed_second(site: Site) -> None:
    _two_models(site)
    install_model(site.context, _published(site)[-1].reference)


def _published(site: Site) -> list[Published]:
    found = []
    for ref, entry in sorted(site.layout.refs().items()):
        if ref.startswith("models/wdbc:"):
            manifest = site.layout.load_manifest(entry.digest)
            found.append(Published(manifest, f"oci:{site.registry}//models/wdbc@{entry.digest}", None))  # type: ignore[arg-type]
    return found


def _infer(site: Site, acknowledge: Acknowledge, count: int) -> None:
    with edgeprov.open_device() as device:
        model = device.load_model()
        for row in ROWS[:count]:
            result = model.run(row.reshape(1, 30), quantise=True)
            acknowledge(row_name(result.record.n, result.outputs[0].tobytes()))


def _label(site: Site, acknowledge: Acknowledge) -> None:
    for n in (1, 2):
        add_labels(site.context.state(), "default", [(n, n == 1)], source="test")
        acknowledge(f"label {n}")


def first_start(site: Site, acknowledge: Acknowledge) -> None:
    from edgeprov.device.identity import install_certificates

    check_boot(site, acknowledge)
    site.request_enrollment()
    install_certificates(site.context, (site.root / "identity.json").read_bytes())
    acknowledge("identity")
    _infer(site, acknowledge, 1)


def challenge(site: Site, acknowledge: Acknowledge) -> None:
    answer = attest(site.context, "00" * 16)
    assert answer
    acknowledge("attested")


def receipt(site: Site, acknowledge: Acknowledge) -> None:
    from edgeprov.fleet.trust.signers import sign_statement
    from edgeprov.formats.receipt import Receipt, encode_receipt

    digests = tuple(entry.digest for _, entry in sorted(Layout.open(site.root / "stick").refs().items()))
    statement = Receipt(device=site.unit.urn, registry="r", at="2026-03-01T00:00:00Z", digests=digests)
    freed = install_receipt(site.context, sign_statement(site.world.importer, encode_receipt(statement)))
    for entry in freed.entries:
        acknowledge(f"sent {entry.digest}")


def recover_and_record(site: Site, acknowledge: Acknowledge) -> None:
    for line in (site.root / "told").read_text().splitlines():
        acknowledge(line)
    _infer(site, acknowledge, 2)


def seal_damaged(site: Site, acknowledge: Acknowledge) -> None:
    for line in (site.root / "told").read_text().splitlines():
        acknowledge(line)
    seal_all(site, acknowledge)


def return_by_itself(site: Site, acknowledge: Acknowledge) -> None:
    new = _published(site)[-1].manifest.digest
    with edgeprov.open_device() as device:
        for _ in range(5):
            try:
                digest = device.load_model().digest
            except ModelNotReady:
                continue
            if digest != new:
                acknowledge(f"active {digest}")
                return
            device.close()
            device = edgeprov.open_device()
    raise AssertionError("the model on trial stayed")


def refuse(site: Site, acknowledge: Acknowledge) -> None:
    before = site.context.state().active("default")
    assert before is not None
    try:
        activate(site.context, _published(site)[-1].manifest.digest, "default")
    except VerificationError:
        acknowledge(f"active {before.model}")
    else:
        raise AssertionError("a model without signature was activated")


# -- the socket ---------------------------------------------------------------------------------

HELLO = ["hello", {"v": 1, "outputs": [{"name": "StatefulPartitionedCall_1:0", "shape": [1, 1], "dtype": "int8"}]}]
HELLO_BIG = [
    "hello",
    {"v": 1, "outputs": [{"name": "StatefulPartitionedCall_1:0", "shape": [8192, 1], "dtype": "int8"}]},
]


def _big(number: int) -> list[Any]:
    return ["record", 1000, [bytes([number % 251]) * 8192]]


def _converse(site: Site, acknowledge: Acknowledge, requests: list[Any]) -> None:
    """A client of the real socket server, which runs in this thread as it does in its process.

    Raises:
        EdgeprovError: The class that the server's first error answer names.
    """
    path = site.root / "record.sock"
    failed: list[EdgeprovError] = []

    def client() -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(60)
                while True:
                    try:
                        at_path(path, connection.connect)
                        break
                    except (FileNotFoundError, ConnectionRefusedError):
                        continue
                feeder = Feeder(max_bytes=1 << 20, what="answers")
                for request in requests:
                    connection.sendall(pack(request))
                    answers: list[Any] = []
                    while not answers:
                        answers = list(feeder.feed(connection.recv(1 << 16)))
                    if answers[0][0] == "error":
                        failed.append(_named(answers[0][1]))
                        return
                    if answers[0][0] == "recorded":
                        acknowledge(row_name(answers[0][1], request[2][0]))
                    elif answers[0][0] == "labelled":
                        acknowledge(f"label {answers[0][1]}")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=client)
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, [])
    thread.start()
    try:
        serve_socket(site.context, "default", path)
    finally:
        thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if failed:
        raise failed[0]


def _named(answer: dict[str, Any]) -> EdgeprovError:
    import edgeprov.errors

    error: EdgeprovError = getattr(edgeprov.errors, answer["error"])(answer["message"])
    return error


def record_by_socket(site: Site, acknowledge: Acknowledge) -> None:
    rows = [["record", 1000, [bytes([n])]] for n in (3, 5, 7)]
    _converse(site, acknowledge, [HELLO, *rows, ["label", 1, 1, "lab"], ["sync"]])


def record_when_full(site: Site, acknowledge: Acknowledge) -> None:
    _converse(site, acknowledge, [HELLO_BIG, _big(100), _big(101)])


COMMANDS = (
    Command("identity create and install", _bare, identity, bare=True),
    Command("model install and activate", _identity, install),
    Command("model switch", _two_models, install),
    Command("boot-check", _second_boot, check_boot),
    Command("record", _model, record, again=False),
    Command(
        "record after reboot",
        _second_boot,
        lambda site, tell: (check_boot(site, tell), record(site, tell))[0],
        again=False,
    ),
    Command("label", _records, label, again=False),
    Command("seal", _records, seal_all),
    Command("seal of several kits", _records, seal_all, settings=SEVERAL),
    Command("seal in a later boot", _second_boot, lambda site, tell: (check_boot(site, tell), seal_all(site, tell))[0]),
    Command("recovery of a seal before its head", _half_sealed, seal_all),
    Command("recovery of a seal after its head", _almost_sealed, seal_all),
    Command("upload", _sealed, upload_all),
    Command("export", _sealed, export_all),
    Command("model remove", _installed_second, remove),
    Command("first start", _baked, first_start, again=False, bare=True),
    Command("record by socket", _model, record_by_socket, again=False),
    Command("record when the spool is full", _brimful, record_when_full, again=False, settings=BRIM, may_discard=True),
    Command("recovery of a killed recorder", _killed, recover_and_record, again=False),
    Command("seal of a damaged segment", _damaged, seal_damaged),
    Command("receipt install", _kept, receipt, settings=KEEP),
    Command("attest", _sealed, challenge, least=0),
    Command("return to the previous model", _trial, return_by_itself),
    Command("refused activation", _unsigned, refuse, least=0),
)
