# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Verification beside other people's verifiers, whole processes each: cosign on the same kits and model, model-signing on the same weights."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from edgeprov.store.layout import Layout
from tests.bench.fleetgen.device import Artifact
from tests.bench.fleetgen.sink import RegistrySink
from tests.bench.harness import FLEET_PYTHON, Figure, alternate, figure, main, milli, missing, ratios, run_process, tool
from tests.bench.real_device import RealDevice
from tests.support.peers import referrers_registry
from tests.support.world import World, save_exported_trust

GROUP = "verification"
DAYS = 60
FLEET = FLEET_PYTHON.with_name("edgeprov-fleet")
NO_LOG = ["--insecure-ignore-sct", "--insecure-ignore-tlog", "--certificate-oidc-issuer-regexp", ".*"]
KITS = "CPU for one more kit in a registry, cosign verify to ours"
MODEL = "CPU for a model of 4 MB, cosign verify to ours"
WEIGHTS = "CPU for a model of 100 MB, model-signing verify to ours"


def cosign_words(cosign: str, trust: Path, role: str, identity: str) -> list[str]:
    roots = trust / "cosign" / f"{role}.trusted_root.json"
    return [cosign, "verify", "--trusted-root", str(roots), "--certificate-identity-regexp", identity, *NO_LOG]


def offline(folder: Path) -> dict[str, str]:
    """cosign must not look for a public service: nothing here needs one."""
    return {"HOME": str(folder), "TUF_ROOT": str(folder / "tuf"), "HTTPS_PROXY": "http://127.0.0.1:9"}


class Shelf:
    """A registry with the kits of one device, and both verifiers on it."""

    def __init__(self, work: Path, host: str, days: int, cosign: str) -> None:
        made = work / f"fleet-{days}"
        self._host, self._index, self._policy = host, work / f"index-{days}", made / "trust.d"
        self._env = offline(work)
        sizes = ["--devices", "1", "--models", "1", "--no-faults", "--days", str(days), "--to", host]
        run_process([FLEET_PYTHON, "-m", "tests.bench.fleetgen", made, *sizes])
        self.ours("--evidence-only")
        rows = run_process([FLEET, "query", "--fleet", self._index, "--limit", "1000", "--json"]).out.splitlines()
        self.kits = [f"{host}/{item['repo']}@{item['digest']}" for item in map(json.loads, rows) if "digest" in item]
        self._words = cosign_words(cosign, work / "exported", "devices", "^urn:edgeprov:device:")

    def ours(self, *level: str) -> float:
        """CPU seconds of sync into an empty index, and of verify."""
        shutil.rmtree(self._index, ignore_errors=True)
        first = run_process([FLEET, "sync", self._host, "--plain-http", "--fleet", self._index])
        words = ["verify", "--fleet", self._index, "--trust", self._policy, "--workers", "1", *level]
        return first.cpu_s + run_process([FLEET, *words]).cpu_s

    def cosign(self) -> float:
        """CPU seconds of one cosign that is given all kits."""
        used = run_process([*self._words, *self.kits], env=self._env)
        assert used.out.count("Verification for ") == len(self.kits)
        return used.cpu_s


def kits(args: argparse.Namespace, cosign: str) -> list[Figure]:
    world = World()
    save_exported_trust(world, args.work / "exported")
    with referrers_registry() as one, referrers_registry() as many:
        few, all_ = Shelf(args.work, one.host, 1, cosign), Shelf(args.work, many.host, DAYS, cosign)
        samples = alternate(
            3,
            {
                "ours, few": lambda: few.ours("--evidence-only"),
                "cosign, few": few.cosign,
                "ours": lambda: all_.ours("--evidence-only"),
                "cosign": all_.cosign,
                "every byte": all_.ours,
            },
        )
    more = len(all_.kits) - len(few.kits)
    each = {
        who: [(a - b) / more for a, b in zip(samples[who], samples[f"{who}, few"], strict=True)]
        for who in ("ours", "cosign")
    }
    return [
        figure(
            GROUP, KITS, ratios(each["cosign"], each["ours"]), "x",
            ours=f"from the {len(few.kits)}st to the {len(all_.kits)}th: cosign {milli(each['cosign'])}, ours {milli(each['ours'])}",
            note="Both fetch manifests and signatures over HTTP and judge chain and signature of each; cosign (Go) does no more, ours judges quote, "
            "counter, event log and series too, and fills an index. Ours is bound by HTTP in Python (sync), then by four ECDSA verifications.",
        ),
        figure(
            GROUP, f"CPU for {len(all_.kits)} kits, start of the programs included, cosign verify to ours", ratios(samples["cosign"], samples["ours"]), "x",
            ours=f"cosign {milli(samples['cosign'])}, ours {milli(samples['ours'])}, every byte read as well {milli(samples['every byte'])}",
            note="Two programs of ours (sync, verify) start Python and its libraries, which a compiled cosign has not to do. An audit starts once for "
            "a whole fleet, so the line above is the one that grows.",
        ),
    ]  # fmt: skip


