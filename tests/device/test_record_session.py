# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""`edgeprov record`: applications in other languages, over a socket and over stdin."""

from __future__ import annotations

import array
import errno
import hashlib
import io
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgeprov
from edgeprov._dataclass import replace
from edgeprov.device.boot import boot_check
from edgeprov.device.record_server import serve_socket, serve_stream
from edgeprov.device.record_session import Session
from edgeprov.device.rotation import at_path
from edgeprov.device.seal import seal
from edgeprov.errors import EdgeprovError, ModelNotReady
from edgeprov.formats.packing import Feeder, pack
from tests.support.kits import blocks_of
from tests.support.site import WDBC, Site

TENSORS = {
    "inputs": [{"name": "serving_default_keras_tensor:0", "shape": [1, 30], "dtype": "int8"}],
    "outputs": [{"name": "StatefulPartitionedCall_1:0", "shape": [1, 1], "dtype": "int8"}],
}
HELLO = ["hello", {"v": 1, **TENSORS, "runtime": {"name": "tflite-c", "version": "2.14.0"}}]
ROW = ["record", 12_000, [b"\x7f"]]


def stream(site: Site, *messages: Any, tail: bytes = b"", code: int = 0) -> list[Any]:
    """What the application reads when it writes these messages to stdin, and ``code`` in the end."""
    ended = 0
    read, write = os.pipe()
    os.write(write, b"".join(pack(message) for message in messages) + tail)
    os.close(write)
    answers = io.BytesIO()
    with os.fdopen(read, "rb") as requests:
        try:
            serve_stream(site.context, "default", requests, answers)
        except EdgeprovError as error:
            ended = error.exit_code
    assert ended == code
    return list(Feeder(max_bytes=1 << 20, what="answers").feed(answers.getvalue()))


def test_records_from_stdin_verify(ready: Site) -> None:
    answers = stream(
        ready, HELLO, ROW, [*ROW, [bytes(30)], {"threshold": 0.5}], ["label", 2, "benign", "lab"], ["sync"]
    )
    assert answers[0][0] == "ready"
    assert answers[1:] == [["recorded", 1], ["recorded", 2], ["labelled", 2], ["synced", 3]]
    (sealed,) = seal(ready.context)
    assert sealed.contents is not None
    assert (sealed.contents.records, sealed.contents.labels) == (2, 1)
    _, parts = ready.verify(ready.context.state().layout, sealed.entry.digest)
    (block,) = blocks_of(parts)
    assert block.header.runtime.name == "tflite-c"
    assert block.record(1).params == {"threshold": 0.5}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("record", 4),
        (["sing"], 4),
        (["record", 1, [b"ab"]], 52),
        (["record", 1, []], 52),
        (["record", -1, [b"a"]], 4),
        (["record", True, [b"a"]], 4),
        (["record", 1, ["a"]], 52),
        (["record", 1, [b"a"], [b"short"]], 52),
        (["label", 77, 1, "lab"], 2),
        (["hello", {}], 2),
    ],
)
def test_bad_request_is_answered_and_nothing_is_lost(ready: Site, message: Any, code: int) -> None:
    answers = stream(ready, HELLO, ROW, message, ROW, code=code)
    assert [answer[0] for answer in answers] == ["ready", "recorded", "error", "recorded"]
    assert answers[2][1]["code"] == code
    assert answers[2][1]["advice"]
    assert answers[3] == ["recorded", 2]  # a refused record uses no number


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        ({"v": 2, **TENSORS}, 4),
        ({"v": 1, "outputs": []}, 4),
        ({"v": 1, "outputs": [{"name": "p"}]}, 4),
        ({"v": 1, "outputs": "p"}, 4),
        ({"v": 1, **TENSORS, "model": "sha256:" + "0" * 64}, 2),
        ({"v": 1, **TENSORS, "slot": "../x"}, 4),
        ({"v": 1, **TENSORS, "runtime": {"threads": "many"}}, 4),
    ],
)
def test_bad_hello(ready: Site, hello: dict[str, Any], code: int) -> None:
    answers = stream(ready, ["hello", hello], ROW, code=code)
    assert [answer[0] for answer in answers] == ["error", "error"]


