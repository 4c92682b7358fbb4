# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A whole device on disk: configuration, trust, a published real model, state; its TPM in software.

The TPM is SoftTpm, which answers in microseconds and whose evidence the real verifier judges; the
same flows run on swtpm in tests/device/test_swtpm.py.
"""

from __future__ import annotations

import copy
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edgeprov.config import load_config
from edgeprov.device.context import Context
from edgeprov.formats.b64 import b64
from edgeprov.formats.datakit import parse_datakit, parse_evidence, parse_part
from edgeprov.formats.digest import Digest
from edgeprov.formats.kitfile import kitfile_entries
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.modelkit import build_modelkit, layer_media_type
from edgeprov.formats.tarball import iter_tar
from edgeprov.store.compress import decompress
from edgeprov.store.layout import Layout
from edgeprov.verify.evidence import Verdict, verify_kit
from edgeprov.verify.kit_evidence import evidence_of_kit, evidence_of_tombstone
from edgeprov.verify.signature import SignatureArtifact
from tests.support import pki
from tests.support.kits import encode_tar
from tests.support.softtpm import SoftTpm
from tests.support.world import World

MODELS = Path(__file__).parents[1] / "data" / "models"
WDBC = Path(__file__).parents[2] / "hil" / "model" / "kit" / "model" / "wdbc_int8.tflite"
CASES = Path(__file__).parents[2] / "hil" / "model" / "test_cases.npz"
DIGITS = MODELS / "digits_int8.tflite"


class DeviceTpm(SoftTpm):
    """SoftTpm with the rest of what the device flows ask of edgeprov.tpm.device.Tpm."""

    def __init__(self, seed: str, **options: Any) -> None:
        super().__init__(seed, **options)
        self.floors: dict[str, int] = {}
        self.fails: Exception | None = None
        self.calls: list[str] = []

    @contextmanager
    def group(self) -> Iterator[None]:
        yield

    def clock(self) -> SimpleNamespace:
        return SimpleNamespace(
            clock_ms=self.clock_ms, reset_count=self.reset_count, restart_count=self.restart_count, safe=self.safe
        )

    def floor(self, slot: str) -> int:
        return self.floors.get(slot, 0)

    def raise_floor(self, slot: str, to: int) -> None:
        self.floors[slot] = max(self.floors.get(slot, 0), to)

    def floors_on_disk(self) -> tuple[str, ...]:
        return ()

    def verify_keys(self) -> tuple[str, ...]:
        return ()

    def close_platform(self) -> None:
        pass

    def weaknesses(self) -> tuple[str, ...]:
        return ()

    def create_identity(self, protection: object = None) -> SimpleNamespace:
        del protection
        return self.identity()

    def ek_certificate(self) -> None:
        return None

    def ek_public(self) -> bytes:
        return b""

    def factory_key(self, _qualifying: bytes) -> None:
        return None

    def identity(self) -> SimpleNamespace:
        return SimpleNamespace(ak_public=self.ak_public, sk_public=self.sk_public, counter_value=self.counter)


@dataclass
class Published:
    """A model kit in the publisher's registry folder."""

    manifest: Manifest
    reference: str
    signature: SignatureArtifact


