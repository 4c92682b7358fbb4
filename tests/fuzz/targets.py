# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that is read from disk, stick, socket or network: one function per kind, with its seeds.

A target gets any bytes and must return, or raise an error of ours. Anything else (a crash, a
KeyError, a hang, memory without bound) is a bug. Seeds are real artifacts of a small made-up world;
inputs that once found a bug lie in ``corpus/<target>/`` and are run each time.
"""

from __future__ import annotations

import gzip
import importlib.util
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgeprov.config import load_config
from edgeprov.device.flatbuffer import verify_flatbuffer
from edgeprov.errors import EdgeprovError, TpmUnavailable
from edgeprov.formats import (
    bundle,
    datakit,
    devicerecord,
    ecdsa,
    eventlog,
    evidence_part,
    head,
    in_toto,
    jws,
    kitfile,
    label,
    manifest,
    modelkit,
    packing,
    part,
    proof,
    record,
    segment,
    standing,
    statement,
    tarball,
    tombstone,
    tpmt,
)
from edgeprov.formats.descriptor import describe
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.jsonx import parse_json
from edgeprov.formats.manifest import EMPTY_CONFIG, build_manifest
from edgeprov.formats.mediatypes import KIT_CONFIG, TOMBSTONE
from edgeprov.registry.reference import parse_reference
from edgeprov.store import state_documents
from edgeprov.store.compress import compress, decompress, decompress_stream, gunzip
from edgeprov.store.frames import encode_end, encode_frame, read_segment
from edgeprov.store.layout import Layout
from edgeprov.store.layout_index import LayoutIndex
from edgeprov.store.salvage import salvaged_frames, salvaged_rows
from edgeprov.store.spool import SlotSpool
from edgeprov.tpm.client import Client
from edgeprov.verify import certificates, policy, x509path
from tests.support import pki
from tests.support.site import WDBC
from tests.support.world import World

CORPUS = Path(__file__).parent / "corpus"
Target = Callable[[bytes], object]


@dataclass(frozen=True)
class Fuzz:
    """A target: ``run`` must raise nothing but EdgeprovError."""

    name: str
    run: Target
    seeds: Callable[[], list[bytes]]

    def inputs(self) -> list[bytes]:
        """Seeds and what is in the corpus."""
        folder = CORPUS / self.name
        return [*self.seeds(), *(path.read_bytes() for path in sorted(folder.glob("*")))]

    def once(self, data: bytes) -> None:
        """Run on one input."""
        try:
            self.run(data)
        except EdgeprovError as error:
            str(error.message).encode()  # a message that cannot be printed is a traceback later


@cache
def world() -> tuple[World, dict[str, list[bytes]]]:
    """One of everything."""
    world = World()
    unit = world.enroll("unit-1")
    sealed = unit.seal(records=5, labels=[label.Label(n=1, value=True, source="s", labelled_at_ns=5)], notation=True)
    buried, _ = unit.bury(), unit.bury(reason="damaged", lost=[(3, 4)])
    open_one = standing.OpenSegment(
        number=101, header=bytes(32), slot="a", first=0, last=4, leaf=bytes(32), least_ns=1, greatest_ns=2, flags=1
    )
    stop = standing.Stop(slot="a", header=bytes(32), after=4, resumed=9, bound_ms=1000, at_ns=3)
    full = standing.Standing(at_ns=5, doubt=True, newest=bytes(32), open=(open_one,), stops=(stop,))
    attestations = [unit.tpm.quote(bytes(32)), unit.tpm.certify_counter(bytes(32)), unit.tpm.certify_sk(bytes(32))]
    layers = list(sealed.blobs.values())
    parts = [decompress(_inner(layer), 1 << 26) for layer in layers if layer != sealed.config]
    found = {
        "manifest": [sealed.manifest.raw, world.model.raw, unit.record_manifest.raw, buried.manifest.raw],
        "index": [manifest.encode_index([sealed.manifest.descriptor])],
        "config": [sealed.config],
        "layer": [layer for layer in layers if layer != sealed.config],
        "part": [plain for plain in parts if b"edgeprov.part" in plain[:40]],
        "evidence": [plain for plain in parts if b"edgeprov.part" not in plain[:40]],
        "rows": sealed.rows[:2],
        "header": [sealed.segments[0].header],
        "bundle": [item.blob for item in sealed.signatures if item.blob[:1] == b"{"],
        "jws": [sealed.signatures[-1].blob],
        "statement": [sealed.statement],
        "log": [unit.log],
        "device": [unit.record_blob],
        "attest": [item.attest for item in attestations],
        "signature": [item.signature for item in attestations],
        "public": [unit.tpm.ak_public, unit.tpm.sk_public],
        "policy": [world.policy_files["policy.toml"]],
        "certificates": [data for name, data in world.policy_files.items() if name.endswith(".pem")],
        "head": [head.encode_head(unit.head(nonce, standing=full)) for nonce in (b"nonce-nonce-nonce", None)],
        "standing": [standing.encode_standing(full)],
        "tombstone": list(unit.stones.values()),
    }
    return world, found


def _seeds(name: str) -> Callable[[], list[bytes]]:
    return lambda: world()[1][name]


def _inner(layer: bytes) -> bytes:
    return b"".join(_files(layer))


def _files(layer: bytes) -> Iterator[bytes]:
    position = 0

    def read(count: int) -> bytes:
        nonlocal position
        chunk = layer[position : position + count]
        position += len(chunk)
        return chunk

    for _, chunks in tarball.iter_tar(read):
        yield from chunks


def _tar(data: bytes) -> None:
    for _ in _files(data):
        pass


def _modelkit(data: bytes) -> None:
    modelkit.parse_modelkit(build_manifest(config=describe(data, KIT_CONFIG), layers=world()[0].model.layers), data)


def _datakit(data: bytes) -> None:
    kit = manifest.parse_manifest(world()[1]["manifest"][0])
    datakit.parse_datakit(
        build_manifest(
            config=describe(data, KIT_CONFIG), layers=kit.layers, artifact_type=kit.artifact_type,
            subject=kit.subject, annotations=kit.annotations,
        ),
        data,
    )  # fmt: skip


def _manifest(data: bytes) -> None:
    parsed = manifest.parse_manifest(data)
    datakit.parse_datakit_annotations(parsed.annotations, parsed.subject.digest if parsed.subject else None)


def _tombstone(data: bytes) -> None:
    described = describe(data, TOMBSTONE)
    tombstone.parse_tombstone(
        build_manifest(config=EMPTY_CONFIG, layers=[described], artifact_type=TOMBSTONE, annotations={"a": "b"}), data
    )


def _part(data: bytes) -> None:
    contents = part.parse_part(data)
    for evidence in contents.blocks:
        evidence.numbers(), evidence.recorded_at_ns(), evidence.mono_ns(), evidence.flags()
    for content in contents.outputs:
        content.outputs(), content.shapes(), content.input_digests()


def _statement(data: bytes) -> None:
    parsed = in_toto.parse_statement(data)
    statement.parse_provenance(parsed)
    statement.parse_seal_evidence(parsed)


def _certificates(data: bytes) -> None:
    policy.parse_policy({"publisher.pem": data, "device.pem": data, "policy.toml": world()[1]["policy"][0]})


def _segment(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{1:020d}.seg"
        path.write_bytes(data)
        found = read_segment(path)
        for _ in found.frames():
            pass
        spool = SlotSpool(Path(folder), quarantine=lambda source, _: source.rename(f"{source}.bad"))
        (Path(folder) / "head.json").write_bytes(data[:4000])
        spool.recover()
        position = spool.end_open()
        assert spool.end_open() == position
        for info in spool.segments():
            frames = read_segment(info.path)
            for _ in frames.rows() if info.closed else frames.frames():
                pass


def _layout(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout.create(Path(folder) / "stick")
        layout.save_blob(world()[1]["manifest"][0], "a/b")
        (layout.root / "index.json").write_bytes(data)
        for entry in layout.manifests():
            layout.referrers(entry.digest)
        layout.collect_garbage()


def _config(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edgeprov.toml"
        path.write_bytes(data)
        load_config({"EDGEPROV_CONFIG": str(path)})


def _text(parse: Callable[[str], object]) -> Target:
    def run(data: bytes) -> None:
        parse(data.decode("utf-8", "surrogateescape"))

    return run


def _drain(read: Callable[[list[bytes], int], Iterator[bytes]]) -> Target:
    def run(data: bytes) -> None:
        for _ in read([data[:7], data[7:]], 1 << 20):
            pass

    return run


def _segment_seeds() -> list[bytes]:
    found = world()[1]
    frames = encode_frame(1, found["header"][0]) + encode_frame(2, b"evidence")
    frames += b"".join(encode_frame(3, row) for row in found["rows"])
    return [
        frames,
        frames + encode_frame(4, b"input") + encode_end(2, 3),
        frames + bytes(100),
        encode_frame(5, b"label"),
    ]


def _salvage(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{1:020d}.seg"
        path.write_bytes(data)
        segment_file = read_segment(path)
        whole = list(segment_file.frames())
        assert list(salvaged_frames(segment_file, search=True))[: len(whole)] == whole
        if segment_file.header:
            rows = list(salvaged_rows(segment_file))
            numbers = [record.parse_record(payload).n for kind, payload in rows if kind == 3]
            assert numbers == sorted(set(numbers))


def _certificate(data: bytes) -> None:
    """The signed part of a certificate, signed well, as leaf and as intermediate: only the rules can refuse it."""
    made = world()[0]
    leaf, anchors = made.publisher.der, (made.publisher_root.der,)
    changed = pki.signed_certificate(data, made.publisher_root.key)
    for purpose in ("publisher", "device", "enroller", "timestamp", "ek", "idevid"):
        with suppress(EdgeprovError):
            x509path.verify_chain(changed, (), anchors, pki.NOW, purpose)
    assert x509path.verify_chain(leaf, (changed,), anchors, pki.NOW, "publisher").san.startswith("https:")
    with suppress(EdgeprovError):
        x509path.verify_chain(leaf, (), (changed,), pki.NOW, "publisher")
    certificates.certificate_facts(changed)
    certificates.issuer_and_serial(changed)
    certificates.certificate_spki(changed)


def _certificate_seeds() -> list[bytes]:
    made = world()[0]
    return [item.certificate.tbs_certificate_bytes for item in (made.publisher, made.enroller, made.publisher_root)]


def _index_seeds() -> list[bytes]:
    index = LayoutIndex(world()[1]["index"][0])
    return [index.encode(), LayoutIndex().encode()]


def _outbox_seeds() -> list[bytes]:
    entry = state_documents.OutboxEntry(
        kind="kit", digest=parse_digest("sha256:" + "0" * 64), seq=1, repo="r", tag="t", state="s", info={"n": [1]}
    )
    return [state_documents.encode_outbox_entry(entry)]


class _OneAnswer:
    """A TPM that says the same bytes to one command, and then is gone."""

    name = "fuzz"

    def __init__(self, answer: bytes) -> None:
        self._answers = [answer]

    def send(self, command: bytes) -> None:
        pass

    def receive(self, timeout_s: float) -> bytes:
        del timeout_s
        if not self._answers:
            raise TpmUnavailable("gone")
        return self._answers.pop()

    def close(self) -> None:
        pass


def _tpm_response(data: bytes) -> None:
    """Any bytes as the answer to each command that the boot check's own client knows."""
    asks: tuple[Callable[[Client], object], ...] = (
        lambda client: client.read_pcrs((0, 14)),
        lambda client: client.read_clock(),
        lambda client: client.nv_read(0x01800100, 8, b"secret", (0x08B,)),
        lambda client: client.nv_read_public(0x01800100),
        lambda client: client.pcr_event(14, b"event"),
        lambda client: client.close_platform(),
    )
    for ask in asks:
        with suppress(EdgeprovError):
            ask(Client(_OneAnswer(data), lock_path=Path("/nonexistent"), shared=True))


