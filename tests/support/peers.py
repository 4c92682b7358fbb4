# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Real tools and registries for interop tests. A missing one is a failure when CI=true, else a skip with its reason."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.digest import Digest
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, encode_index, parse_manifest
from edgeprov.formats.mediatypes import EMPTY_BLOB, OCI_INDEX, OCI_MANIFEST
from edgeprov.verify.signature import SignatureArtifact

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeprov" / "peers" / "bin"


def peer(name: str) -> str:
    """Path of a tool that tests/peers/install built, or of one in PATH."""
    built = CACHE / name
    found = str(built) if built.exists() else shutil.which(name)
    if found is None:
        reason = f"{name} is missing: run tests/peers/install {name}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def run(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, ok: bool | None = True
) -> str:
    """Run a tool and return what it printed; ``ok`` says whether it must succeed (None: either)."""
    done = subprocess.run(
        list(command),
        cwd=cwd,
        env=dict(os.environ, **(env or {})),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    text = done.stdout + done.stderr
    assert ok is None or (done.returncode == 0) is ok, f"{' '.join(command)}\nexit {done.returncode}\n{text}"
    return text


class RegistryClient:
    """A push in 40 lines of standard library, so that these tests depend on nothing that they test."""

    def __init__(self, host: str, *, referrers: bool) -> None:
        self.host = host
        self.referrers = referrers
        self.listed: dict[tuple[str, Digest], list[Descriptor]] = {}

    def request(
        self, method: str, path: str, data: bytes | None = None, kind: str = "application/octet-stream"
    ) -> tuple[int, dict[str, str]]:
        url = path if path.startswith("http") else f"http://{self.host}{path}"
        request = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, {key.lower(): value for key, value in answer.headers.items()}

    def push_blob(self, repo: str, data: bytes) -> None:
        digest = describe(data, "").digest
        _, headers = self.request("POST", f"/v2/{repo}/blobs/uploads/", b"")
        place = headers["location"]
        self.request("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", data)

    def push_manifest(self, repo: str, raw: bytes, reference: str, kind: str = OCI_MANIFEST) -> None:
        self.request("PUT", f"/v2/{repo}/manifests/{reference}", raw, kind)

    def push(self, repo: str, manifest: Manifest, blobs: Mapping[Digest, bytes]) -> str:
        """An artifact with all its blobs; returns the reference by digest."""
        for descriptor in manifest.blobs:
            self.push_blob(repo, EMPTY_BLOB if descriptor.digest == EMPTY_CONFIG.digest else blobs[descriptor.digest])
        self.push_manifest(repo, manifest.raw, str(manifest.digest))
        return f"{self.host}/{repo}@{manifest.digest}"

    def attach(self, repo: str, signature: SignatureArtifact) -> None:
        """A signature as referrer; without the referrers API the fallback tag is kept, as a device does for its own kit."""
        self.push(repo, signature.manifest, {describe(signature.blob, "").digest: signature.blob})
        subject = signature.manifest.subject
        if subject is None or self.referrers:
            return
        entry = Descriptor(
            media_type=OCI_MANIFEST,
            digest=signature.manifest.digest,
            size=len(signature.manifest.raw),
            artifact_type=signature.manifest.artifact_type or signature.manifest.config.media_type,
        )
        entries = self.listed.setdefault((repo, subject.digest), [])
        entries.append(entry)
        self.push_manifest(repo, encode_index(entries), f"sha256-{subject.digest.hex}", OCI_INDEX)

    def get(self, path: str) -> bytes:
        """The body of an answer."""
        accept = {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}, application/vnd.docker.distribution.manifest.v2+json"}
        request = urllib.request.Request(f"http://{self.host}{path}", headers=accept)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read()

    def signatures(self, repo: str, digest: Digest) -> list[SignatureArtifact]:
        """All that real tools left for an artifact: referrers, fallback tag, and the .sig tag of cosign v2."""
        found: list[SignatureArtifact] = []
        listing = f"/v2/{repo}/referrers/{digest}" if self.referrers else f"/v2/{repo}/manifests/sha256-{digest.hex}"
        references = []
        with suppress(urllib.error.HTTPError):
            references += [item["digest"] for item in json.loads(self.get(listing))["manifests"]]
        references.append(f"sha256-{digest.hex}.sig")
        for reference in references:
            with suppress(urllib.error.HTTPError):
                manifest = parse_manifest(self.get(f"/v2/{repo}/manifests/{reference}"))
                found += [
                    SignatureArtifact(manifest=manifest, blob=self.get(f"/v2/{repo}/blobs/{layer.digest}"))
                    for layer in manifest.layers
                ]
        return found


@contextmanager
def referrers_registry() -> Iterator[RegistryClient]:
    """In memory, with the referrers API."""
    with subprocess.Popen(
        [peer("referrers-registry")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield RegistryClient(process.stdout.readline().strip(), referrers=True)
        finally:
            process.stdin.close()
            process.wait(timeout=10)


@contextmanager
def distribution_registry(folder: Path) -> Iterator[RegistryClient]:
    """distribution v3, which has no referrers API."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "config.yml"
    config.write_text(
        json.dumps(
            {
                "version": "0.1",
                "log": {"level": "error"},
                "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
                "http": {"addr": f"127.0.0.1:{port}"},
            }
        )
    )
    log = (folder / "log.txt").open("w")
    with log, subprocess.Popen([peer("registry"), "serve", str(config)], stdout=log, stderr=log) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/v2/", process)
            yield RegistryClient(f"127.0.0.1:{port}", referrers=False)
        finally:
            process.terminate()
            process.wait(timeout=10)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    import time

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)  # the server tells nobody when it listens
    pytest.fail(f"the registry at {url} did not start")