class Site:
    """One device with its publisher. ``registry`` is an OCI layout folder that takes both directions."""

    def __init__(self, root: Path, *, serial: str = "unit-1", settings: str = "", slots: str = '["default"]') -> None:
        self.root = root
        self.serial = serial
        self.world = World()
        self.tpm = DeviceTpm(serial)
        self.boot_id = "4b1f5c2a-0000-4000-8000-000000000001"
        self.unit = self.world.enroll(serial, tpm=self.tpm, boot=False)
        self.registry = root / "registry"
        self.layout = Layout.create(self.registry)
        self.trust = root / "trust.d"
        self.trust.mkdir()
        for name, data in self.world.policy_files.items():
            (self.trust / name).write_bytes(data)
        self.config_file = root / "edgeprov.toml"
        self.config_file.write_text(
            f"""
[device]
serial = "{serial}"
state_dir = "state"
run_dir = "run"
models_dir = "baked"
slots = {slots}
[registry]
name = "oci:{self.registry}"
[trust]
dir = "trust.d"
{settings}
"""
        )

    def clone(self, root: Path) -> Site:
        """The same device in another folder: a fresh start of a test in milliseconds."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        site = copy.copy(self)
        site.root, site.registry, site.trust = root, root / "registry", root / "trust.d"
        site.layout = Layout.open(site.registry)
        site.config_file = root / "edgeprov.toml"
        site.config_file.write_text(self.config_file.read_text().replace(str(self.root), str(root)))
        site.tpm = copy.copy(self.tpm)
        site.tpm.pcrs, site.tpm.calls, site.tpm.floors = dict(self.tpm.pcrs), [], dict(self.tpm.floors)
        return site

    @property
    def context(self) -> Context:
        return Context(load_config({"EDGEPROV_CONFIG": str(self.config_file)}))

    @contextmanager
    def open_tpm(self, _context: Context) -> Iterator[DeviceTpm]:
        """Takes the place of Context.tpm and Context.boot_tpm."""
        if self.tpm.fails is not None:
            raise self.tpm.fails
        yield self.tpm

    def install_identity(self) -> None:
        from edgeprov.device.identity import install_certificates

        self.request_enrollment()
        install_certificates(self.context, self.identity_document())

    def request_enrollment(self) -> None:
        """Keys and a request: the enrollment is that of ``unit``'s record, as long as no number was taken."""
        from edgeprov.device.enrollment_request import create_request
        from edgeprov.device.identity import create_identity

        create_identity(self.context)
        create_request(self.context, self.unit.record.nonce)

    def identity_document(self) -> bytes:
        """What the factory's enrollment hands to the device."""
        document = {"type": "edgeprov.identity", "v": 1, "device": self.unit.urn}
        document["enrollment"] = self.unit.record.enrollment.hex()
        document["assurance"] = self.unit.record.assurance
        document["certificates"] = [b64(item) for item in self.unit.record.certificates]
        return json.dumps(document).encode()

    def publish(
        self,
        weights: bytes | None = None,
        *,
        name: str = "wdbc",
        version: str = "1.0.0",
        parameters: dict[str, Any] | None = None,
        layer: bytes | None = None,
        sign: bool = True,
        signer: Any = None,
        kitfile: dict[str, Any] | None = None,
    ) -> Published:
        """Pack, sign and push a model kit as a publisher does; ``layer`` replaces the model layer's bytes."""
        weights = WDBC.read_bytes() if weights is None else weights
        path = f"model/{name}.tflite"
        kitfile = kitfile or {
            "manifestVersion": "1.0.0",
            "package": {"name": name, "version": version},
            "model": {"name": name, "path": path, "framework": "tflite", "parameters": parameters or {}},
        }
        data = encode_tar({path: weights}) if layer is None else layer
        descriptor = self.layout.save_blob(data, layer_media_type("model"))
        manifest, config = build_modelkit(
            kitfile, [(entry, descriptor, descriptor.digest) for entry in kitfile_entries(kitfile)], created=None
        )
        self.layout.save_blob(config, manifest.config.media_type)
        repo = f"models/{name}"
        self.layout.save_manifest(manifest, ref=f"{repo}:{version}")
        signature = self.world.sign_model(manifest, signer)
        if sign:
            self.layout.save_blob(signature.blob, signature.manifest.layers[0].media_type)
            self.layout.save_blob(b"{}", signature.manifest.config.media_type)
            self.layout.save_manifest(signature.manifest, ref=f"{repo}@{signature.manifest.digest}")
        return Published(manifest, f"oci:{self.registry}//{repo}@{manifest.digest}", signature)

    def install(self, published: Published | None = None, slot: str = "default") -> Digest:
        """Install and activate; returns the model's digest."""
        from edgeprov.device.boot import activate
        from edgeprov.device.install import install_model

        published = published or self.publish()
        install_model(self.context, published.reference)
        activate(self.context, published.manifest.digest, slot)
        return published.manifest.digest

    def reboot(self) -> None:
        """The TPM's PCRs and this boot's folder end; the state stays."""
        self.tpm.reboot()
        shutil.rmtree(self.root / "run", ignore_errors=True)
        (self.root / "run").mkdir()
        self.boot_id = str(uuid.uuid4())

    def verify(self, layout: Layout, digest: Digest) -> tuple[Verdict, list[Any]]:
        """All ten steps over a stored kit or tombstone; returns the verdict and the decoded parts."""
        manifest = layout.load_manifest(digest)
        signatures = []
        for descriptor in layout.referrers(digest):
            referrer = layout.load_manifest(descriptor.digest)
            for blob in referrer.layers:
                signatures.append(SignatureArtifact(manifest=referrer, blob=layout.load_blob(blob, max_bytes=2**20)))
        device = self.unit.verified()
        config = layout.load_blob(manifest.config, max_bytes=2**20)
        if manifest.artifact_type and "tombstone" in manifest.artifact_type:
            from edgeprov.formats.datakit import parse_tombstone

            tombstone = parse_tombstone(manifest, layout.load_blob(manifest.layers[0], max_bytes=2**20))
            return verify_kit(evidence_of_tombstone(tombstone, signatures), device, self.world.policy, pki.NOW), [
                tombstone
            ]
        kit = parse_datakit(manifest, config)
        parts: list[Any] = []
        for part in kit.parts:
            layer = layout.load_blob(part.layer, max_bytes=2**26)
            plain = decompress(_only_file(layer), 2**28)
            if part.kind == "evidence":
                evidence_part = parse_evidence(plain)
            else:
                parts.append(parse_part(plain))
        self.last_evidence = evidence_part
        return verify_kit(evidence_of_kit(kit, signatures, evidence_part), device, self.world.policy, pki.NOW), parts


def _only_file(layer: bytes) -> bytes:
    import io

    stream = io.BytesIO(layer)
    files = [b"".join(chunks) for member, chunks in iter_tar(stream.read) if not member.is_dir]
    assert len(files) == 1
    return files[0]