@pytest.mark.parametrize(
    ("key", "lie", "told"),
    [
        ("outputs", {"name": "benign"}, "StatefulPartitionedCall_1:0"),
        ("outputs", {"dtype": "uint8"}, "'StatefulPartitionedCall_1:0' of the model has dtype int8, hello says uint8"),
        ("outputs", {"shape": [1, 2]}, "'StatefulPartitionedCall_1:0' of the model has shape [-1, 1]"),
        ("outputs", {"shape": [1]}, "'StatefulPartitionedCall_1:0' of the model has shape [-1, 1]"),
        ("outputs", {"shape": [1, -1]}, "'StatefulPartitionedCall_1:0' of the model has shape [-1, 1]"),
        ("outputs", {"scale": [0.5], "zero_point": [-128]}, "'StatefulPartitionedCall_1:0' of the model has quant"),
        ("inputs", {"name": "x"}, "serving_default_keras_tensor:0"),
        ("inputs", {"shape": [1, 31]}, "'serving_default_keras_tensor:0' of the model has shape [-1, 30]"),
        ("inputs", {"dtype": "float32"}, "'serving_default_keras_tensor:0' of the model has dtype int8"),
        ("outputs", None, "the model has 1 output tensors, hello names 2"),
    ],
)
def test_a_client_that_lies_about_tensors_is_refused_and_may_tell_the_truth(
    ready: Site, key: str, lie: dict[str, Any] | None, told: str
) -> None:
    named = TENSORS[key] * 2 if lie is None else [{**TENSORS[key][0], **lie}]
    lying = ["hello", {**HELLO[1], key: named}]
    refused, early, label, accepted, recorded, again = stream(
        ready, lying, ROW, ["label", 1, 1, "lab"], HELLO, ROW, ["label", 1, 1, "lab"], code=52
    )
    assert refused[1]["error"] == "TensorMismatch"
    assert told in refused[1]["message"]
    assert early[1]["message"] == "hello comes first"
    assert label[1]["message"] == "slot default has no record 1"
    assert [accepted[0], recorded, again] == ["ready", ["recorded", 1], ["labelled", 1]]


def test_the_model_tells_its_quantization_where_the_client_does_not(ready: Site) -> None:
    stream(ready, HELLO, ROW)
    (sealed,) = seal(ready.context)
    _, parts = ready.verify(ready.context.state().layout, sealed.entry.digest)
    header = blocks_of(parts)[0].header
    assert (header.outputs[0].scale, header.outputs[0].zero_point) == ((1 / 256,), (-128,))


@pytest.mark.parametrize("tail", [b"\xc1\xc1", pack(ROW)[:-1], b"\x91"])
def test_garbage_or_half_a_request_ends_the_stream_after_what_was_recorded(ready: Site, tail: bytes) -> None:
    assert stream(ready, HELLO, ROW, tail=tail, code=4)[1:] == [["recorded", 1]]
    assert ready.context.state().spool("default").recover().next == 2


def test_nothing_is_recorded_without_the_boot_check(ready: Site) -> None:
    ready.reboot()
    (error, _) = stream(ready, HELLO, ROW, code=55)
    assert error[1]["code"] == 55


def test_a_load_counts_once_and_only_after_the_boot_check_of_the_model(ready: Site) -> None:
    """A model on trial goes back after three loads without a record: a load that was refused is none."""
    state = ready.context.state()

    def loads() -> int:
        active = state.active("default")
        assert active is not None
        return int(active.info["loads"])

    active = state.active("default")
    assert active is not None
    state.set_active(replace(active, info={**active.info, "trial": True, "loads": 0}))
    ready.reboot()
    for request in (["model", "default"], HELLO):
        assert stream(ready, request, code=55)[0][1]["error"] == "ModelNotReady"
    with pytest.raises(ModelNotReady), edgeprov.open_device() as device:
        device.load_model()
    assert loads() == 0
    boot_check(ready.context)
    assert [answer[0] for answer in stream(ready, ["model", "default"], HELLO)] == ["model", "ready"]
    assert loads() == 1
    assert stream(ready, HELLO)[0][0] == "ready"
    assert loads() == 2


