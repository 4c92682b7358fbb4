# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""From a registry's name to a back end and a repository prefix; the fleet's side of device/registry_access.py.

A name is ``host[:port]/prefix`` or ``oci:DIR``. store and registry do not know each other: here they
are joined. oras is imported only when a name really means a network host, and what reads artifacts only
when an ArtifactReader is made: a query over the index reads none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeprov.errors import FormatError, LimitError, RegistryNotFound, UsageError
from edgeprov.formats.mediatypes import OCI_INDEX
from edgeprov.formats.signature_manifest import SIGNATURE_LAYERS
from edgeprov.limits import LIMITS
from edgeprov.registry.hosts import is_loopback
from edgeprov.registry.reference import LAYOUT_PREFIX
from edgeprov.registry.settings import OptionNames

if TYPE_CHECKING:
    from edgeprov.formats.descriptor import Descriptor
    from edgeprov.formats.digest import Digest
    from edgeprov.formats.manifest import Manifest
    from edgeprov.registry.base import Registry
    from edgeprov.store.layout import Layout
    from edgeprov.verify.signature import SignatureArtifact

OPTIONS: Final = OptionNames(
    name="the registry's name",
    plain_http="--plain-http",
    credentials="--credentials",
    ca_file="--ca-file",
    proxy="--proxy",
    allow_hosts="--allow-host",
    token_hosts="--token-host",  # noqa: S106 - the name of an option
    part_bytes="the size of what is sent",
)
"""The names of the settings at the desk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A registry as the user named it, with what is needed to reach it; never holds a secret itself.

    Attributes:
        name: ``host[:port]/prefix`` or ``oci:DIR``.
        allow_hosts, token_hosts: As in registry.settings.RegistrySettings.
    """

    name: str
    plain_http: bool = False
    credentials_file: str = ""
    ca_file: str = ""
    client_certificate: str = ""
    client_key: str = ""
    proxy: str = ""
    allow_hosts: tuple[str, ...] = ()
    token_hosts: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """``oci:DIR``, or ``host[:port]``."""
        return self.name if self.is_layout else self.name.partition("/")[0]

    @property
    def prefix(self) -> str:
        """What stands before every repository: ``""`` or ``prefix/``."""
        rest = "" if self.is_layout else self.name.partition("/")[2].strip("/")
        return f"{rest}/" if rest else ""

    @property
    def is_layout(self) -> bool:
        """Whether this is a folder."""
        return self.name.startswith(LAYOUT_PREFIX)

    def as_json(self) -> dict[str, Any]:
        """For the index."""
        return asdict(self)

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> Source:
        """The inverse of as_json."""
        lists: dict[str, Any] = {key: tuple(item) for key, item in value.items() if isinstance(item, list)}
        return cls(**{**value, **lists})


def parse_source(
    name: str,
    *,
    plain_http: bool = False,
    tls: bool = False,
    credentials_file: str = "",
    ca_file: str = "",
    client_certificate: str = "",
    client_key: str = "",
    proxy: str = "",
    allow_hosts: Iterable[str] = (),
    token_hosts: Iterable[str] = (),
) -> Source:
    """Read a registry's name.

    A loopback address is spoken to without TLS, unless ``tls`` or a certificate asks for it.

    Raises:
        UsageError: It is neither a host nor ``oci:DIR``; or the options contradict each other.
    """
    if plain_http and (tls or ca_file or client_certificate):
        raise UsageError("--plain-http excludes --tls, --ca-file and --client-certificate")
    if client_key and not client_certificate:
        raise UsageError("--client-key needs --client-certificate PEM")
    if name.startswith(LAYOUT_PREFIX):
        folder = name.removeprefix(LAYOUT_PREFIX)
        if not folder:
            raise UsageError("oci: without a folder", advice="Name the registry oci:DIR.")
        return Source(name=LAYOUT_PREFIX + os.path.abspath(folder))  # noqa: PTH100 - must not follow links
    host = name.partition("/")[0]
    if (
        not host
        or "@" in name
        or " " in name
        or "://" in name
        or not ("." in host or ":" in host or host == "localhost")
    ):
        raise UsageError(
            f"{name[:200]!r} is not a registry's name", advice="Name it host[:port]/prefix, or oci:DIR for a folder."
        )
    return Source(
        name=name.rstrip("/"),
        plain_http=plain_http or (is_loopback(host) and not (tls or ca_file or client_certificate)),
        credentials_file=_absolute(credentials_file),
        ca_file=_absolute(ca_file),
        client_certificate=_absolute(client_certificate),
        client_key=_absolute(client_key),
        proxy=proxy,
        allow_hosts=tuple(allow_hosts),
        token_hosts=tuple(token_hosts),
    )


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path else ""  # noqa: PTH100 - must not follow links


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def open_registry(source: Source, *, create: bool = False, read_only: bool = False) -> Registry:
    """Open a back end; a network registry is not contacted yet.

    Args:
        source: The registry.
        create: Make the folder when it is none yet.
        read_only: Refuse pushes (folders only).

    Raises:
        NotStored: Not an OCI layout folder.
        ConfigError: A certificate or credentials file is wrong.
    """
    if source.is_layout:
        from edgeprov.store.layout_registry import LayoutRegistry

        return LayoutRegistry(Path(source.name.removeprefix(LAYOUT_PREFIX)), create=create, read_only=read_only)
    from edgeprov.registry.oras_backend import OrasRegistry
    from edgeprov.registry.settings import RegistrySettings

    settings = RegistrySettings(
        plain_http=source.plain_http,
        credentials_file=_path(source.credentials_file),
        helpers=True,
        ca_file=_path(source.ca_file),
        client_cert=_path(source.client_certificate),
        client_key=_path(source.client_key),
        proxy=source.proxy,
        allow_hosts=source.allow_hosts,
        token_hosts=source.token_hosts,
        names=OPTIONS,
    )
    return OrasRegistry(source.host, settings=settings)


