# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT
"""Put model kits into the image's read-only layout, each verified as a device would verify it.

Runs in the build's native Python with edgeprov itself, so that build and boot cannot disagree::

    python3 -m oeprov.bake --trust DIR --at EPOCH --out DIR default=KITS@sha256:...

Manifest and blobs against the pinned digest, every archive walked, the publisher's signature against
the image's own trust anchors; then a fresh layout with nothing in it but these kits and their
signatures. The last line of output is a JSON object for the deploy folder and the SBOM.
A failure is one line, starting with the name of the variable to change, and exit status 1.
"""

import argparse
import datetime as dt
import hashlib
import json
import os
import shutil
import sys
import types
from pathlib import Path

# Model kits are tar and tar+gzip: zstd is for data kits, and wrynose has no zstandard for the build host.
try:
    import zstandard  # noqa: F401
except ImportError:
    sys.modules["zstandard"] = types.ModuleType("zstandard")

from edgeprov.device.model_store import READ_BYTES, load_model, verify_archives, verify_blobs
from edgeprov.device.stored_signatures import load_model_signatures, save_model_signatures
from edgeprov.errors import ConfigError, EdgeprovError, NotStored, PolicyDenied, SignatureInvalid, SignerUntrusted
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import A_VERITY
from edgeprov.store.layout import Layout
from edgeprov.store.verity import VerityHasher
from edgeprov.verify.policy import parse_policy
from edgeprov.verify.signature import verify_model_signature


class BakeError(Exception):
    """What stops the build: the message names the variable."""


def main(argv=None):
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="oeprov.bake")
    parser.add_argument("--trust", type=Path, required=True)
    parser.add_argument("--at", type=int, required=True, help="time at which certificates are judged, s since 1970")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("models", nargs="+", metavar="SLOT=FOLDER@DIGEST")
    options = parser.parse_args(argv)
    requests = []
    for text in options.models:
        slot, _, rest = text.partition("=")
        folder, _, digest = rest.rpartition("@")
        requests.append((slot, Path(folder), digest))
    try:
        report = bake(requests, options.trust, dt.datetime.fromtimestamp(options.at, dt.timezone.utc), options.out)
    except BakeError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(report, sort_keys=True))
    return 0


def bake(requests, trust, at, out):
    """Verify the requested kits and write them to a new layout.

    Args:
        requests: (slot, folder below which an OCI layout lies, digest) each.
        trust: The trust folder that goes into the image.
        at: Time at which certificates are judged.
        out: The layout to make; what is there is removed.

    Returns:
        What was baked, per slot.

    Raises:
        BakeError: A kit is not what it should be.
    """
    policy = _policy(trust)
    shutil.rmtree(out, ignore_errors=True)
    target = Layout.create(out)
    several = len(requests) > 1
    report = {}
    with target.batch():
        for slot, folder, digest in requests:
            flag = f"[{slot}]" if several else ""
            report[slot] = _bake_one(target, slot, folder, digest, policy, at, flag)
    _tidy(out)
    return {"models": report, "trust": _digests(trust)}


def _policy(trust):
    try:
        policy = parse_policy({path.name: path.read_bytes() for path in sorted(trust.iterdir()) if path.is_file()})
    except (OSError, ConfigError) as error:
        raise BakeError(f"PROVENANCE_TRUST_DIR: {error}") from error
    if not policy.publisher_anchors and not policy.publisher_keys:
        raise BakeError("PROVENANCE_TRUST_DIR: holds no publisher anchor, so no model can be verified")
    return policy