def _tpm_response_seeds() -> list[bytes]:
    def response(tag: int, body: bytes, code: int = 0) -> bytes:
        return struct.pack(">HII", tag, 10 + len(body), code) + body

    def answer(params: bytes) -> bytes:
        return response(0x8002, len(params).to_bytes(4, "big") + params + b"\0\0\1\0\0")

    pcrs = struct.pack(">IIHB3sIH32sH32s", 1, 1, 0x0B, 3, b"\1\x40\0", 2, 32, bytes(32), 32, bytes(32))
    public = struct.pack(">HIHIHHH34s", 14, 0x01800100, 0x0B, 0x22060014, 0, 8, 34, bytes(34))
    return [
        response(0x8001, pcrs),
        response(0x8001, struct.pack(">QQIIB", 1, 2, 3, 4, 1)),
        response(0x8001, public),
        answer(struct.pack(">HQ", 8, 5)),
        answer(struct.pack(">IH32s", 1, 0x0B, bytes(32))),
        answer(b""),
        response(0x8001, b"", 0x18B),
        response(0x8001, b"", 0x922),
    ]


TARGETS = (
    Fuzz("json", lambda data: parse_json(data, "x"), _seeds("manifest")),
    Fuzz("manifest", _manifest, _seeds("manifest")),
    Fuzz("index", manifest.parse_index, _seeds("index")),
    Fuzz("layout", _layout, _index_seeds),
    Fuzz("kitfile", kitfile.parse_kitfile, _seeds("config")),
    Fuzz(
        "modelkit",
        _modelkit,
        lambda: [b'{"manifestVersion":"1.0.0","model":{"path":"m","parameters":{"securityVersion":1}}}'],
    ),
    Fuzz("datakit", _datakit, _seeds("config")),
    Fuzz("tombstone", _tombstone, _seeds("tombstone")),
    Fuzz("tar", _tar, _seeds("layer")),
    Fuzz("zstd", lambda data: decompress(data, 1 << 20), lambda: [compress(b"abc" * 500), compress(bytes(range(256)))]),
    Fuzz("zstd-stream", _drain(decompress_stream), lambda: [compress(b"abc" * 500)]),
    Fuzz("gzip", _drain(gunzip), lambda: [gzip.compress(b"abc" * 500, mtime=0)]),
    Fuzz("msgpack", lambda data: packing.unpack(data, max_bytes=1 << 20, what="x"), _seeds("rows")),
    Fuzz("record", record.parse_record, _seeds("rows")),
    Fuzz(
        "label",
        label.parse_label,
        lambda: [label.encode_label(label.Label(n=1, value=[1, "a", None], source="s", labelled_at_ns=1))],
    ),
    Fuzz("input", record.parse_input, _seeds("rows")),
    Fuzz("segment-header", segment.parse_segment_header, _seeds("header")),
    Fuzz("part", _part, _seeds("part")),
    Fuzz("evidence", evidence_part.parse_evidence, _seeds("evidence")),
    Fuzz("standing", standing.parse_standing, _seeds("standing")),
    Fuzz("spool", _segment, _segment_seeds),
    Fuzz("bundle", bundle.parse_bundle, _seeds("bundle")),
    Fuzz("jws", jws.parse_jws, _seeds("jws")),
    Fuzz("statement", _statement, _seeds("statement")),
    Fuzz("event-log", eventlog.parse_event_log, _seeds("log")),
    Fuzz("device-record", devicerecord.parse_device_record, _seeds("device")),
    Fuzz("attest", tpmt.parse_attest, _seeds("attest")),
    Fuzz("tpm-signature", tpmt.parse_signature, _seeds("signature")),
    Fuzz("tpm-public", tpmt.parse_public, _seeds("public")),
    Fuzz("tpm-response", _tpm_response, _tpm_response_seeds),
    Fuzz("ecdsa-der", ecdsa.parse_ecdsa_der, lambda: [world()[0].enroll("x").tpm.sign_digest(bytes(32))]),
    Fuzz("policy", lambda data: policy.parse_policy({"policy.toml": data}), _seeds("policy")),
    Fuzz("certificates", _certificates, _seeds("certificates")),
    Fuzz("certificate", _certificate, _certificate_seeds),
    Fuzz("salvage", _salvage, _segment_seeds),
    Fuzz("head", head.parse_head, _seeds("head")),
    Fuzz("proof", proof.parse_proof, lambda: [b'{"v":1}']),
    Fuzz("flatbuffer", verify_flatbuffer, lambda: [WDBC.read_bytes()]),
    Fuzz(
        "active",
        state_documents.parse_active,
        lambda: [
            state_documents.encode_active(state_documents.Active(slot="a", model=parse_digest("sha256:" + "0" * 64)))
        ],
    ),
    Fuzz("outbox", state_documents.parse_outbox_entry, _outbox_seeds),
    Fuzz("config", _config, lambda: [b'[device]\nserial = "a"\n[record]\nsync = "every"\ninterval_ms = 5\n']),
    Fuzz("reference", _text(parse_reference), lambda: [b"host:5000/a/b@sha256:" + b"0" * 64, b"oci:/dir//repo:tag"]),
    Fuzz("kit-tag", _text(datakit.parse_kit_tag), lambda: [b"unit-1.0000000001.0123456789abcdef"]),
)

if importlib.util.find_spec("yaml"):  # the fleet's environment
    from edgeprov.fleet.publishing.kitfile_yaml import parse_kitfile_yaml

    TARGETS += (Fuzz("kitfile-yaml", parse_kitfile_yaml, lambda: [b"manifestVersion: 1.0.0\nmodel:\n  path: m\n"]),)


def target(name: str) -> Fuzz:
    """A target by name."""
    return next(item for item in TARGETS if item.name == name)
