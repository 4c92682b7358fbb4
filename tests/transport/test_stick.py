# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The technician's stick: out, in at the desk, and back with a receipt that frees the kits."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprov.device.export import export, read_back
from edgeprov.device.install_receipt import install_receipt
from edgeprov.errors import (
    FormatError,
    SignatureInvalid,
    SignerUntrusted,
    StoreCorrupt,
    StoreError,
    StoreFull,
    SubjectMismatch,
)
from edgeprov.fleet.trust.signers import sign_statement
from edgeprov.formats.receipt import Receipt, encode_receipt
from edgeprov.store import atomic
from edgeprov.store.layout import Layout
from tests.support import pki
from tests.support.sender import Sender
from tests.support.world import World


class Desk:
    """A device with trust, and the vendor's desk that takes its sticks."""

    def __init__(self, sender: Sender, root: Path) -> None:
        self.sender = sender
        self.world = World()
        self.stick = root / "stick"
        trust = root / "trust.d"
        trust.mkdir()
        for name, data in self.world.policy_files.items():
            (trust / name).write_bytes(data)
        self.context = sender.context(f"oci:{root}/elsewhere", registry="")
        self.context = dataclasses.replace(
            self.context,
            config=dataclasses.replace(
                self.context.config, trust=dataclasses.replace(self.context.config.trust, dir=trust)
            ),
        )

    def receipt(self, device: str = "urn:edgeprov:device:unit-1", signer: object = None, kits: int = 99) -> bytes:
        digests = tuple(entry.digest for entry, _ in self.sender.kits[:kits])
        receipt = Receipt(device=device, registry="registry.example/acme", at="2026-03-01T00:00:00Z", digests=digests)
        return sign_statement(signer or self.world.importer, encode_receipt(receipt))  # type: ignore[arg-type]


@pytest.fixture
def desk(sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    sender.fill(3, 20_000)
    sender.fill(2, 20_000)
    desk = Desk(sender, tmp_path)
    monkeypatch.setattr("edgeprov.device.context.Context.now", lambda _self: pki.NOW)
    return desk


def test_a_receipt_frees_what_it_names_and_nothing_else(desk: Desk) -> None:
    export(desk.context, desk.stick, verify=True)
    blobs = desk.sender.state.layout.blob_path(desk.sender.kits[0][0].digest).parent
    before = len(list(blobs.iterdir()))
    freed = install_receipt(desk.context, desk.receipt(kits=1))
    assert [entry.seq for entry in freed.entries] == [1]
    assert freed.freed_bytes > 60_000
    assert [entry.seq for entry in desk.sender.state.outbox()] == [2]
    assert len(list(blobs.iterdir())) < before
    again = install_receipt(desk.context, desk.receipt(kits=1))
    assert (again.entries, again.unknown) == ((), 1)


def test_a_receipt_that_nobody_may_give_frees_nothing(desk: Desk) -> None:
    stranger = pki.enroller_certificate(pki.root("Somebody else"))
    publisher = desk.world.publisher
    good = desk.receipt()
    changed = good.replace(good[200:210], b"AAAAAAAAAA", 1)
    refused: list[tuple[bytes, type[Exception] | tuple[type[Exception], ...]]] = [
        (desk.receipt(signer=stranger), SignerUntrusted),
        (desk.receipt(signer=publisher), SignerUntrusted),
        (changed, (SignatureInvalid, FormatError, SignerUntrusted)),
        (b"{}", FormatError),
        (b"", FormatError),
    ]
    for raw, error in refused:
        with pytest.raises(error):
            install_receipt(desk.context, raw)
        assert len(desk.sender.state.outbox()) == 2


def test_a_receipt_for_another_device_frees_nothing(desk: Desk) -> None:
    with pytest.raises(SubjectMismatch):
        install_receipt(desk.context, desk.receipt(device="urn:edgeprov:device:unit-2"))
    assert len(desk.sender.state.outbox()) == 2


def failing_after(count: int, number: int) -> Callable[..., None]:
    """The system's answer once the stick is gone or full."""
    left = count

    def hook(operation: str, path: str, *_: object) -> None:
        nonlocal left
        if "/stick/" in path and operation in ("write", "create", "rename", "sync"):
            left -= 1
            if left < 0:
                raise OSError(number, os.strerror(number))

    return hook


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 5, 12, 20, 30])
def test_a_stick_that_is_pulled_is_a_clear_error_and_the_next_export_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    with monkeypatch.context() as pulled:
        pulled.setattr(atomic, "hook", failing_after(count, errno.EIO))
        with pytest.raises(StoreError, match="stick") as caught:
            export(desk.context, desk.stick)
        assert "again" in caught.value.advice
    assert {entry.state for entry in desk.sender.state.outbox()} == {"signed"}  # nothing counts as exported
    desk.sender.verify_nothing_lost()
    result = export(desk.context, desk.stick, verify=True)
    assert len(result.entries) == 2
    assert {entry.state for entry in desk.sender.state.outbox()} == {"exported"}


