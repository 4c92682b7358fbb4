# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""TPM commands without the library: what a TPM may answer, and what is no answer."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprov.errors import TpmError, TpmLockout, TpmUnavailable
from edgeprov.formats.tpmt import COUNTER_INDEX
from edgeprov.tpm.client import Client
from edgeprov.tpm.response_codes import TpmResponse, parse_response, response_code
from edgeprov.tpm.transport import SocketTransport
from tests.tpm.conftest import SimulatedDevice

GOOD_CLOCK = struct.pack(">QQIIB", 9, 1_000, 2, 3, 1)


class Script:
    """Answers commands from a list; remembers what was asked."""

    name = "script"

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []

    def send(self, command: bytes) -> None:
        self.asked.append(command)

    def receive(self, timeout_s: float) -> bytes:
        del timeout_s
        return self.answers.pop(0)

    def close(self) -> None:
        pass


def response(body: bytes, *, tag: int = 0x8001, code: int = 0, size: int | None = None) -> bytes:
    return struct.pack(">HII", tag, 10 + len(body) if size is None else size, code) + body


def answer(params: bytes, *, tail: bytes = b"\0\0\1\0\0", size: int | None = None) -> bytes:
    return response((len(params) if size is None else size).to_bytes(4, "big") + params + tail, tag=0x8002)


def client(*answers: bytes, shared: bool = True) -> tuple[Client, Script]:
    link = Script(*answers)
    return Client(link, lock_path=Path("/nonexistent"), shared=shared), link


def pcrs(selection: bytes, *digests: bytes, bank: int = 0x0B, count: int | None = None) -> bytes:
    head = struct.pack(">IIHB", 7, 1, bank, len(selection)) + selection
    return response(
        head
        + (len(digests) if count is None else count).to_bytes(4, "big")
        + b"".join(len(digest).to_bytes(2, "big") + digest for digest in digests)
    )


def test_good_answers_are_read() -> None:
    ours, _ = client(pcrs(b"\1\x40\0", b"a" * 32, b"b" * 32))
    assert ours.read_pcrs((14, 0)) == ((0, b"a" * 32), (14, b"b" * 32))
    ours, _ = client(response(GOOD_CLOCK))
    clock = ours.read_clock()
    assert (clock.clock_ms, clock.reset_count, clock.restart_count, clock.safe) == (1_000, 2, 3, True)
    ours, link = client(answer(b"\0\x08" + (5).to_bytes(8, "big")))
    assert ours.nv_read(COUNTER_INDEX, 8, b"secret") == (5).to_bytes(8, "big")
    assert link.asked == [
        struct.pack(">HII", 0x8002, 41, 0x14E)
        + struct.pack(">II", COUNTER_INDEX, COUNTER_INDEX)
        + struct.pack(">IIHBH", 15, 0x40000009, 0, 0, 6)
        + b"secret"
        + struct.pack(">HH", 8, 0)
    ]


@pytest.mark.parametrize(
    ("raw", "ask"),
    [
        (b"", Client.read_clock),
        (response(GOOD_CLOCK)[:9], Client.read_clock),
        (response(GOOD_CLOCK) + b"x", Client.read_clock),
        (response(GOOD_CLOCK + b"x"), Client.read_clock),
        (response(GOOD_CLOCK[:-1]), Client.read_clock),
        (response(GOOD_CLOCK, size=10), Client.read_clock),
        (response(GOOD_CLOCK, tag=0x8002), Client.read_clock),
        (response(bytes(5_000)), Client.read_clock),
        (pcrs(b"\0\x40\0", b"a" * 20), lambda ours: ours.read_pcr(14)),
        (pcrs(b"\0\x40\0", b"a" * 32, b"b" * 32), lambda ours: ours.read_pcr(14)),
        (pcrs(b"\1\0\0", b"a" * 32), lambda ours: ours.read_pcr(14)),
        (pcrs(b"\0\0\0"), lambda ours: ours.read_pcr(14)),
        (pcrs(b"\0\x40\0", b"a" * 32, bank=4), lambda ours: ours.read_pcr(14)),
        (pcrs(b"\0\x40\0", b"a" * 32, count=2**31), lambda ours: ours.read_pcr(14)),
        (answer(b"\0\x07" + bytes(7)), lambda ours: ours.nv_read(COUNTER_INDEX, 8, b"")),
        (answer(b"\0\x08" + bytes(8) + b"x"), lambda ours: ours.nv_read(COUNTER_INDEX, 8, b"")),
        (answer(b"\0\x08" + bytes(8), size=9), lambda ours: ours.nv_read(COUNTER_INDEX, 8, b"")),
        (answer(b"\0\x08" + bytes(8), size=2**32 - 1), lambda ours: ours.nv_read(COUNTER_INDEX, 8, b"")),
        (answer(b"\0\x08" + bytes(8), tail=b""), lambda ours: ours.nv_read(COUNTER_INDEX, 8, b"")),
        (answer(b"\0\x08" + bytes(8), tail=b"\0\1x\1\0\0"), lambda ours: ours.nv_read(COUNTER_INDEX, 8, b"")),
        (response(b"\0\x08" + bytes(8)), lambda ours: ours.nv_read(COUNTER_INDEX, 8, b"")),
        (response(b"\0\x0e" + bytes(14)), lambda ours: ours.nv_read_public(COUNTER_INDEX)),
    ],
)
def test_what_is_no_answer_is_one_clear_error(raw: bytes, ask: Callable[[Client], object]) -> None:
    ours, _ = client(raw)
    with pytest.raises(TpmError) as caught:
        ask(ours)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("code", [0x922, 0x902, 0x908, 0x920, 0x923, 0xB0922])
