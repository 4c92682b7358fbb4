# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""RFC 3161 timestamps at ingestion: from then on, each signature is proved to be older than the stamp.

Nothing that a device wrote is changed: a copy of the bundle (and of the notation JWS) with the timestamp in it
is pushed beside the original. The timestamp authority is a command, so that any can be used.
"""

from __future__ import annotations

import secrets
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprov.errors import ConfigError, EdgeprovError, FormatError
from edgeprov.fleet.registries.sources import ArtifactReader
from edgeprov.formats.bundle import add_timestamp, build_signature_manifest, parse_bundle
from edgeprov.formats.descriptor import describe
from edgeprov.formats.digest import Digest
from edgeprov.formats.in_toto import parse_statement
from edgeprov.formats.jws import add_jws_timestamp, build_notation_manifest, parse_jws
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import JOSE
from edgeprov.formats.signature_manifest import FIRST_ADDED, signature_tag
from edgeprov.formats.timestamp import encode_timestamp_request, timestamp_token
from edgeprov.registry.base import Registry
from edgeprov.registry.push_order import attach, free_signature_number
from edgeprov.verify.signature import SignatureArtifact, signature_kind
from edgeprov.verify.timestamp_check import verify_timestamp

_TSA_S = 60.0


@dataclass(frozen=True, slots=True)
class Authority:
    """A timestamp authority: a command that reads a TimeStampReq (DER) and writes the TimeStampResp.

    Attributes:
        command: Arguments; no shell runs it. As in ``curl -s -H "Content-Type: application/timestamp-query"
            --data-binary @- URL``, or ``openssl ts -reply ...``.
        anchors: DER of the CA certificates (tsa*.pem) that must vouch for its answers.
    """

    command: tuple[str, ...]
    anchors: tuple[bytes, ...]

    def stamp(self, data: bytes) -> bytes:
        """A verified response over some bytes.

        Raises:
            ConfigError: The command failed.
            FormatError, SignatureInvalid, SignerUntrusted: Its answer is no timestamp of a trusted authority.
        """
        request = encode_timestamp_request(data, secrets.randbits(62) | 1)
        try:
            done = subprocess.run(self.command, input=request, capture_output=True, timeout=_TSA_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"the timestamp command {self.command[0]} cannot be run: {error}") from error
        if done.returncode != 0:
            reason = done.stderr.decode(errors="replace").strip().splitlines()
            raise ConfigError(f"the timestamp command failed: {reason[-1] if reason else done.returncode}")
        verify_timestamp(done.stdout, data, self.anchors)
        return done.stdout


def parse_authority(command: str, anchors: Sequence[bytes]) -> Authority:
    """Read a command as typed in a shell.

    Raises:
        ConfigError: Not a command, or no anchor to judge its answers by.
    """
    try:
        parts = tuple(shlex.split(command))
    except ValueError as error:
        raise ConfigError(f"the timestamp command cannot be split: {error}") from error
    if not parts:
        raise ConfigError("the timestamp command is empty")
    if not anchors:
        raise ConfigError("the trust folder holds no tsa*.pem", advice="Add the CA certificate of the authority.")
    return Authority(parts, tuple(anchors))


def stamp_artifact(
    reader: ArtifactReader,
    registry: Registry,
    repo: str,
    digest: Digest,
    authority: Authority,
    created: str,
    *,
    tag: str | None,
) -> int:
    """Push stamped copies of an artifact's signatures that have none yet; returns how many.

    Args:
        reader: To read what is there.
        registry: The same place, for writing.
        repo: Repository of the artifact.
        digest: The kit, tombstone or device record.
        authority: Stamps.
        created: RFC 3339, for the annotation of the new manifests.
        tag: Tag of the artifact, which the tags of the copies begin with; None where it has none.

    Raises:
        RegistryError: Reading or writing failed.
        EdgeprovError: As Authority.stamp.
    """
    subject = reader.manifest(repo, digest)
    signatures = reader.signatures(repo, digest)
    stamped = {_signature(item) for item in signatures if _has_timestamp(item)}
    count = 0
    for item in signatures:
        signature = _signature(item)
        if signature is None or signature in stamped:
            continue
        stamped.add(signature)
        manifest, blob = _stamped(item, subject, authority.stamp(signature), created)
        named = None
        if tag is not None:
            named = signature_tag(tag, free_signature_number(registry, repo, tag, manifest.digest, FIRST_ADDED))
        attach(registry, repo, manifest, {manifest.layers[0].digest: blob}, tag=named)
        count += 1
    return count


def _stamped(item: SignatureArtifact, subject: Manifest, response: bytes, created: str) -> tuple[Manifest, bytes]:
    if signature_kind(item.manifest) == "bundle":
        blob = add_timestamp(item.blob, response)
        kind = parse_statement(parse_bundle(blob).payload).predicate_type
        return build_signature_manifest(subject.descriptor, blob, kind, created), blob
    blob = add_jws_timestamp(item.blob, timestamp_token(response))
    chain = parse_jws(blob).certificates
    return build_notation_manifest(subject.descriptor, describe(blob, JOSE), chain, created), blob


def _signature(item: SignatureArtifact) -> bytes | None:
    try:
        kind = signature_kind(item.manifest)
        if kind == "bundle":
            return parse_bundle(item.blob).signature
        return parse_jws(item.blob).signature if kind == "notation" else None
    except FormatError:
        return None


def _has_timestamp(item: SignatureArtifact) -> bool:
    try:
        if signature_kind(item.manifest) == "bundle":
            return bool(parse_bundle(item.blob).timestamps)
        return parse_jws(item.blob).timestamp is not None
    except EdgeprovError:
        return False
