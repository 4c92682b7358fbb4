# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Evidence part and standing (FORMAT.md sections 8 and 9), and the numbers in them (section 21, step 9)."""

from __future__ import annotations

import re

from tests.vectors.second.base import need, sha, unpack

TOP = 2**63 - 1


def evidence_of(raw: bytes) -> dict:
    """The evidence part; what is not of its form is not a proof."""
    value = unpack(raw)
    need(isinstance(value, dict) and set(value) == {"v", "segments", "standing", "events"}, "evidence")
    need(type(value["v"]) is int and value["v"] == 1, "version of the evidence")
    need(isinstance(value["segments"], list) and len(value["segments"]) <= 10_000, "segments")
    numbers: list[tuple[int, int]] = []
    for segment in value["segments"]:
        need(isinstance(segment, dict) and set(segment) == {"header", "log", "quote", "ranges", "unused"}, "segment")
        need(isinstance(segment["header"], bytes) and isinstance(segment["log"], bytes), "header and log")
        if segment["quote"] is not None:
            quote_of(segment["quote"])
        apart(ranges_of(segment["ranges"]) + ranges_of(segment["unused"]))
        numbers += ranges_of(segment["ranges"])
    apart(numbers)
    standing_of(value["standing"])
    need(isinstance(value["events"], list) and len(value["events"]) <= 1_000, "events")
    for event in value["events"]:
        event_of(event)
    return value


def quote_of(value: object) -> None:
    need(isinstance(value, dict) and set(value) == {"attest", "signature", "pcrs"}, "quote of a segment")
    need(isinstance(value["attest"], bytes) and isinstance(value["signature"], bytes), "attestation")
    last = -1
    for item in value["pcrs"]:
        need(isinstance(item, list) and len(item) == 2 and type(item[0]) is int, "PCR")
        need(last < item[0] < 24 and isinstance(item[1], bytes) and len(item[1]) == 32, "PCR values")
        last = item[0]


def ranges_of(value: object) -> list[tuple[int, int]]:
    need(isinstance(value, list), "ranges")
    found, end = [], -2
    for item in value:
        need(isinstance(item, list) and len(item) == 2 and all(type(bound) is int for bound in item), "range")
        need(0 <= item[0] <= item[1] <= TOP and item[0] > end + 1, "ranges in order, and merged")
        end = item[1]
        found.append((item[0], item[1]))
    return found


def apart(ranges: list[tuple[int, int]]) -> None:
    ordered = sorted(ranges)
    for number in range(1, len(ordered)):
        need(ordered[number - 1][1] < ordered[number][0], "a record number twice")


def uint(value: object) -> bool:
    return type(value) is int and 0 <= value <= TOP


def hashed(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == 32


def slot_of(value: object) -> None:
    need(isinstance(value, str) and re.fullmatch("[a-z0-9-]{1,32}", value), "slot")


def standing_of(value: object) -> None:
    names = {"at_ns", "floor_ns", "doubt", "final", "newest", "open", "stops"}
    need(isinstance(value, dict) and set(value) == names, "standing")
    need(uint(value["at_ns"]) and uint(value["floor_ns"]), "times of the standing")
    need(isinstance(value["doubt"], bool) and isinstance(value["final"], bool), "doubt and final")
    need(value["newest"] is None or hashed(value["newest"]), "newest header")
    need(isinstance(value["open"], list) and isinstance(value["stops"], list), "open segments and stops")
    need(len(value["open"]) <= 1_000 and len(value["stops"]) <= 1_000, "too many")
    need(not (value["final"] and value["open"]), "final, and yet open")
    need(value["newest"] is not None or not value["open"], "open, and yet no newest")
    before = None
    for item in value["open"]:
        open_of(item)
        place = (item["number"], item["header"])
        need(before is None or before < place, "order of open segments")
        before = place
    for item in value["stops"]:
        need(
            isinstance(item, dict) and set(item) == {"slot", "header", "after", "resumed", "bound_ms", "at_ns"}, "stop"
        )
        slot_of(item["slot"])
        need(hashed(item["header"]) and all(uint(item[name]) for name in ("resumed", "bound_ms", "at_ns")), "stop")
        need(item["after"] is None or (uint(item["after"]) and item["after"] < item["resumed"]), "stop")


def open_of(item: object) -> None:
    names = {"number", "header", "slot", "first", "last", "leaf", "least_ns", "greatest_ns", "flags"}
    need(isinstance(item, dict) and set(item) == names, "open segment")
    slot_of(item["slot"])
    need(uint(item["number"]) and hashed(item["header"]) and type(item["flags"]) is int, "open segment")
    about = [item[name] for name in ("first", "last", "leaf", "least_ns", "greatest_ns")]
    if all(value is None for value in about):
        need(item["flags"] == 0, "flags of no record")
        return
    need(item["flags"] in (0, 1) and hashed(item["leaf"]), "flags and leaf")
    need(all(uint(value) for value in (about[0], about[1], about[3], about[4])), "records of an open segment")
    need(about[0] <= about[1] and about[3] <= about[4], "least and greatest")


def event_of(event: object) -> None:
    need(isinstance(event, list) and len(event) == 6, "event")
    kind, at, mono, flags, slot, details = event
    need(isinstance(kind, str) and re.fullmatch("[a-z0-9-]{1,64}", kind), "kind of an event")
    need(uint(at) and uint(mono) and type(flags) is int and flags in (0, 1), "times and flags of an event")
    need(isinstance(details, dict), "details of an event")
    if slot is not None:
        slot_of(slot)


# -- section 21, step 9 -----------------------------------------------------------------------------


def numbers_fit(evidence: dict, headers: list[dict], base: int, seq: int, records: int, ends: tuple) -> None:
    """Numbers of segments, of records and of open segments."""
    last, hashes, before = base, [], []
    for segment, header in zip(evidence["segments"], headers, strict=True):
        need(base < header["number"] < seq, "number of a segment")
        need(header["number"] > last or (header["number"] == last and header["shared"]), "order of segments")
        own = sha(segment["header"])
        need(own not in hashes and own not in before and header["prev"] not in before, "chain of headers")
        need(header["prev"] is not None or not hashes, "a later header without one before it")
        last = header["number"]
        hashes.append(own)
        before.append(header["prev"])
    ranges = [item for segment in evidence["segments"] for item in ranges_of(segment["ranges"])]
    need(sum(end - start + 1 for start, end in ranges) == records, "count of records")
    named = (min(start for start, _ in ranges), max(end for _, end in ranges)) if ranges else (None, None)
    need(named == ends, "first and last record")
    for item in evidence["standing"]["open"]:
        need(base < item["number"] < seq and item["header"] not in hashes, "open segment")


def nth_number(evidence: dict, index: int) -> int:
    """Number of the record at this place of the kit."""
    for segment in evidence["segments"]:
        for start, end in segment["ranges"]:
            if index <= end - start:
                return start + index
            index -= end - start + 1
    need(False, "no record at this place")
    return -1