def _bake_one(target, slot, folder, text, policy, at, flag):
    try:
        digest = parse_digest(text)
    except EdgeprovError as error:
        raise BakeError(f"PROVENANCE_MODEL_DIGEST{flag}: {error.message}") from error
    try:
        source = Layout.open(_find_layout(folder, flag), read_only=True)
        if not source.has_manifest(digest):
            held = ", ".join(sorted({str(item.digest) for item in source.manifests()})) or "nothing"
            raise BakeError(f"PROVENANCE_MODEL_DIGEST{flag}: {digest} is not in the layout, which holds {held}")
        model = load_model(source, digest, "image")
        verify_blobs(model)
        verify_archives(model)
        if not model.kit.model_path:
            raise BakeError(f"PROVENANCE_MODEL_DIGEST{flag}: {digest} is a kit without a model")
        verity = _verity(source, model.manifest, flag)
        found = load_model_signatures(source, digest)
    except NotStored as error:
        raise BakeError(f"PROVENANCE_MODEL_LAYOUT{flag}: {error.message}; copy the kit whole (oras copy -r)") from error
    except EdgeprovError as error:
        raise BakeError(f"PROVENANCE_MODEL_LAYOUT{flag}: {error.message}") from error
    signer = _signer(model.manifest, found.artifacts, policy, at, flag)
    _copy(source, target, model.manifest, f"slot.{slot}")
    save_model_signatures(target, digest, found, source)
    return {
        "digest": str(digest),
        "name": model.kit.name,
        "version": model.kit.version,
        "security_version": model.kit.security_version,
        "signer": signer,
        "bytes": sum(blob.size for blob in model.manifest.blobs),
        "layers": [
            {
                "digest": str(layer.digest),
                "media_type": layer.media_type,
                "size": layer.size,
                "verity": verity[layer.digest],
            }
            for layer in model.manifest.layers
        ],
    }


def _signer(manifest: Manifest, signatures, policy, at, flag):
    try:
        return verify_model_signature(manifest, signatures, policy, at).san
    except SignatureInvalid as error:
        advice = (
            "sign it (edgeprov-fleet publish, cosign, notation) and copy the layout with its referrers (oras copy -r)"
        )
        raise BakeError(f"PROVENANCE_MODEL_LAYOUT{flag}: {error.message}; {advice}") from error
    except (SignerUntrusted, PolicyDenied) as error:
        raise BakeError(f"PROVENANCE_TRUST_DIR: {error.message} (slot's model {manifest.digest})") from error
    except EdgeprovError as error:
        raise BakeError(f"PROVENANCE_MODEL_LAYOUT{flag}: {error.message}") from error


def _find_layout(folder, flag):
    # BitBake keeps the whole path of an absolute folder below the place where it unpacks.
    for marker in sorted(folder.rglob("oci-layout")):
        return marker.parent
    raise BakeError(f"PROVENANCE_MODEL_LAYOUT{flag}: there is no OCI layout (a folder with oci-layout and index.json)")


def _verity(source, manifest, flag):
    """fs-verity digest per layer; one that the publisher promised must come out."""
    result = {}
    for layer in manifest.layers:
        hasher = VerityHasher()
        with source.open_blob(layer) as blob:
            while chunk := blob.read(READ_BYTES):
                hasher.update(chunk)
        result[layer.digest] = str(hasher.digest())
        promised = layer.annotations.get(A_VERITY)
        if promised and promised != result[layer.digest]:
            raise BakeError(
                f"PROVENANCE_MODEL_LAYOUT{flag}: layer {layer.digest} has not the fs-verity digest that its manifest names"
            )
    return result


def _copy(source, target, manifest, ref):
    for blob in manifest.blobs:
        if target.has_blob(blob.digest):
            continue
        with source.open_blob(blob) as reader:
            target.save_blob_stream(iter(lambda: reader.read(READ_BYTES), b""), blob)
    target.save_manifest(manifest, ref=ref)


def _tidy(out):
    """Leave nothing but the layout, readable by all and writable by nobody."""
    for path in sorted(out.rglob("*"), reverse=True):
        if path.is_dir():
            if path.name == "ingest":
                shutil.rmtree(path)
                continue
            path.chmod(0o755)
        elif path.parent == out and path.name not in ("index.json", "oci-layout"):
            path.unlink()
        else:
            path.chmod(0o444)
            os.utime(path, (0, 0))


def _digests(trust):
    files = sorted(path for path in trust.iterdir() if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    sys.exit(main())
