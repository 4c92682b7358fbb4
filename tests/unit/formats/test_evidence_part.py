# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Evidence parts: segments with their record numbers, standing, events."""

from __future__ import annotations

from typing import Any

import pytest

from edgeprov._dataclass import replace
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.evidence_part import DeviceEvent, EvidencePart, SegmentEvidence, encode_evidence, parse_evidence
from edgeprov.formats.packing import pack, unpack
from edgeprov.formats.standing import Standing
from edgeprov.formats.tpmt import Attestation
from edgeprov.limits import LIMITS
from tests.support.kits import segment_header

QUOTE = Attestation(attest=b"a", signature=b"s", pcrs=((4, bytes(32)), (14, b"\1" * 32)))
SEGMENT = SegmentEvidence(
    header=segment_header().raw, log=b"\x1e{}\n", quote=QUOTE, ranges=((0, 4), (9, 9)), unused=((5, 8),)
)
EMPTY = SegmentEvidence(header=segment_header(number=41).raw, log=b"", quote=None)
STANDING = Standing(at_ns=5)
EVENT = DeviceEvent(kind="activate", at_ns=1, mono_ns=2, flags=1, slot="default", details={"model": "sha256:00"})
ODD = DeviceEvent(kind="from-a-later-version", at_ns=1, mono_ns=2)


def test_evidence_comes_back() -> None:
    raw = encode_evidence([SEGMENT, EMPTY], STANDING, [EVENT, ODD])
    assert parse_evidence(raw) == EvidencePart(segments=(SEGMENT, EMPTY), standing=STANDING, events=(EVENT, ODD))
    assert (SEGMENT.records, EMPTY.records) == (6, 0)


def changed(path: str, value: Any) -> bytes:
    raw = encode_evidence([SEGMENT], STANDING, [EVENT])
    obj = unpack(raw, max_bytes=LIMITS.part_plain_bytes, what="evidence")
    place: Any = obj
    *way, last = path.split(".")
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if value is KeyError:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return pack(obj)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("v", 2), ("extra", 1), ("standing", KeyError), ("standing", {}), ("events", KeyError), ("segments", {}), ("segments", [5]),
        *((f"segments.0.{name}", value) for name, value in (
            ("header", "h"), ("header", b"h" * 70_000), ("log", None), ("log", b"x" * 300_000), ("extra", 1), ("ranges", KeyError), ("unused", None),
            ("quote", 5), ("quote", {}), ("quote.attest", "a"), ("quote.attest", b"a" * 5000), ("quote.pcrs", KeyError), ("quote.pcrs", [[14, b"x"]]), ("quote.pcrs", [14]),
            ("quote.pcrs", [[14, bytes(32)], [4, bytes(32)]]), ("quote.pcrs", [[14, bytes(32)]] * 2), ("quote.pcrs", [[24, bytes(32)]]), ("quote.pcrs", [[True, bytes(32)]]),
            ("ranges", [[4, 0]]), ("ranges", [[0]]), ("ranges", [[-1, 0]]), ("ranges", [[0, 1], [2, 3]]), ("ranges", [[5, 6], [0, 1]]), ("ranges", [["0", 1]]), ("ranges", [[0, 2**63]]), ("unused", [[4, 8]]),
        )),
        ("events", [5]), ("events", [[]]), ("events.0.0", "Upper"), ("events.0.0", ""), ("events.0.0", "x" * 65), ("events.0.1", -1), ("events.0.2", True), ("events.0.3", 2), ("events.0.4", "L"), ("events.0.4", 5), ("events.0.5", []),
    ],
)  # fmt: skip
def test_what_is_no_evidence_is_refused(path: str, value: object) -> None:
    with pytest.raises(FormatError):
        parse_evidence(changed(path, value))


def test_no_record_number_stands_in_two_segments() -> None:
    other = replace(EMPTY, ranges=((4, 4),))
    with pytest.raises(FormatError, match="twice"):
        parse_evidence(encode_evidence([SEGMENT, other], STANDING))
    assert parse_evidence(encode_evidence([SEGMENT, replace(EMPTY, ranges=((5, 8),))], STANDING))


def test_events_have_bounds() -> None:
    assert parse_evidence(encode_evidence([], STANDING, [ODD] * LIMITS.kit_events))
    for many in ([ODD] * (LIMITS.kit_events + 1), [replace(ODD, details={"text": "x" * LIMITS.kit_events_bytes})]):
        with pytest.raises(LimitError):
            parse_evidence(encode_evidence([], STANDING, many))