class ArtifactReader:
    """Reads artifacts by digest, verified; the way to a blob of a layout does not pass its index."""

    def __init__(self, source: Source) -> None:
        """Open the source for reading."""
        from edgeprov.store.layout_registry import LayoutRegistry
        from edgeprov.verify.signature import SignatureArtifact

        self.source = source
        self.registry = open_registry(source, read_only=True)
        self._signature = SignatureArtifact
        self._clean: set[Digest] = set()
        self.layout: Layout | None = self.registry.layout if isinstance(self.registry, LayoutRegistry) else None

    def manifest(self, repo: str, digest: Digest) -> Manifest:
        """A manifest by digest. Errors as in Registry.fetch_manifest."""
        if self.layout is not None:
            return self.layout.load_manifest(digest)
        return self.registry.fetch_manifest(repo, digest)

    def blob(self, repo: str, descriptor: Descriptor, *, max_bytes: int) -> bytes:
        """A whole blob in memory, size and digest verified.

        Raises:
            LimitError: Longer than ``max_bytes``.
            DigestMismatch: Not what the descriptor names.
            RegistryNotFound: Not there.
        """
        if descriptor.size > max_bytes:
            raise LimitError(f"blob {descriptor.digest} has {descriptor.size} bytes, more than {max_bytes}")
        if self.layout is not None:  # the file costs no request, and damage to it is noticed
            return self.layout.load_blob(descriptor, max_bytes=max_bytes)
        if descriptor.data is not None:
            return descriptor.data
        return b"".join(self.registry.fetch_blob(repo, descriptor))

    def check_blob(self, repo: str, descriptor: Descriptor) -> None:
        """Read a blob only to verify it; what stands in its descriptor was verified there. Errors as in blob."""
        if self.layout is not None:
            self.layout.verify_blob(descriptor)
            return
        if descriptor.data is not None:
            return
        for _ in self.registry.fetch_blob(repo, descriptor):
            pass

    def named_signatures(self, repo: str, digest: Digest, tags: Iterable[str]) -> list[SignatureArtifact]:
        """Signatures under tags of their own, without asking for the referrers.

        A tag that is gone, or names something that is not about the artifact, is passed over.

        Args:
            repo: Repository of the artifact.
            digest: The artifact.
            tags: Signature tags that the repository listed.

        Raises:
            DigestMismatch: A blob's bytes were changed.
        """
        artifacts: list[SignatureArtifact] = []
        for tag in tags:
            with contextlib.suppress(FormatError, RegistryNotFound):
                manifest = self.registry.fetch_manifest(repo, tag)
                if manifest.subject is not None and manifest.subject.digest == digest:
                    artifacts.extend(self._artifacts(repo, manifest))
        return artifacts

    def signatures(
        self, repo: str, digest: Digest, known: tuple[Digest, ...] | None = None, *, tags: Iterable[str] = ()
    ) -> list[SignatureArtifact]:
        """All readable signatures on an artifact. What somebody attached in another form is passed over.

        Args:
            repo: Repository of the artifact.
            digest: The artifact.
            known: Digests of its signature manifests, where the index knows them already.
            tags: Signature tags that the repository listed; they count beside the referrers.

        Raises:
            DigestMismatch: A referrer's bytes were changed: damage is told even where another signature is good.
            RegistryNotFound, NotStored: A referrer or a blob of it is gone.
        """
        if known is None:
            found = self.registry.list_referrers(repo, digest)
            known = tuple(item.digest for item in found if item.media_type != OCI_INDEX)
        artifacts = self.named_signatures(repo, digest, tags)
        read = {item.manifest.digest for item in artifacts}
        for item in [item for item in known if item not in read][: LIMITS.signatures_per_artifact]:
            # FormatError only: sound bytes that are no signature
            with contextlib.suppress(FormatError):
                artifacts.extend(self._artifacts(repo, self.manifest(repo, item)))
        return artifacts

    def _artifacts(self, repo: str, manifest: Manifest) -> Iterator[SignatureArtifact]:
        for layer in manifest.layers:
            if layer.media_type in SIGNATURE_LAYERS:
                yield self._signature(
                    manifest=manifest, blob=self.blob(repo, layer, max_bytes=LIMITS.signature_blob_bytes)
                )
            else:
                self.check_blob(repo, layer)
        if manifest.config.digest not in self._clean:
            self.check_blob(repo, manifest.config)  # nearly always the same two bytes: read once a process
            self._clean.add(manifest.config.digest)
