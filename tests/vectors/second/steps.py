# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The twelve steps on a proof (FORMAT.md sections 21 and 23), and the command."""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import math
import re
from pathlib import Path

from cryptography import x509

from tests.vectors.second.base import HEX64, Bad, Policy, load_json, need, sha, un64, unpack
from tests.vectors.second.numbers import evidence_of, nth_number, numbers_fit
from tests.vectors.second.signatures import (
    Artifact,
    device_statement,
    judge_certificate,
    layer_of,
    model_signed,
    spki,
)
from tests.vectors.second.tpm import Attest, Public, attested, device_template, pcr_values, replay, tpm_keys

DTYPE_BYTES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4, "float32": 4,
    "int64": 8, "uint64": 8, "float64": 8, "complex64": 8,
}  # fmt: skip
SLSA = "https://slsa.dev/provenance/v1"


class Refused(Exception):
    def __init__(self, step: int | None, why: str) -> None:
        super().__init__(why)
        self.step, self.why = step, why


# -- sections 21 and 23: the steps ------------------------------------------------------------------


class Checker:
    predicate, last_step = SLSA, 12

    def __init__(self, proof: dict, policy: Policy, at: dt.datetime) -> None:
        need(proof.get("v") == 1 and proof.get("mediaType") == "application/vnd.edgeprov.proof.v1+json", "not a proof")
        self.policy, self.at = policy, at
        self.record, self.index = un64(proof["record"]), proof["index"]
        self.path = [un64(item) for item in proof["path"]]
        need(all(len(item) == 32 for item in self.path), "path")
        self.kit, self.device, self.model = (Artifact(proof[name]) for name in ("kit", "device", "model"))
        self.evidence, self.layer = un64(proof["evidence"]), un64(proof["evidenceLayer"])
        self.manifest = self.kit.manifest
        need(self.manifest.get("artifactType") == "application/vnd.kitops.modelkit.manifest.v1+json", "not a data kit")
        notes = self.manifest.get("annotations", {})
        self.note = lambda name: notes["dev.edgeprov." + name]
        model, subject = self.note("model"), self.manifest.get("subject")
        need(subject is None or subject["digest"] == model, "subject")
        need(HEX64.fullmatch(self.note("enrollment")), "enrollment")
        self.contents = evidence_of(self.evidence)
        self.segments = self.contents["segments"]

    def step_1(self) -> None:
        need(self.device.layer is not None, "no record")
        statement, _, _ = device_statement(
            self.policy, self.device, "enroller", [], "https://edgeprov.dev/device/v1", self.at
        )
        kind = "application/vnd.edgeprov.device.v1+json"
        manifest = self.device.manifest
        need(manifest.get("artifactType") == kind and len(manifest["layers"]) == 1, "record manifest")
        layer_of(manifest, self.device.layer, kind)
        record = load_json(self.device.layer)
        need(record["v"] == 1 and manifest["annotations"]["dev.edgeprov.device"] == record["device"], "record")
        need(statement["predicate"]["device"] == record["device"], "statement of another device")
        self.ak, self.sk = Public(un64(record["ak"])), Public(un64(record["sk"]))
        tpm_keys(self.ak, self.sk)
        device_template(self.ak, self.sk)
        raw = un64(record["certify"]["attest"])
        certify = Attest(raw)
        attested(self.ak, raw, un64(record["certify"]["signature"]), certify, 0x8017)
        nonce, base = un64(record["nonce"]), record["counter_base"]
        need(certify.extra == sha(b"edgeprov.enroll\0" + nonce), "nonce")
        need(certify.name == self.sk.name, "certified name")
        enrollment_of(record, self.ak, nonce, base)
        chain = [un64(item) for item in record["certificates"]]
        need(chain, "no certificate")
        enrolled = dt.datetime.fromisoformat(record["enrolled_at"])
        need(record["enrolled_at"].endswith("Z") and enrolled.tzinfo, "time of enrollment")
        name, key = judge_certificate(self.policy, chain[0], chain[1:], "device", enrolled)
        need(spki(key) == spki(self.sk.key) and name == record["device"], "certificate")
        need(record["assurance"] in self.policy.assurance, "assurance")
        iak, credential = record.get("iak"), record["proof"]["credential"]
        if iak is not None:
            factory, raw = Public(un64(iak["public"])), un64(iak["certify"]["attest"])
            tpm_keys(factory, self.sk)
            words = Attest(raw)
            attested(factory, raw, un64(iak["certify"]["signature"]), words, 0x8017)
            need(words.extra == sha(b"edgeprov.vouch\0" + un64(record["nonce"])), "nonce of the factory key")
            need(words.name == self.ak.name, "certified by the factory key")
            certificate = x509.load_der_x509_certificate(un64(iak["certificate"]))
            need(spki(certificate.public_key()) == spki(factory.key), "certificate of the factory key")
        proved = {"activated": record["ek"], "vouched": iak}.get(credential)
        need(bool(proved) or (record["assurance"], credential) == ("dev", "none"), "assurance without proof")
        self.policy.not_denied("device", record["device"])
        self.policy.not_denied("device", record["enrollment"])
        need(record["device"] == self.note("device"), "kit of another device")
        need(record["enrollment"] == self.note("enrollment"), "kit of another enrollment")
        self.device_record, self.above = record, chain[1:]

    def step_2(self) -> None:
        statement, name, key = device_statement(self.policy, self.kit, "device", self.above, self.predicate, self.at)
        need(name == self.device_record["device"] and spki(key) == spki(self.sk.key), "another signer")
        build, run = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
        need(build["buildType"] == "https://edgeprov.dev/inference/v1", "build type")
        models = [item["digest"]["sha256"] for item in build["resolvedDependencies"] if item.get("name") == "model"]
        model, slot = build["externalParameters"]["model"], build["externalParameters"]["slot"]
        need(models == [model[7:]], "model twice")
        need(
            (model, slot, run["builder"]["id"]) == (self.note("model"), self.note("slot"), self.note("device")),
            "claims",
        )
        need(build["internalParameters"]["assurance"] == self.device_record["assurance"], "assurance")
        self.policy.not_denied("kit", self.kit.digest)
        self.policy.not_denied("model", self.note("model").removeprefix("sha256:"))
        self.statement, self.invocation = statement, run["metadata"]["invocationId"]
        need(len(statement["subject"]) == 1, "subjects")

        def product(wanted: str, kind: str) -> bytes:
            found = [item for item in run["byproducts"] if item["name"] == wanted]
            need(len(found) == 1 and found[0]["mediaType"] == kind, f"byproduct {wanted}")
            return un64(found[0]["content"])

        self.quote_raw = unpack(product("tpm-quote", "application/vnd.edgeprov.tpm.quote.v1"))
        self.counter_raw = unpack(product("tpm-counter", "application/vnd.edgeprov.tpm.counter.v1"))
        need(isinstance(self.quote_raw, list) and len(self.quote_raw) == 3, "quote")
        self.quote_pcrs = self.quote_raw.pop()
        for item in (self.quote_raw, self.counter_raw):
            need(
                isinstance(item, list) and len(item) == 2 and all(isinstance(part, bytes) for part in item),
                "attestation",
            )
        pcr_values(self.quote_pcrs)
        self.log = product("event-log", "application/vnd.edgeprov.event-log.v1+json-seq")

    def step_3(self) -> None:
        d = bytes.fromhex(self.kit.digest)
        self.quote, self.counter = Attest(self.quote_raw[0]), Attest(self.counter_raw[0])
        need(self.quote.extra == d and self.counter.extra == d, "made for another kit")
        self.opened: list[tuple[dict, Attest, dict]] = []
        for segment in self.segments:
            need(segment["quote"] is not None, "segment without quote")
            quote = Attest(segment["quote"]["attest"])
            need(quote.extra == sha(segment["header"]), "segment quote made for another header")
            self.opened.append((unpack(segment["header"]), quote, segment))

    def step_4(self) -> None:
        attested(self.ak, *self.quote_raw, self.quote, 0x8018)
        attested(self.ak, *self.counter_raw, self.counter, 0x8014)
        for _, quote, segment in self.opened:
            attested(self.ak, segment["quote"]["attest"], segment["quote"]["signature"], quote, 0x8018)

    def step_5(self) -> None:
        boot = (self.quote.resets, self.quote.restarts)
        need(boot == (self.counter.resets, self.counter.restarts), "two boots")
        need(self.invocation == f"{boot[0]}.{self.note('seq')}", "invocation")
        for header, quote, _ in self.opened:
            need(
                (header["reset_count"], header["restart_count"]) == (quote.resets, quote.restarts),
                "header of another boot",
            )
            need((quote.resets, quote.restarts) <= boot, "segment of a later boot")
            need(quote.resets != boot[0] or quote.clock <= self.quote.clock, "segment after the sealing")

    def step_6(self) -> None:
        self.active: list[dict[str, str | None]] = []
        for quote, pairs, log in [
            (self.quote, self.quote_pcrs, self.log),
            *((quote, segment["quote"]["pcrs"], segment["log"]) for _, quote, segment in self.opened),
        ]:
            self.active.append(self.active_models(quote, pairs, log))

    def active_models(self, quote: Attest, pairs: list, log: bytes) -> dict[str, str | None]:
        """The PCRs of a quote are as they should be; gives the active model of each slot."""
        values = pcr_values(pairs)
        # R-pcr-1, R-pcr-2: what is quoted, and the values beside it.
        need(quote.selection == [(0x0B, sum(1 << pcr for pcr in values))], "selection")
        need(quote.pcr_digest == sha(b"".join(values[pcr] for pcr in sorted(values))), "PCR values beside a quote")
        # R-pcr-3: the model PCR.
        quoted = [pcr for pcr in self.policy.pcrs if pcr in values]
        pcr = load_json(log[1:].split(b"\x1e")[0])["pcr"] if log else (quoted or [-1])[0]
        events, value = replay(log, pcr)
        need(pcr in quoted and values[pcr] == value, "value of the model PCR")
        # R-pcr-4: a named set, whole.
        need(
            not self.policy.boot
            or any(all(values.get(pcr) == golden for pcr, golden in wanted.items()) for wanted in self.policy.boot),
            "boot PCRs",
        )
        return {slot: model if kind == "activate" else None for kind, slot, model in events}

    def step_7(self) -> None:
        need(self.opened or self.note("records") == "0", "no segment")
        for (header, _, segment), active in zip(self.opened, self.active[1:], strict=True):
            named = (header["device"], header["enrollment"].hex())
            need(named == (self.note("device"), self.note("enrollment")), "segment of another device or enrollment")
            if segment["ranges"]:
                need((header["model"], header["slot"]) == (self.note("model"), self.note("slot")), "another model")
            need(active.get(header["slot"]) == header["model"], "model not measured")

    def step_8(self) -> None:
        counter_shows(self.counter, self.device_record["counter_index"], int(self.note("seq")))

    def step_9(self) -> None:
        seq, base = int(self.note("seq")), self.device_record["counter_base"]
        need(seq > base and (self.note("prev") == "none" or seq > base + 1), "place")
        records = int(self.note("records"))
        ends = (int(self.note("first")), int(self.note("last"))) if records else (None, None)
        numbers_fit(self.contents, [header for header, _, _ in self.opened], base, seq, records, ends)

    def step_10(self) -> None:
        need(not self.policy.firmware or self.quote.firmware in self.policy.firmware, "firmware")

    def step_11(self) -> None:
        path = "evidence/evidence.msgpack.zst"
        layers = [
            item
            for item in self.manifest["layers"]
            if item.get("annotations", {}).get("org.cncf.model.filepath") == path
        ]
        need(layers and layers[0]["digest"] == "sha256:" + hashlib.sha256(self.layer).hexdigest(), "evidence layer")
        plain = stored_evidence(self.layer)
        need(plain is None or plain == self.evidence, "evidence is not what the layer holds")
        self.inclusion(int(self.note("records")), bytes.fromhex(self.note("merkle").removeprefix("sha256:")))
        record = unpack(self.record)
        need(isinstance(record, list) and len(record) == 9, "record")
        need(record[0] == nth_number(self.contents, self.index), "record number")
        self.record_fits(record, self.segment_of(self.index)["outputs"])

    def segment_of(self, index: int) -> dict:
        """Header of the segment that holds the record at this place."""
        for segment in self.segments:
            count = sum(end - start + 1 for start, end in segment["ranges"])
            if index < count:
                return unpack(segment["header"])  # type: ignore[return-value]
            index -= count
        raise Bad("no record at this place")

    @staticmethod
    def record_fits(record: list, tensors: list) -> None:
        """Section 11: flags, and outputs that have the shapes that header and record say."""
        flags, outputs, shapes = record[4:7]
        need(type(flags) is int and flags in (0, 1), "flags")
        need(isinstance(outputs, list) and len(outputs) == len(tensors), "outputs")
        need((shapes is not None) == any(-1 in tensor["shape"] for tensor in tensors), "shapes")
        need(shapes is None or (isinstance(shapes, list) and len(shapes) == len(tensors)), "shapes")
        for place, (output, tensor) in enumerate(zip(outputs, tensors, strict=True)):
            actual = tensor["shape"] if shapes is None else shapes[place]
            if -1 not in tensor["shape"]:
                need(shapes is None or actual is None, "shape of an output whose shape is fixed")
                actual = tensor["shape"]
            need(isinstance(actual, list) and len(actual) == len(tensor["shape"]), "rank")
            for size, known in zip(actual, tensor["shape"], strict=True):
                need(type(size) is int and 0 <= size < 2**31 and known in (-1, size), "dimension")
            need(
                isinstance(output, bytes) and len(output) == math.prod(actual) * DTYPE_BYTES[tensor["dtype"]], "length"
            )

    def inclusion(self, size: int, root: bytes) -> None:
        """RFC 9162, 2.1.3.2."""
        need(isinstance(self.index, int) and 0 <= self.index < size, "index")
        fn, sn, value = self.index, size - 1, sha(b"\x00" + self.record)
        for item in self.path:
            need(sn != 0, "path too long")
            if fn & 1 or fn == sn:
                value = sha(b"\x01" + item + value)
                while not fn & 1 and fn:
                    fn, sn = fn >> 1, sn >> 1
            else:
                value = sha(b"\x01" + value + item)
            fn, sn = fn >> 1, sn >> 1
        need(sn == 0 and value == root, "Merkle path")

    def step_12(self) -> None:
        need("sha256:" + self.model.digest == self.note("model"), "another model")
        model_signed(self.policy, self.model, self.at)

    def run(self) -> None:
        for number in range(1, self.last_step + 1):
            try:
                getattr(self, f"step_{number}")()
            except (Bad, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                raise Refused(number, f"{type(error).__name__}: {error}") from error


def counter_shows(attest: Attest, handle: int, value: int) -> None:
    """NV_Certify of the whole written counter (section 21, step 8)."""
    index = handle.to_bytes(4, "big")
    name = b"\x00\x0b" + sha(index + b"\x00\x0b" + b"\x22\x06\x00\x14" + b"\x00\x00" + b"\x00\x08")
    need(attest.index == name and attest.offset == 0 and len(attest.contents) == 8, "counter")
    need(int.from_bytes(attest.contents, "big") == value, "counter value")


def enrollment_of(record: dict, ak: Public, nonce: bytes, base: int) -> None:
    """Enrollment id, counter base, `replaces` and `bin` (section 19)."""
    words = record["counter"]
    counter = Attest(un64(words["attest"]))
    attested(ak, un64(words["attest"]), un64(words["signature"]), counter, 0x8014)
    need(counter.extra == sha(b"edgeprov.enroll\0" + nonce), "nonce of the counter")
    counter_shows(counter, record["counter_index"], base)
    own, before, place = record["enrollment"], record.get("replaces"), record.get("bin")
    need(own == sha(ak.name + base.to_bytes(8, "big") + nonce).hex(), "enrollment id")
    need(before is None or (HEX64.fullmatch(before) and before != own), "replaces")
    need(place is None or re.fullmatch("[0-9a-z]{1,16}", place), "bin")


def stored_evidence(layer: bytes) -> bytes | None:
    """The file of a layer whose zstd frame holds one stored block; None for a compressed one."""
    at, body = 0, None
    while at + 512 <= len(layer) and layer[at : at + 512].strip(b"\0"):
        size = int(layer[at + 124 : at + 135].rstrip(b"\0 ") or b"0", 8)
        if layer[at + 156 : at + 157] in (b"0", b"\0"):
            body = layer[at + 512 : at + 512 + size]
        at += 512 + (size + 511) // 512 * 512
    if body is None or body[:5] != b"\x28\xb5\x2f\xfd\xa0":
        return None
    block = int.from_bytes(body[9:12], "little")
    return body[12:] if block & 7 == 1 and block >> 3 == len(body) - 12 else None


def check(raw: bytes, policy: Policy, at: dt.datetime, checker: type[Checker] = Checker) -> dict:
    try:
        checker(load_json(raw), policy, at).run()
    except Refused as refused:
        return {"verified": False, "step": refused.step, "why": refused.why}
    except (Bad, KeyError, TypeError, ValueError) as error:
        return {"verified": False, "why": f"another form: {error}"}
    return {"verified": True}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--trust", type=Path, required=True)
    parser.add_argument("--at", required=True)
    args = parser.parse_args(argv)
    at = dt.datetime.strptime(args.at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)
    verdict = check(args.file.read_bytes(), Policy(args.trust), at)
    print(json.dumps(verdict))
    return 0 if verdict["verified"] else 10