@pytest.mark.parametrize("call", ["edgeprov.device.export.free_bytes", "os.posix_fadvise"])
def test_a_stick_that_is_gone_between_two_writes_is_the_same_error(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def gone(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(call, gone)
    with pytest.raises(StoreError, match="stick") as caught:
        export(desk.context, desk.stick, verify=True)
    assert "Put the stick in again" in caught.value.advice


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EROFS, "write protection"), (errno.EACCES, "may write"), (errno.ENOTDIR, "Name a folder")],
)
def test_a_stick_that_cannot_be_written_says_what_to_do(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    monkeypatch.setattr(atomic, "hook", failing_after(0, number))
    with pytest.raises(StoreError) as caught:
        export(desk.context, desk.stick)
    assert advice in caught.value.advice
    assert caught.value.message.count(str(desk.stick)) == 1


def test_a_stick_with_something_else_on_it_is_named(desk: Desk) -> None:
    (desk.stick / "blobs/sha256").mkdir(parents=True)
    (desk.stick / "index.json").write_text("junk")
    with pytest.raises(FormatError, match=str(desk.stick)) as caught:
        export(desk.context, desk.stick)
    assert "another folder" in caught.value.advice


def test_a_stick_that_fills_up_keeps_whole_kits_only(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(atomic, "hook", failing_after(15, errno.ENOSPC))
        with pytest.raises(StoreFull):
            export(desk.context, desk.stick)
    layout = Layout.open(desk.stick)
    for descriptor in layout.manifests():
        for blob in layout.load_manifest(descriptor.digest).blobs:
            layout.verify_blob(blob)
    assert len(export(desk.context, desk.stick, verify=True).entries) == 2


def test_a_stick_that_is_too_small_is_refused_before_anything_is_written(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeprov.device.export.free_bytes", lambda _path: 50_000)
    with pytest.raises(StoreFull, match="nothing was written"):
        export(desk.context, desk.stick)
    assert Layout.open(desk.stick).manifests() == ()


def test_verify_finds_a_stick_that_lies(desk: Desk) -> None:
    result = export(desk.context, desk.stick)
    read_back(desk.stick, result.entries)
    kit = desk.sender.kits[0][1][0]
    victim = Layout.open(desk.stick).blob_path(kit.layers[1].digest)
    data = bytearray(victim.read_bytes())
    data[100] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="digest"):
        read_back(desk.stick, result.entries)
    victim.unlink()
    with pytest.raises(StoreCorrupt):
        read_back(desk.stick, result.entries)


def test_a_kit_that_is_damaged_on_the_device_does_not_hold_up_the_others(desk: Desk) -> None:
    kit = desk.sender.kits[0][1][0]
    victim = desk.sender.state.layout.blob_path(kit.layers[0].digest)
    victim.chmod(0o644)
    victim.write_bytes(b"x" * 20_000)
    result = export(desk.context, desk.stick, verify=True)
    assert [entry.seq for entry in result.entries] == [2]
    assert [entry.seq for entry, _ in result.faults] == [1]


def test_a_folder_on_the_devices_own_disk_is_pointed_out(desk: Desk) -> None:
    assert export(desk.context, desk.stick).same_disk
