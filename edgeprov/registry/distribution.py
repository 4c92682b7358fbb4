# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The OCI distribution protocol over some HTTP transport: what to ask, and what to believe of the answer.

Every answer is bounded in size, checked for the status and type that it must have, and compared with
the digest that was asked for. Nothing is retried here: that is the caller's policy.

Spec: OCI distribution-spec 1.1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final
from urllib.parse import quote, urljoin, urlsplit

from edgeprov._dataclass import replace
from edgeprov.errors import (
    DigestMismatch,
    FormatError,
    RegistryError,
    RegistryNotFound,
    RegistryProtocolError,
)
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest, digest_of, parse_digest, verify_digest
from edgeprov.formats.manifest import ImageIndex, Manifest, parse_index, parse_manifest
from edgeprov.formats.mediatypes import OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from edgeprov.limits import LIMITS
from edgeprov.registry.api_requests import CHUNK_BYTES, ApiRequests, HttpTransport, SizedStream, refuse_encoding
from edgeprov.registry.base import NextBlob, fallback_tag
from edgeprov.registry.responses import (
    Response,
    read_header,
    read_length,
    read_media_type,
    read_strings,
)
from edgeprov.registry.settings import OptionNames
from edgeprov.registry.upload_prefetch import Prefetcher, UploadSession

_ACCEPT: Final = f"{OCI_MANIFEST}, {OCI_INDEX}"
_NO_REFERRERS_API: Final = frozenset((400, 404, 405, 501))
_SESSION_LOST: Final = frozenset((404, 416))
_SESSION_LOST_CODES: Final = frozenset(("BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN"))
_WORTH_GOING_ON: Final = 64 * 1024
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")