class Client:
    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        at_path(path, self.socket.connect)
        self.feeder = Feeder(max_bytes=1 << 20, what="answers")
        self.pending: list[Any] = []
        self.fds: list[int] = []

    def ask(self, *messages: Any) -> list[Any]:
        self.socket.sendall(b"".join(pack(message) for message in messages))
        while len(self.pending) < len(messages):
            data, control, _, _ = self.socket.recvmsg(1 << 16, socket.CMSG_SPACE(16))
            assert data, "closed"
            for _, _, raw in control:
                fds = array.array("i")
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
                self.fds.extend(fds)
            self.pending.extend(self.feeder.feed(data))
        answers, self.pending = self.pending[: len(messages)], self.pending[len(messages) :]
        return answers

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def server(ready: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The socket server in a thread; signals are a process's business and tested below."""
    path = ready.root / "record.sock"
    states: list[str] = []
    listening = threading.Event()
    woken: list[socket.socket] = []

    def notified(state: str) -> None:
        states.append(state)
        if state.startswith("READY"):
            listening.set()

    monkeypatch.setattr("edgeprov.device.record_server.notify", notified)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(
        signal, "set_wakeup_fd", lambda fd: woken.append(socket.socket(fileno=os.dup(fd))) if fd >= 0 else None
    )
    thread = threading.Thread(target=serve_socket, args=(ready.context, "default", path))
    thread.start()
    assert listening.wait(20)
    yield path
    woken[0].send(b"\0")
    thread.join(20)
    woken[0].close()
    assert not thread.is_alive()
    assert states[-1] == "STOPPING=1"
    assert not path.exists()


def test_socket_hands_out_the_verified_weights(ready: Site, server: Path) -> None:
    client = Client(server)
    hello = ["hello", {**HELLO[1], "weights": True}]
    ((kind, details),) = client.ask(hello)
    assert kind == "ready"
    (fd,) = client.fds
    with os.fdopen(fd, "rb") as weights:
        data = weights.read()
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_TRUNC)
    assert hashlib.sha256(data).digest() == hashlib.sha256(WDBC.read_bytes()).digest()
    assert details["model"] == str(ready.context.state().active("default").model)
    answers = client.ask(*[ROW] * 500)
    assert answers == [["recorded", n] for n in range(1, 501)]
    client.close()


def test_two_applications_record_in_one_slot(ready: Site, server: Path) -> None:
    first, second = Client(server), Client(server)
    _, (_, one), (_, two) = first.ask(HELLO, ROW, ROW)
    _, (_, other), (_, next_other) = second.ask(HELLO, ROW, ROW)
    assert (two, next_other) == (one + 1, other + 1)
    assert other > two
    assert first.ask(ROW, ["label", one, 1, "test"], ["label", next_other, 1, "test"])[0] == ["recorded", two + 1]
    first.close()
    second.close()
    (sealed,) = seal(ready.context)
    assert sealed.contents is not None
    assert (sealed.contents.records, sealed.contents.labels) == (5, 2)
    ready.verify(ready.context.state().layout, sealed.entry.digest)


def test_seal_while_an_application_records(ready: Site, server: Path) -> None:
    client = Client(server)
    client.ask(HELLO, ROW, ROW)
    (sealed,) = seal(ready.context)
    assert sealed.contents is not None
    assert (sealed.contents.first, sealed.contents.last) == (1, 2)
    assert client.ask(ROW) == [["recorded", 3]]
    client.close()
    (sealed,) = seal(ready.context)
    assert sealed.contents is not None
    assert (sealed.contents.first, sealed.contents.last) == (3, 3)
    ready.verify(ready.context.state().layout, sealed.entry.digest)


def test_what_an_application_sent_before_it_died_is_recorded(ready: Site, server: Path) -> None:
    client = Client(server)
    client.ask(HELLO, ROW)
    client.socket.sendall(pack(ROW) + pack(ROW)[:-1])
    client.close()
    again = Client(server)
    while (answer := again.ask(HELLO)[0])[0] == "error":  # the dead session's thread gives the slot up
        assert answer[1]["code"] == 32
    assert again.ask(ROW) == [["recorded", 3]]
    again.close()


def test_session_answers_before_hello(ready: Site) -> None:
    session = Session(ready.context, ready.context.state(), "default")
    assert session.handle(ROW)[1]["code"] == 2
    assert session.handle(["sync"])[1]["code"] == 2
    session.close()


