# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""FORMAT.md says what the code does: worked example, limits, names of sections."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import edgeprov
import edgeprov.formats
from edgeprov.formats import merkle
from edgeprov.formats.block import encode_block
from edgeprov.formats.record import encode_record, keyed_input_digest
from edgeprov.limits import LIMITS
from tests.support.kits import START_NS, segment_header

TEXT = (Path(edgeprov.formats.__file__).parent / "FORMAT.md").read_text()


def example(name: str) -> str:
    """The hex of one entry of the worked example; it may go on over several lines."""
    match = re.search(rf"^{name} +((?:[0-9a-f]+\n? *)+)", TEXT.partition("## 33")[2], re.MULTILINE)
    assert match, name
    return re.sub(r"\s", "", match[1])


def test_the_worked_example_is_what_the_code_writes() -> None:
    header = segment_header()
    rows = [
        encode_record(1, START_NS, 13_000_000_000, 15_000, (bytes.fromhex("fb0281"),), bytes(range(32, 64))),
        encode_record(2, START_NS + 1_000_000_007, 14_000_000_007, 15_250, (bytes.fromhex("800280"),)),
    ]
    assert example("header") == header.raw.hex()
    assert example("sha256") == header.sha256.hex()
    for number, row in enumerate(rows, 1):
        assert example(f"record {number}") == row.hex()
        assert example(f"leaf {number}") == hashlib.sha256(b"\0" + row).hexdigest()
    assert example("root") == merkle.root(rows).hex()
    evidence, content = encode_block(rows, 0, header)
    assert example("evidence") == evidence.hex()
    assert example("outputs") == content.hex()
    assert keyed_input_digest(bytes(range(32)), [b"\x01\x02"]).hex() in TEXT


def test_the_limits_are_those_of_the_code() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|$", TEXT.partition("## 30")[2], re.MULTILINE))
    assert len(table) >= 20
    assert table == {name: str(getattr(LIMITS, name)) for name in table}


def test_sections_are_numbered_once() -> None:
    numbers = re.findall(r"^## (\d+) ", TEXT, re.MULTILINE)
    assert len(set(numbers)) == len(numbers)
    assert numbers == sorted(numbers, key=int)


def test_every_section_that_the_code_names_is_there() -> None:
    there = {*re.findall(r"^## \d+ (.+)$", TEXT, re.MULTILINE), *re.findall(r"\*([\w ]+)\.?\*", TEXT)}
    there |= {name for title in there for name in title.split(" and ")}
    missing = []
    for path in Path(edgeprov.__file__).parent.rglob("*.py"):
        for quoted in re.findall(r'FORMAT\.md,?(?: sections?)?((?:,? *(?:and )?"[A-Z][\w ]+")+)', path.read_text()):
            missing += [(path.name, name) for name in re.findall(r'"([^"]+)"', quoted) if name not in there]
    assert missing == []