class DistributionClient(ApiRequests):
    """The registry Protocol over an HttpTransport.

    Attributes:
        name: ``host[:port]``.
    """

    def __init__(self, name: str, base_url: str, transport: HttpTransport, *, names: OptionNames | None = None) -> None:
        """Nothing is contacted yet."""
        super().__init__(name, base_url, transport, names=names)
        self._ahead = Prefetcher(self._prepare)
        self._cut: dict[tuple[str, Digest], str] = {}  # upload session of the blob whose body was cut last

    # -- blobs ------------------------------------------------------------------------------------

    def head_blob(self, repo: str, digest: Digest) -> int | None:
        """See Registry.head_blob."""
        answer = self._send("HEAD", f"{repo}/blobs/{digest}", missing=True)
        if answer is None:
            return None
        self._drain(answer)
        return read_length(answer, f"{repo}: blob {digest}")

    def fetch_blob(self, repo: str, descriptor: Descriptor, *, offset: int = 0) -> Iterator[bytes]:
        """See Registry.fetch_blob."""
        headers = {"Range": f"bytes={offset}-{descriptor.size - 1}"} if offset else {}
        answer = self._ask("GET", self._url(f"{repo}/blobs/{descriptor.digest}"), headers=headers, expected=(200, 206))
        try:
            skip = offset if offset and answer.status == 200 else 0
            refuse_encoding(answer)
            self._refuse_page(answer)
            yield from _verified(answer.chunks(CHUNK_BYTES), descriptor, offset - skip, skip)
        finally:
            answer.close()

    def push_blob(
        self,
        repo: str,
        descriptor: Descriptor,
        data: bytes | BinaryIO,
        *,
        following: NextBlob | None = None,
        fresh: bool = False,
    ) -> bool:
        """See Registry.push_blob. What has the size of a part is verified before a byte of it is sent."""
        if isinstance(data, bytes):
            descriptor.verify(data, "blob to push")
        place = self._ahead.take(repo, descriptor.digest)
        if following is not None:
            self._ahead.start(repo, following)
        if place is not None:
            there = place.session is None
        else:
            there = not fresh and self.head_blob(repo, descriptor.digest) == descriptor.size
        if there:
            return False
        body: bytes | SizedStream
        if place is not None and place.body is not None:
            body = place.body
        elif isinstance(data, bytes):
            body = data
        elif descriptor.size <= LIMITS.part_max_bytes:
            body = _read_all(data, descriptor)
        else:
            body = SizedStream(data, descriptor.size)
        cut = self._cut.pop((repo, descriptor.digest), None)
        if cut is None or not isinstance(body, bytes) or not self._go_on(cut, descriptor, body):
            session = place.session if place is not None and place.session else self._open_session(repo)
            self._put_blob(repo, session, descriptor, body)
        return True

    def _prepare(self, repo: str, blob: NextBlob) -> UploadSession:
        descriptor = blob.descriptor
        if self.head_blob(repo, descriptor.digest) == descriptor.size:
            return UploadSession(None)
        session = self._open_session(repo)
        if descriptor.size > LIMITS.part_max_bytes:
            return UploadSession(session)
        with blob.open() as stream:
            return UploadSession(session, _read_all(stream, descriptor))

    def _open_session(self, repo: str) -> str:
        url = self._url(f"{repo}/blobs/uploads/")
        answer = self._ask("POST", url, headers={"Content-Length": "0"}, expected=(202,))
        self._drain(answer)  # first: an answer that lacks its headers must not keep the line
        return urljoin(url, read_header(answer, "Location", "upload session"))

    def _put_blob(self, repo: str, session: str, descriptor: Descriptor, body: bytes | SizedStream) -> None:
        try:
            self._finish(session, descriptor, body, len(body))
        except RegistryError as error:
            self._ahead.forget()
            if error.status in _SESSION_LOST or error.code in _SESSION_LOST_CODES:
                # The session is gone, not the repository: the part starts again.
                raise RegistryError(error.message, status=error.status, code=error.code) from error
            if error.status is None and isinstance(body, bytes) and len(body) >= _WORTH_GOING_ON:
                self._cut.clear()  # one is enough: the caller comes back with the same blob
                self._cut[repo, descriptor.digest] = session
            raise

    def _go_on(self, session: str, descriptor: Descriptor, body: bytes) -> bool:
        """After a cut, send only what the registry lacks; False where it cannot say, or says nonsense.

        distribution v3 keeps what it received; v2 drops the session when it is asked, others refuse to
        answer. Then nothing is lost but this question.
        """
        try:
            answer = self._ask("GET", session, expected=(204,))
            received = _RANGE.fullmatch(answer.headers.get("Range", ""))
            session = urljoin(session, answer.headers.get("Location") or session)
            self._drain(answer)
            offset = int(received.group(1)) + 1 if received else 0
            if not 1 < offset < len(body):  # "0-0" also means that nothing arrived
                return False
            self._finish(session, descriptor, body[offset:], len(body) - offset)
        except RegistryError as error:
            if error.status is None:
                raise
            return False
        except DigestMismatch:
            return False
        return True

    def _finish(self, session: str, descriptor: Descriptor, body: bytes | SizedStream, size: int) -> None:
        joint = "&" if urlsplit(session).query else "?"
        target = f"{session}{joint}digest={quote(str(descriptor.digest), safe='')}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        self._drain(self._ask("PUT", target, headers=headers, data=body, expected=(201,)))

    # -- manifests --------------------------------------------------------------------------------

    def head_manifest(self, repo: str, reference: str) -> Descriptor | None:
        """See Registry.head_manifest."""
        answer = self._send("HEAD", f"{repo}/manifests/{reference}", headers={"Accept": _ACCEPT}, missing=True)
        if answer is None:
            return None
        self._drain(answer)
        media_type = read_media_type(answer)
        if not media_type.startswith("application/"):
            raise RegistryProtocolError(f"{self.name}: a manifest in {repo} is said to be {media_type[:60]!r}")
        named = answer.headers.get("Docker-Content-Digest")
        if named is None:  # the header is optional: then only the bytes can tell
            raw = self._manifest_bytes(repo, reference)
            return Descriptor(media_type=media_type, digest=digest_of(raw), size=len(raw))
        return Descriptor(
            media_type=media_type,
            digest=self._digest_header(named),
            size=read_length(answer, f"{repo}: manifest {reference}"),
        )

    def fetch_manifest(self, repo: str, reference: str | Digest) -> Manifest:
        """See Registry.fetch_manifest."""
        raw = self._manifest_bytes(repo, str(reference))
        return parse_manifest(raw, expected=reference if isinstance(reference, Digest) else None)

    def push_manifest(self, repo: str, manifest: Manifest, *, tag: str | None = None) -> bool:
        """See Registry.push_manifest."""
        answer = self._put_manifest(repo, manifest.raw, OCI_MANIFEST, tag or str(manifest.digest))
        indexed = answer.headers.get("OCI-Subject", "")
        return manifest.subject is not None and indexed == str(manifest.subject.digest)

    def fetch_index(self, repo: str, reference: str | Digest) -> ImageIndex:
        """See Registry.fetch_index."""
        raw = self._manifest_bytes(repo, str(reference))
        return parse_index(raw, expected=reference if isinstance(reference, Digest) else None)

    def push_index(self, repo: str, raw: bytes, *, tag: str | None = None) -> None:
        """See Registry.push_index."""
        self._put_manifest(repo, raw, OCI_INDEX, tag or str(digest_of(raw)))

    # -- lists ------------------------------------------------------------------------------------

    def list_tags(self, repo: str) -> tuple[str, ...]:
        """See Registry.list_tags."""
        tags: dict[str, None] = {}
        for page in self._pages(f"{repo}/tags/list", missing=True):
            self._add_names(tags, page, "tags", repo)
        return tuple(tags)

    def list_referrers(self, repo: str, digest: Digest, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """See Registry.list_referrers."""
        query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
        found: dict[Digest, Descriptor] = {}
        try:
            for raw in self._raw_pages(f"{repo}/referrers/{digest}{query}"):
                for item in parse_index(raw, max_bytes=LIMITS.index_bytes).manifests:
                    found[item.digest] = _without_guess(item)
        except RegistryError as error:
            if error.status not in _NO_REFERRERS_API:
                raise
            try:
                listed = self.fetch_index(repo, fallback_tag(digest)).manifests
            except RegistryNotFound:
                return ()
            found = {item.digest: _without_guess(item) for item in listed}
        return tuple(
            item for item in found.values() if artifact_type in (None, item.artifact_type or self._type_of(repo, item))
        )

    def _type_of(self, repo: str, item: Descriptor) -> str | None:
        return self.fetch_manifest(repo, item.digest).artifact_type if item.media_type == OCI_MANIFEST else None

    def list_repositories(self) -> tuple[str, ...]:
        """See Registry.list_repositories."""
        names: dict[str, None] = {}
        for page in self._pages("_catalog?n=1000"):
            self._add_names(names, page, "repositories", "_catalog")
        return tuple(names)

    def _add_names(self, names: dict[str, None], page: Mapping[str, Any], key: str, what: str) -> None:
        names.update(dict.fromkeys(read_strings(page, key)))
        if len(names) > LIMITS.list_entries:
            raise RegistryProtocolError(f"{self.name}: {what} lists more than {LIMITS.list_entries} {key}")

    def _manifest_bytes(self, repo: str, reference: str) -> bytes:
        url = self._url(f"{repo}/manifests/{reference}")
        answer = self._ask("GET", url, headers={"Accept": _ACCEPT}, expected=(200,))
        self._refuse_page(answer)
        raw = self._document(answer, LIMITS.manifest_bytes)
        if reference.startswith("sha256:"):
            verify_digest(raw, parse_digest(reference), f"{repo}: manifest")
        elif named := answer.headers.get("Docker-Content-Digest"):
            verify_digest(raw, self._digest_header(named), f"{repo}: manifest {reference}")
        return raw

    def _put_manifest(self, repo: str, raw: bytes, media_type: str, reference: str) -> Response:
        url = self._url(f"{repo}/manifests/{reference}")
        answer = self._ask("PUT", url, headers={"Content-Type": media_type}, data=raw, expected=(201,))
        self._drain(answer)
        named = answer.headers.get("Docker-Content-Digest")
        if named is not None and self._digest_header(named) != digest_of(raw):
            raise DigestMismatch(f"{self.name}: {repo} stored another manifest than was sent")
        return answer

    def _digest_header(self, text: str) -> Digest:
        try:
            return parse_digest(text)
        except FormatError as error:
            raise RegistryProtocolError(f"{self.name}: Docker-Content-Digest is {text[:80]!r}") from error


def _verified(chunks: Iterator[bytes], descriptor: Descriptor, start: int, skip: int) -> Iterator[bytes]:
    """Pass chunks on while they fit; the last one only after size and digest did (when read from 0)."""
    hasher = hashlib.sha256()
    count = start
    held = b""
    for chunk in chunks:
        count += len(chunk)
        if count > descriptor.size:
            raise DigestMismatch(f"blob {descriptor.digest} is longer than {descriptor.size} bytes")
        hasher.update(chunk)
        kept = chunk[skip:]
        skip = max(0, skip - len(chunk))
        if kept:
            if held:
                yield held
            held = kept
    if count != descriptor.size:
        # A cut line looks like this too, and is worth another try.
        raise RegistryError(f"blob {descriptor.digest} ended after {count} of {descriptor.size} bytes")
    if start == 0 and hasher.hexdigest() != descriptor.digest.hex:
        raise DigestMismatch(f"a registry sent other bytes as blob {descriptor.digest}")
    if held:
        yield held


def _without_guess(item: Descriptor) -> Descriptor:
    # Some servers list the config's media type as artifactType, which for an empty config says nothing.
    return replace(item, artifact_type=None) if item.artifact_type == OCI_EMPTY else item


def _read_all(stream: BinaryIO, descriptor: Descriptor) -> bytes:
    # In one piece: every small one would let another thread in between, and wait for it.
    body = stream.read(descriptor.size + 1)  # one more than there should be: a longer stream shows
    while 0 < len(body) < descriptor.size and (piece := stream.read(descriptor.size + 1 - len(body))):
        body += piece
    if getattr(stream, "expected", None) != descriptor or len(body) != descriptor.size:
        descriptor.verify(body, "blob to push")
    return body
