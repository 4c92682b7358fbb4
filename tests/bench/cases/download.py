# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Download of a model from a real registry: whole processes beside `oras pull` and `skopeo copy` of the same artifact."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from pathlib import Path

from tests.bench.harness import Figure, Usage, figure, main, missing, ratios, run_process, spread, tool

GROUP = "download"
MB = 1_000_000
ROUNDS = 5


def fetch(host: str, digest: str, size: int, folder: Path) -> None:
    """What `edgeprov model install` does with each layer: hash while streaming, sync, rename."""
    from edgeprov.formats.descriptor import Descriptor
    from edgeprov.formats.digest import parse_digest
    from edgeprov.registry.download import download
    from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
    from edgeprov.registry.retry import Pace
    from edgeprov.store.layout import Layout

    layer = Descriptor(media_type="application/x-model", digest=parse_digest(digest), size=size)
    layout = Layout.create(folder)
    with layout.batch(), layout.resume_blob(layer) as partial:
        download(OrasRegistry(host, settings=RegistrySettings(plain_http=True)), "models/big", layer, partial, Pace())


def measure(args: argparse.Namespace) -> list[Figure]:
    from tests.support.registries import docker_registry

    oras, skopeo = tool("oras"), tool("skopeo")
    if oras is None or tool("docker-registry") is None:
        return [missing(GROUP, "a model, to oras pull", "x", "info", None, "oras or docker-registry is not installed")]
    size = (1000 if args.full else 100) * MB
    source = args.work / "model.bin"
    hasher = hashlib.sha256()
    with source.open("wb") as stream:  # in pieces: a child's peak memory counts what its parent had
        for _ in range(size // MB):
            piece = os.urandom(MB)
            hasher.update(piece)
            stream.write(piece)
    digest = f"sha256:{hasher.hexdigest()}"
    usage: dict[str, list[Usage]] = {"ours": [], "oras": [], "skopeo": []}
    with docker_registry(args.work / "registry") as host:
        name = f"{host}/models/big:x"
        # oras keeps the path as a title, and refuses to pull an absolute one.
        push = 'cd "$1" && exec "$2" push --plain-http --no-tty "$3" model.bin:application/x-model'
        run_process(["sh", "-c", push, "push", args.work, oras, name])
        source.unlink()
        for _ in range(ROUNDS + 1):
            target = args.work / "target"
            commands: dict[str, list[str | os.PathLike[str]]] = {
                "ours": [sys.executable, "-m", "tests.bench.cases.download", host, digest, str(size), target],
                "oras": [oras, "pull", "--plain-http", "--no-tty", "-o", target, name],
            }
            if skopeo:
                copy = [skopeo, "--insecure-policy", "copy", "-q", "--src-tls-verify=false"]
                commands["skopeo"] = [*copy, f"docker://{name}", f"oci:{target}"]
            for word, command in commands.items():
                shutil.rmtree(target, ignore_errors=True)
                usage[word].append(run_process(command))
            shutil.rmtree(target, ignore_errors=True)
    ours = usage["ours"][1:]
    words = f"{size // MB} MB, {spread([item.wall_s for item in ours])[0]:.2f} s"
    note = (
        "Both hash while streaming; ours also syncs the file to the disk before it counts as stored. What is left is that sync, and the "
        "start of Python with its HTTP library."
    )
    figures = [
        figure(
            GROUP,
            "memory",
            [item.rss_mb for item in ours],
            "MB",
            ours=words,
            note="The HTTP library and its TLS, and one chunk of 64 KiB. Nothing grows with the model.",
        )
    ]
    for word, title in (("oras", "oras pull"), ("skopeo", "skopeo copy")):
        peer = usage[word][1:]
        if not peer:
            figures.append(missing(GROUP, f"a model, to {title}", "x", "info", None, f"{word} is not installed"))
            continue
        speed = ratios([item.wall_s for item in ours], [item.wall_s for item in peer])
        cpu = ratios([item.cpu_s for item in ours], [item.cpu_s for item in peer])
        theirs = f"{word} {spread([item.wall_s for item in peer])[0]:.2f} s"
        figures.append(figure(GROUP, f"time for a model, to {title}", speed, "x", ours=theirs, note=note))
        figures.append(figure(GROUP, f"CPU for a model, to {title}", cpu, "x", note=note))
    return figures


if __name__ == "__main__":
    if len(sys.argv) == 5 and not sys.argv[1].startswith("-"):
        fetch(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main(measure)
