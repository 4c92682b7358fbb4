# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device as far as an upload sees it: an outbox full of kits, and a clock that nobody waits for."""

from __future__ import annotations

import random
from pathlib import Path

from edgeprov.config import load_config
from edgeprov.device.context import Context
from edgeprov.formats.descriptor import describe
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import EMPTY_BLOB, KIT_ARTIFACT, SIGSTORE_BUNDLE
from edgeprov.registry.base import Registry
from edgeprov.store.state import OutboxEntry, State

REPO = "hospital/data/0123/202611"


class Sender:
    """A device as far as an upload sees it: configuration, layout, outbox. What its kits hold is of no concern."""

    def __init__(self, root: Path, serial: str = "unit-1") -> None:
        self.root = root
        self.serial = serial
        self.kits: list[tuple[OutboxEntry, list[Manifest]]] = []
        root.mkdir(parents=True, exist_ok=True)

    def context(
        self, host: str, settings: str = "", registry: str = "plain_http = true", template: str = "data/0123/202611"
    ) -> Context:
        file = self.root / "edgeprov.toml"
        name = host if host.startswith("oci:") else f"{host}/hospital"
        file.write_text(
            f'[device]\nserial = "{self.serial}"\nstate_dir = "state"\nrun_dir = "run"\n'
            f'[registry]\nname = "{name}"\ndata_template = "{template}"\n{registry}\n[upload]\n{settings}\n'
        )
        (self.root / "run").mkdir(exist_ok=True)
        return Context(load_config({"EDGEPROV_CONFIG": str(file)}))

    @property
    def state(self) -> State:
        return State.open(self.root / "state", write=True)

    def fill(self, parts: int, part_bytes: int, *, seed: int = 0, signatures: int = 2) -> OutboxEntry:
        """One more kit of random parts, with referrers as a signed kit has."""
        state = self.state
        seq = len(self.kits) + 1
        content = random.Random(f"{seed} {self.serial} {seq}")
        layout = state.layout
        with layout.batch():
            layout.save_blob(EMPTY_BLOB, EMPTY_CONFIG.media_type)
            layers = [layout.save_blob(content.randbytes(part_bytes), "application/x-part") for _ in range(parts)]
            kit = build_manifest(
                config=EMPTY_CONFIG, layers=layers, artifact_type=KIT_ARTIFACT, annotations={"seq": str(seq)}
            )
            layout.save_manifest(kit)
            referrers = []
            for number in range(signatures):
                blob = layout.save_blob(f"{kit.digest} {number}".encode() * 10, SIGSTORE_BUNDLE)
                referrer = build_manifest(
                    config=EMPTY_CONFIG, layers=[blob], artifact_type=SIGSTORE_BUNDLE, subject=kit.descriptor
                )
                layout.save_manifest(referrer)
                referrers.append(referrer)
        entry = OutboxEntry(
            kind="kit",
            digest=kit.digest,
            seq=seq,
            repo="data/0123/202611",
            tag=f"{self.serial}.{seq:010d}.{kit.digest.hex[:16]}",
            state="signed",
            info={"signatures": [str(item.digest) for item in referrers]},
        )
        state.save_outbox(entry)
        self.kits.append((entry, [kit, *referrers]))
        return entry

    def verify_arrived(self, registry: Registry) -> None:
        """Every byte of every kit is in the registry, and every signature is found from its kit."""
        for entry, manifests in self.kits:
            assert registry.fetch_manifest(REPO, entry.tag).raw == manifests[0].raw
            for manifest in manifests:
                assert registry.fetch_manifest(REPO, manifest.digest).raw == manifest.raw
                for blob in manifest.blobs:
                    assert describe(b"".join(registry.fetch_blob(REPO, blob)), "").digest == blob.digest
            found = {item.digest for item in registry.list_referrers(REPO, entry.digest)}
            assert found == {item.digest for item in manifests[1:]}

    def verify_nothing_lost(self) -> None:
        """What is not confirmed is whole on the device."""
        state = self.state
        waiting = {entry.digest for entry in state.outbox()}
        for entry, manifests in self.kits:
            if entry.digest in waiting:
                for manifest in manifests:
                    for blob in state.layout.load_manifest(manifest.digest).blobs:
                        state.layout.verify_blob(blob)


class Hours:
    """A clock that nobody waits for: sleeping only moves it on."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._random = random.Random(seed)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def chance(self) -> float:
        return self._random.random()