def test_a_busy_tpm_is_asked_again(code: int) -> None:
    ours, link = client(response(b"", code=code), response(b"", code=code), response(GOOD_CLOCK))
    assert ours.read_clock().clock_ms == 1_000
    assert len(link.asked) == 3
    assert len(set(link.asked)) == 1


def test_a_lockout_is_not_asked_again() -> None:
    ours, link = client(response(b"", code=0x921))
    with pytest.raises(TpmLockout):
        ours.read_clock()
    assert len(link.asked) == 1


def test_a_tpm_that_nobody_started_is_started_once() -> None:
    ours, link = client(response(b"", code=0x100), response(b""), response(GOOD_CLOCK), shared=False)
    assert ours.read_clock().clock_ms == 1_000
    assert [command[6:10].hex() for command in link.asked] == ["00000181", "00000144", "00000181"]
    ours, link = client(response(b"", code=0x100), shared=True)
    with pytest.raises(TpmUnavailable, match="0x100"):
        ours.read_clock()
    assert len(link.asked) == 1, "behind a resource manager the kernel starts it"


def test_codes_are_read_without_their_numbers() -> None:
    assert [response_code(rc) for rc in (0x18B, 0x9A2, 0x2D5, 0x921, 0xB0922, 0x70001)] == [
        0x08B, 0x0A2, 0x095, 0x921, 0x922, -1,
    ]  # fmt: skip
    with pytest.raises(TpmResponse) as caught:
        parse_response(response(b"", code=0x18B), sessions=True)
    assert caught.value.code == 0x08B


def test_it_agrees_with_the_library_on_a_real_tpm(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        tpm.increment_counter()
        esys = tpm._connection.esys
        ours = Client(SocketTransport(device.folder / "simulator.sock"), lock_path=device.lock, shared=False)
        public = esys.nv_read_public(esys.tr_from_tpmpublic(COUNTER_INDEX))[0]
        assert ours.nv_read_public(COUNTER_INDEX) == bytes(public.marshal())[2:]
        assert ours.nv_read_public(0x01800177) is None
        ours.pcr_event(14, b"event")
        answer = esys.pcr_read("sha256:14")
        assert ours.read_pcr(14) == bytes(answer[2].marshal())[6:]
        auth = tpm._keys.secret.derive("counter")
        assert ours.nv_read(COUNTER_INDEX, 8, auth) == tpm.read_counter().to_bytes(8, "big")
        assert ours.nv_read(COUNTER_INDEX, 8, b"wrong", (0x0A2,)) is None
        ours.close()


def test_a_forked_child_is_refused_and_the_parent_goes_on(device: SimulatedDevice) -> None:
    with device.open() as tpm:
        tpm.create_identity()
        child = os.fork()
        if child == 0:
            refused = 0
            for use in (tpm.clock, tpm.read_pcr, tpm.read_counter, lambda: tpm.sign_digest(bytes(32))):
                try:
                    use()
                except TpmError as error:
                    refused += "before a fork" in error.message
            os._exit(0 if refused == 4 else 1)
        assert os.waitpid(child, 0)[1] == 0
        tpm.sign_digest(bytes(32))
