# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A world (tests.support.world) poured into a registry, and the fleet CLI called in process."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgeprov.cli.fleet_main import main
from edgeprov.formats.datakit import kit_tag
from edgeprov.formats.devicerecord import record_tag
from edgeprov.formats.head import Head, build_head_manifest, certified_counter, head_tag
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest
from edgeprov.formats.mediatypes import EMPTY_BLOB
from edgeprov.formats.segment import device_serial
from edgeprov.registry.base import Registry
from edgeprov.registry.push_order import attach, push_signed
from edgeprov.store.layout_registry import LayoutRegistry
from edgeprov.verify.signature import SignatureArtifact
from tests.support.world import Sealed, Unit, World


@dataclass
class Run:
    code: int
    out: str
    err: str

    @property
    def items(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines() if line]

    def last(self, kind: str) -> dict:
        return [item for item in self.items if item["type"] == kind][-1]


def fleet(*argv: object) -> Run:
    """One command, as a person would type it."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(item) for item in argv])
    return Run(code, out.getvalue(), err.getvalue())


def data_repo(sealed: Sealed, month: str = "202602") -> str:
    return f"data/{sealed.kit.model.hex}/{month}"


def push_signatures(registry: LayoutRegistry, repo: str, signatures: Iterable[SignatureArtifact]) -> None:
    for item in signatures:
        attach(registry, repo, item.manifest, {item.manifest.layers[0].digest: item.blob})


def push_with_tags(
    registry: Registry, repo: str, manifest: Manifest, signatures: Iterable[SignatureArtifact], *tags: str
) -> None:
    attached = [(item.manifest, {item.manifest.layers[0].digest: item.blob}) for item in signatures]
    push_signed(registry, repo, manifest, attached, tags)


def push_kit(registry: LayoutRegistry, unit: Unit, sealed: Sealed, *, repo: str = "", tag: str = "") -> str:
    repo = repo or data_repo(sealed)
    for blob in sealed.manifest.blobs:
        registry.push_blob(repo, blob, sealed.blobs[blob.digest])
    push_with_tags(
        registry, repo, sealed.manifest, sealed.signatures, tag or kit_tag(unit.serial, sealed.kit.seq, sealed.digest)
    )
    return repo


def push_tombstone(
    registry: LayoutRegistry, unit: Unit, *, repo: str, reason: str = "crash", lost: Iterable[tuple[int, int]] = ()
) -> int:
    """A tombstone for the device's next number; returns the tombstone's own, which is the one after."""
    buried = unit.bury(reason=reason, lost=[*lost])
    registry.push_blob(repo, EMPTY_CONFIG, EMPTY_BLOB)
    registry.push_blob(repo, buried.manifest.layers[0], unit.stones[buried.digest])
    tag = kit_tag(unit.serial, buried.seq, buried.digest)
    push_with_tags(registry, repo, buried.manifest, buried.signatures, tag)
    return buried.seq


def push_device(registry: LayoutRegistry, unit: Unit) -> None:
    registry.push_blob("devices", EMPTY_CONFIG, EMPTY_BLOB)
    registry.push_blob("devices", unit.record_manifest.layers[0], unit.record_blob)
    tags = (record_tag(unit.serial, unit.record_manifest.digest), unit.serial)
    push_with_tags(registry, "devices", unit.record_manifest, unit.record_signatures, *tags)


def write_trust(world: World, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in world.policy_files.items():
        (folder / name).write_bytes(data)
    return folder


def push_head(registry: Registry, repo: str, head: Head) -> Manifest:
    """A head as a device's upload leaves it: no signature, the tag last."""
    manifest, layer = build_head_manifest(head)
    registry.push_blob(repo, manifest.layers[0], layer)
    registry.push_blob(repo, manifest.config, EMPTY_BLOB)
    tag = head_tag(device_serial(head.device), certified_counter(head), manifest.digest)
    registry.push_manifest(repo, manifest, tag=tag)
    return manifest
