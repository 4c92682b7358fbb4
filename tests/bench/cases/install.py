# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The whole `edgeprov model install` from a registry beside `oras copy` and `skopeo copy` of the same model kit.

Starts programs only, so that their peak memory is their own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from tests.bench.cases.transfer import fresh_device
from tests.bench.harness import Figure, Usage, figure, main, milli, missing, ratios, run_process, spread, tool

GROUP = "install"
MB = 1_000_000
ROUNDS = 4
PEERS = {"oras": "oras copy", "skopeo": "skopeo copy"}
EDGEPROV = Path(sys.executable).with_name("edgeprov")
NOTE = (
    "The peers hash what they receive and stop there. Ours also judges the publisher's signature and the floor, syncs to the disk, runs the "
    "model once in a child (its interpreter starts for that) and measures it into the TPM; what is left is the starts of Python."
)


def publish(folder: Path, size: int, host: str) -> None:
    """A device, and a signed model kit of ``size`` bytes in a registry; prints its reference."""
    from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
    from tests.bench.fleetgen.device import Artifact
    from tests.bench.fleetgen.sink import RegistrySink
    from tests.support.site import MODELS, Site

    folder.mkdir(parents=True)
    site = Site(folder)
    # Bytes behind the flatbuffer belong to no tensor: the interpreter takes the file, whatever its size.
    weights = (MODELS / "mobilenetv2_224_untrained_int8.tflite").read_bytes()
    published = site.publish(weights + os.urandom(size - len(weights)), name="big")
    manifest = published.manifest
    blobs = {item.digest: site.layout.load_blob(item, max_bytes=2**31) for item in manifest.blobs}
    signatures = (published.signature,)
    artifact = Artifact(day=0, repo="models/big", tag="x", manifest=manifest, blobs=blobs, signatures=signatures)
    RegistrySink(OrasRegistry(host, settings=RegistrySettings(plain_http=True))).put(artifact)
    shutil.rmtree(site.registry)
    print(f"{host}/models/big@{manifest.digest}")


def install(base: Path, host: str, reference: str) -> Usage:
    """By a device that has never had a model, whose TPM runs already."""
    env = fresh_device(base, "fresh", host, "models")
    try:
        run_process([EDGEPROV, "identity", "create"], env=env)
        return run_process([EDGEPROV, "model", "install", reference], env=env)
    finally:
        run_process([EDGEPROV, "simulator", "stop"], env=env, check=False)


def measure(args: argparse.Namespace) -> list[Figure]:
    from tests.support.peers import referrers_registry

    for name in ("referrers-registry", "swtpm"):
        if tool(name) is None:
            return [
                missing(GROUP, f"a model, to {title}", "x", "info", None, f"{name} is not installed")
                for title in PEERS.values()
            ]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a device has byte code; the turn that does not count writes it
    size = (1000 if args.full else 100) * MB
    base, target = args.work / "device", args.work / "target"
    used: dict[str, list[Usage]] = {"ours": [], "oras": [], "skopeo": []}
    with referrers_registry() as server:
        words = [sys.executable, "-m", "tests.bench.cases.install", "publish", base, str(size), server.host]
        reference = run_process(words).out.split()[-1]
        commands: dict[str, list[str | os.PathLike[str]]] = {}
        if oras := tool("oras"):
            # Its pull leaves layers without a title out, which those of a ModelKit are.
            commands["oras"] = [
                oras,
                "copy",
                "--from-plain-http",
                "--no-tty",
                reference,
                "--to-oci-layout",
                f"{target}:x",
            ]
        if skopeo := tool("skopeo"):
            copy = [skopeo, "--insecure-policy", "copy", "-q", "--src-tls-verify=false"]
            commands["skopeo"] = [*copy, f"docker://{reference}", f"oci:{target}"]
        for turn in range(ROUNDS + 1):
            calls = {"ours": install(base, server.host, reference)}
            for who, command in commands.items():
                shutil.rmtree(target, ignore_errors=True)
                calls[who] = run_process(command)
            for who, usage in calls.items():
                if turn:
                    used[who].append(usage)
    ours = used["ours"]
    cpu_s = [item.cpu_s for item in ours]
    figures = [
        figure(
            GROUP, "memory", [item.rss_mb for item in ours], "MB", ours=f"{size // MB} MB: {milli(cpu_s)} CPU, {spread([i.wall_s for i in ours])[0]:.2f} s",
            note="Of the largest process: the child that gives the model to the interpreter, so the model is in memory once. It cannot be less where a model is tried before it counts.",
        )
    ]  # fmt: skip
    for who, title in PEERS.items():
        peer = used[who]
        if not peer:
            figures.append(missing(GROUP, f"a model, to {title}", "x", "info", None, f"{who} is not installed"))
            continue
        theirs = [item.cpu_s for item in peer]
        wall = ratios([item.wall_s for item in ours], [item.wall_s for item in peer])
        said = f"{who} {milli(theirs)} CPU, {spread([item.wall_s for item in peer])[0]:.2f} s"
        figures += [
            figure(
                GROUP,
                f"CPU for a model of {size // MB} MB, to {title}",
                ratios(cpu_s, theirs),
                "x",
                ours=said,
                note=NOTE,
            ),
            figure(GROUP, f"time for a model of {size // MB} MB, to {title}", wall, "x", ours=said, note=NOTE),
        ]
    return figures


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        publish(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        main(measure)