@pytest.mark.parametrize("compiler", [["gcc", "-std=c11"], ["g++", "-x", "c++", "-std=c++20"]], ids=["c", "c++"])
def test_application_in_c(ready: Site, server: Path, tmp_path: Path, compiler: list[str]) -> None:
    """Sixty lines of C (and of C++) without a library: weights from the sealed memory file, three records."""
    source = Path(__file__).with_name("record_client.c")
    program = tmp_path / "record_client"
    subprocess.run([*compiler, "-D_GNU_SOURCE", "-Wall", "-Werror", "-o", program, source], check=True)
    # sun_path has 108 bytes, and a test's folder is deep.
    child = subprocess.run([program, server.name], cwd=server.parent, capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    assert child.stdout == f"1\n2\n3\n{WDBC.stat().st_size} bytes of model\n"
    (sealed,) = seal(ready.context)
    assert sealed.contents is not None
    assert sealed.contents.records == 3
    ready.verify(ready.context.state().layout, sealed.entry.digest)


@pytest.mark.slow
def test_service_tells_systemd_and_stops_cleanly(ready: Site, tmp_path: Path) -> None:
    """READY, WATCHDOG and STOPPING reach the manager's socket; SIGTERM ends the process with 0."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        at_path(tmp_path / "notify", manager.bind)
        manager.settimeout(60)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        child = subprocess.Popen(
            [sys.executable, "-m", "edgeprov.cli.device_main", "record", "--socket", str(tmp_path / "r.sock")],
            env=environment,
        )
        assert manager.recv(100).startswith(b"READY=1")
        assert manager.recv(100) == b"WATCHDOG=1"
        child.terminate()
        while manager.recv(100) != b"STOPPING=1":
            pass
        assert child.wait(60) == 0
    assert not (tmp_path / "r.sock").exists()


def lowest_free(pid: int) -> int:
    """The number of the next descriptor that a process gets."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return min(set(range(len(used) + 1)) - used)


def test_a_service_without_descriptors_goes_on(ready: Site, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    child = subprocess.Popen(
        [sys.executable, "-m", "edgeprov.cli.device_main", "record", "--socket", str(path)], stderr=subprocess.PIPE
    )
    assert child.stderr is not None
    try:
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        client = Client(path)
        client.ask(["sing"])
        client.close()
        while len(os.listdir(f"/proc/{child.pid}/task")) > 1:
            time.sleep(0.02)  # the thread of this connection ends
        _, hard = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
        free = lowest_free(child.pid)
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (free, hard))
        client = Client(path)
        assert b"a connection was not accepted: Too many open files" in child.stderr.readline()
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (free + 1, hard))
        ((kind, error),) = client.ask(["sing"])  # no descriptor for its process
        assert (kind, error["code"]) == ("error", 34)
        client.close()
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (free + 8, hard))
        client = Client(path)
        ((kind, error),) = client.ask(["sing"])
        assert (kind, error["code"]) == ("error", 4)
        client.close()
    finally:
        child.terminate()
        assert child.wait(60) == 0
        child.stderr.close()


def test_an_application_without_descriptors_is_told(server: Path) -> None:
    program = """
import os, resource, sys
from pathlib import Path
from edgeprov.device.service_client import ServiceClient
from edgeprov.errors import StoreError

client = ServiceClient(Path(sys.argv[1]))
os.close(free := os.dup(0))
resource.setrlimit(resource.RLIMIT_NOFILE, (free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    client.request_file(["model", "default"], "model")
except StoreError as error:
    print(error.message)
try:
    ServiceClient(Path(sys.argv[1]))
except StoreError as error:
    print(error.message)
"""
    child = subprocess.run([sys.executable, "-c", program, server], capture_output=True, text=True, timeout=60)
    assert child.stderr == ""
    first, second = child.stdout.splitlines()
    assert first == "a descriptor of the device service could not be received"
    assert second.endswith("the device service cannot be reached: Too many open files")


@pytest.mark.parametrize("verb", ["model", "hello"])
def test_weights_that_cannot_be_handed_over_are_an_error(
    ready: Site, server: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    request = ["model", "default"] if verb == "model" else ["hello", {**HELLO[1], "weights": True}]

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    client = Client(server)
    with monkeypatch.context() as patched:
        patched.setattr(os, "memfd_create", refuse)
        ((kind, error),) = client.ask(request)
    assert (kind, error["code"], error["message"]) == ("error", 34, "weights in memory: Too many open files")
    blob = max((ready.context.state_dir / "layout/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(bytes(blob.stat().st_size))
    if verb == "model":
        ((kind, error),) = client.ask(request)
        assert (kind, error["code"]) == ("error", 11)
    assert not client.fds
    client.close()