def model(args: argparse.Namespace, cosign: str) -> Figure:
    env = offline(args.work)
    trust = save_exported_trust(World(), args.work / "exported-model")
    with RealDevice(args.work / "model") as device, referrers_registry() as server:
        reference = push_model(device.folder / "registry", server.host)
        words = cosign_words(cosign, trust, "publishers", "^https://acme.example/models")
        samples = alternate(
            5,
            {
                "ours": lambda: device.boot_check().cpu_s,
                "cosign": lambda: run_process([*words, reference], env=env).cpu_s,
            },
        )
    return figure(
        GROUP, MODEL, ratios(samples["cosign"], samples["ours"]), "x",
        ours=f"cosign {milli(samples['cosign'])}, ours {milli(samples['ours'])}",
        note="cosign judges the signature on the manifest that it fetches from loopback; our boot check judges the same signature, the floor and every "
        "byte of the weights, from the disk, and measures them into the TPM. Ours is bound by the TPM library (the boot check's own lines), cosign by its registry.",
    )  # fmt: skip


def push_model(published: Path, host: str) -> str:
    """The device's model and its signature, from its publisher's folder into a registry."""
    layout = Layout.open(published)
    (digest,) = [item.digest for name, item in layout.refs().items() if name.startswith("models/") and "@" not in name]
    manifest = layout.load_manifest(digest)
    blobs = {item.digest: layout.load_blob(item, max_bytes=2**30) for item in manifest.blobs}
    artifact = Artifact(
        day=0,
        repo="models/model",
        tag="x",
        manifest=manifest,
        blobs=blobs,
        signatures=(World().sign_model(manifest),),
    )
    RegistrySink(OrasRegistry(host, settings=RegistrySettings(plain_http=True))).put(artifact)
    return f"{host}/models/model@{manifest.digest}"


def weights(args: argparse.Namespace, model_signing: str) -> Figure:
    """The same bytes, once in a model kit that is installed, once as a signed file."""
    with RealDevice(args.work / "weights", model_bytes=100_000_000) as device:
        return beside_model_signing(args.work, device, model_signing)


def beside_model_signing(work: Path, device: RealDevice, model_signing: str) -> Figure:
    folder = work / "signed"
    folder.mkdir()
    shutil.copy(device.model, folder)
    world = World()
    publisher = world.publisher
    raw = publisher.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (work / "key.pem").write_bytes(raw)
    (work / "leaf.pem").write_bytes(publisher.pem)
    (work / "root.pem").write_bytes(world.publisher_root.pem)
    shared = ["--signature", work / "model.sig", "--certificate_chain", work / "root.pem", folder]
    keys = ["--private_key", work / "key.pem", "--signing_certificate", work / "leaf.pem"]
    signed = run_process([model_signing, "sign", "certificate", *keys, *shared], check=False)
    if signed.code:
        return missing(GROUP, WEIGHTS, "x", ">=", 1.0, f"model-signing cannot sign: {signed.out.strip()[-120:]}")
    samples = alternate(
        5,
        {
            "ours": lambda: device.boot_check().cpu_s,
            "peer": lambda: run_process([model_signing, "verify", "certificate", *shared]).cpu_s,
        },
    )
    return figure(
        GROUP, WEIGHTS, ratios(samples["peer"], samples["ours"]), "x", ">=", 1.0,
        ours=f"model-signing {milli(samples['peer'])}, ours {milli(samples['ours'])}",
        note="Both hash every byte and judge one chain and one signature in Python; ours is the boot check with its TPM. Bound by SHA-256 and by imports; "
        "the TPM library is what is left.",
    )  # fmt: skip


def measure(args: argparse.Namespace) -> list[Figure]:
    figures: list[Figure] = []
    cosign, model_signing = tool("cosign"), tool("model_signing")
    if cosign and tool("referrers-registry"):
        figures += [*kits(args, cosign), model(args, cosign)]
    else:
        why = "cosign or referrers-registry is not installed: run tests/peers/install"
        figures += [missing(GROUP, name, "x", "info", None, why) for name in (KITS, MODEL)]
    if model_signing:
        figures.append(weights(args, model_signing))
    else:
        why = "model_signing is not installed: pip install model-signing pyopenssl, in an environment of its own"
        figures.append(missing(GROUP, WEIGHTS, "x", ">=", 1.0, why))
    return figures


if __name__ == "__main__":
    main(measure)
