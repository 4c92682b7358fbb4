# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Tombstones (FORMAT.md section 9) and heads (section 22), each with the device record that judges it."""

from __future__ import annotations

import datetime as dt
import re

from tests.vectors.second.base import HEX64, Policy, load_json, need, pack, sha, un64, unpack
from tests.vectors.second.numbers import hashed, slot_of, standing_of, uint
from tests.vectors.second.signatures import Artifact, layer_of, load_manifest
from tests.vectors.second.steps import Checker, check, counter_shows
from tests.vectors.second.tpm import Attest, attested, pcr_values

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
SERIAL = re.compile(r"urn:edgeprov:device:[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
PREFIX = "dev.edgeprov."
CREATED = "org.opencontainers.image.created"
LOSSES = ("discarded", "damaged")
TOMBSTONE = "application/vnd.edgeprov.tombstone.v1+json"
HEAD = "application/vnd.edgeprov.head.v1+json"


def same_keys(value: object, *names: str) -> None:
    need(isinstance(value, dict) and set(value) == set(names), "members")


def utc(text: object) -> None:
    need(isinstance(text, str) and text.endswith("Z"), "time")
    assert isinstance(text, str)
    dt.datetime.fromisoformat(text)


class Tombstone(Checker):
    """Steps 1 to 10 on a tombstone."""

    predicate, last_step = "https://edgeprov.dev/tombstone/v1", 10

    def __init__(self, document: dict, policy: Policy, at: dt.datetime) -> None:
        self.policy, self.at = policy, at
        self.kit, self.device = Artifact(document["item"]), Artifact(document["device"])
        self.manifest, self.segments = self.kit.manifest, []
        raw = self.kit.layer
        need(self.manifest.get("artifactType") == TOMBSTONE and len(self.manifest["layers"]) == 1, "tombstone")
        assert raw is not None
        layer_of(self.manifest, raw, TOMBSTONE)
        self.body = body = load_json(raw)
        same_keys(
            body, "v", "at", "device", "enrollment", "slot", "model", "seq", "prev", "numbers", "lost", "standing"
        )
        need(type(body["v"]) is int and body["v"] == 1 and SERIAL.fullmatch(body["device"]), "version and device")
        need(HEX64.fullmatch(body["enrollment"]) and type(body["seq"]) is int, "enrollment and number")
        need(DIGEST.fullmatch(body["model"]) and (body["prev"] == "none" or DIGEST.fullmatch(body["prev"])), "digests")
        slot_of(body["slot"])
        utc(body["at"])
        notes, subject = self.manifest.get("annotations", {}), self.manifest.get("subject")
        said = {PREFIX + name: str(body[name]) for name in ("device", "enrollment", "slot", "model", "seq", "prev")}
        need(all(notes.get(name) == value for name, value in (said | {CREATED: body["at"]}).items()), "annotations")
        need(subject is None or subject["digest"] == body["model"], "subject")
        self.note = lambda name: notes[PREFIX + name]
        self.named()
        self.lost()
        self.standing = unpack(un64(body["standing"]))
        standing_of(self.standing)

    def named(self) -> None:
        """R-tom-1 (its upper half) to 3."""
        before: tuple[int, str | None] | None = None
        for entry in self.body["numbers"]:
            same_keys(entry, "number", "reason", "header")
            number, reason, header = entry["number"], entry["reason"], entry["header"]
            need(type(number) is int and number < self.body["seq"], "a number that is not below its own")
            need(reason in ("crash", "unknown", *LOSSES) and (header is not None) == (reason in LOSSES), "reason")
            need(header is None or HEX64.fullmatch(header), "header")
            if before is not None and number == before[0]:
                need(header is not None and before[1] is not None and header > before[1], "a number twice")
            need(before is None or number >= before[0], "order of numbers")
            before = (number, header)

    def lost(self) -> None:
        """R-tom-4."""
        end = -1
        for entry in self.body["lost"]:
            same_keys(entry, "first", "last", "count", "least", "greatest", "doubt", "reason")
            first, last, count, times = (
                entry["first"],
                entry["last"],
                entry["count"],
                (entry["least"], entry["greatest"]),
            )
            need(uint(first) and uint(last) and uint(count) and end < first <= last, "lost range")
            need(1 <= count <= last - first + 1, "count")
            need(times == (None, None) or (uint(times[0]) and uint(times[1]) and times[0] <= times[1]), "times")
            need(type(entry["doubt"]) is bool and entry["reason"] in LOSSES, "doubt and reason")
            end = last

    def step_7(self) -> None:
        """No segment, so no model."""

    def step_9(self) -> None:
        seq, base = int(self.note("seq")), self.device_record["counter_base"]
        need(seq > base and (self.note("prev") == "none" or seq > base + 1), "place")
        need(all(entry["number"] > base for entry in self.body["numbers"]), "a number from before the enrollment")
        gone = {entry["header"] for entry in self.body["numbers"]}
        for item in self.standing["open"]:
            need(base < item["number"] < seq and item["header"].hex() not in gone, "open segment")


class Head(Checker):
    """Steps 1, 3 to 6, 8 and 9 on a head."""

    last_step = 9

    def __init__(self, document: dict, policy: Policy, at: dt.datetime) -> None:
        self.policy, self.at, self.device = policy, at, Artifact(document["device"])
        raw, nonce, manifest = un64(document["head"]), document["nonce"], document["manifest"]
        self.asked = None if nonce is None else un64(nonce)
        self.body = body = load_json(raw)
        same_keys(body, "v", "device", "enrollment", "nonce", "newest", "at", "standing", "quote", "counter", "log")
        need(type(body["v"]) is int and body["v"] == 1 and SERIAL.fullmatch(body["device"]), "version and device")
        need(HEX64.fullmatch(body["enrollment"]), "enrollment")
        need(body["newest"] is None or DIGEST.fullmatch(body["newest"]), "newest item")
        utc(body["at"])
        self.nonce = None if body["nonce"] is None else un64(body["nonce"])
        self.standing, self.log = un64(body["standing"]), un64(body["log"])
        standing_of(unpack(self.standing))
        same_keys(body["quote"], "attest", "signature", "pcrs")
        same_keys(body["counter"], "attest", "signature")
        self.quote_raw = [un64(body["quote"][name]) for name in ("attest", "signature")]
        self.counter_raw = [un64(body["counter"][name]) for name in ("attest", "signature")]
        self.quote_pcrs = [[pcr, un64(value)] for pcr, value in body["quote"]["pcrs"]]
        pcr_values(self.quote_pcrs)
        self.note = lambda name: {"device": body["device"], "enrollment": body["enrollment"]}[name]
        if manifest is not None:
            artifact = load_manifest(un64(manifest))
            need(artifact.get("artifactType") == HEAD and len(artifact["layers"]) == 1, "artifact of a head")
            layer_of(artifact, raw, HEAD)
            said = {PREFIX + "device": body["device"], PREFIX + "enrollment": body["enrollment"], CREATED: body["at"]}
            need(all(artifact["annotations"].get(name) == value for name, value in said.items()), "annotations")

    def step_2(self) -> None:
        """No signature: AK vouches."""

    def step_3(self) -> None:
        need(self.nonce == self.asked, "another nonce")
        need(self.nonce is None or 8 <= len(self.nonce) <= 64, "length of the nonce")
        newest = self.body["newest"]
        facts = {
            "device": self.body["device"],
            "enrollment": bytes.fromhex(self.body["enrollment"]),
            "nonce": self.nonce,
            "newest": None if newest is None else bytes.fromhex(newest[7:]),
            "at": self.body["at"],
            "standing": self.standing,
        }
        bound = sha(b"edgeprov.head\0" + pack(facts))
        self.quote, self.counter = Attest(self.quote_raw[0]), Attest(self.counter_raw[0])
        need(self.quote.extra == bound and self.counter.extra == bound, "made for another head")

    def step_4(self) -> None:
        attested(self.ak, *self.quote_raw, self.quote, 0x8018)
        attested(self.ak, *self.counter_raw, self.counter, 0x8014)

    def step_5(self) -> None:
        boots = [(item.resets, item.restarts) for item in (self.quote, self.counter)]
        need(boots[0] == boots[1], "two boots")

    def step_6(self) -> None:
        self.active_models(self.quote, self.quote_pcrs, self.log)

    def step_7(self) -> None:
        """No model."""

    def step_8(self) -> None:
        self.value = int.from_bytes(self.counter.contents, "big")
        counter_shows(self.counter, self.device_record["counter_index"], self.value)

    def step_9(self) -> None:
        base = self.device_record["counter_base"]
        need(self.value >= base, "counter below the base")
        standing = unpack(self.standing)
        assert isinstance(standing, dict)
        for item in standing["open"]:
            need(base < item["number"] <= self.value and hashed(item["header"]), "open segment")


def check_item(raw: bytes, policy: Policy, at: dt.datetime) -> dict:
    """Judge a tombstone or a head."""
    return check(raw, policy, at, {"tombstone": Tombstone, "head": Head}[load_json(raw)["kind"]])
