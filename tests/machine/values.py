# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Values of the world: what devices, publishers and enrollers sign. A digest is the number under which it was made.

Times are minutes since the world began. FORMAT.md says what the members mean; only what a conclusion can depend on
is here.
"""

from __future__ import annotations

from typing import NamedTuple

DAY = 1440


class Header(NamedTuple):
    digest: int
    enrollment: str
    name: str
    number: int
    prev: int | None
    boot: int
    slot: str
    model: str
    user: str
    worker: int
    shared: bool


class Row(NamedTuple):
    """A record; ``leaf`` names its bytes."""

    n: int
    at: int
    doubt: bool
    leaf: int


class LabelRow(NamedTuple):
    n: int
    value: str | None
    at: int


class OpenSegment(NamedTuple):
    number: int
    header: int
    slot: str
    first: int | None
    last: int | None
    leaf: int | None
    least: int | None
    greatest: int | None
    doubt: bool


class Stop(NamedTuple):
    """Records after ``after`` and below ``resumed`` may have been lost in a power cut."""

    slot: str
    header: int
    after: int | None
    resumed: int
    at: int


class Standing(NamedTuple):
    at: int
    floor: int
    doubt: bool
    final: bool
    newest: int | None
    open: tuple[OpenSegment, ...]
    stops: tuple[Stop, ...]


class Sealed(NamedTuple):
    """A segment in a kit."""

    header: Header
    rows: tuple[Row, ...]
    unused: tuple[tuple[int, int], ...]


class Named(NamedTuple):
    """A number that a tombstone names."""

    number: int
    reason: str
    header: int | None


class Lost(NamedTuple):
    first: int
    last: int
    count: int
    least: int | None
    greatest: int | None
    doubt: bool
    reason: str


class Kit(NamedTuple):
    digest: int
    enrollment: str
    name: str
    certificate: int
    seq: int
    prev: int | None
    slot: str
    model: str
    segments: tuple[Sealed, ...]
    labels: tuple[LabelRow, ...]
    standing: Standing
    events: tuple[tuple[str, int], ...]
    resets: int
    clock: int
    kind: str = "kit"


class Tombstone(NamedTuple):
    digest: int
    enrollment: str
    name: str
    certificate: int
    seq: int
    prev: int | None
    slot: str
    model: str
    numbers: tuple[Named, ...]
    lost: tuple[Lost, ...]
    standing: Standing
    resets: int
    clock: int
    kind: str = "tombstone"


class Head(NamedTuple):
    digest: int
    enrollment: str
    name: str
    seq: int
    newest: int | None
    nonce_at: int | None
    standing: Standing
    resets: int
    clock: int
    kind: str = "head"


class Certificate(NamedTuple):
    number: int
    role: str
    identity: str
    since: int
    until: int


class DeviceRecord(NamedTuple):
    digest: int
    enrollment: str
    name: str
    board: str
    base: int
    replaces: str | None
    enrolled_at: int
    certificate: int
    kind: str = "record"


class Entry(NamedTuple):
    enrollment: str
    name: str
    base: int
    since: int
    until: int | None
    ended: str | None
    end: int | None
    names: tuple[str, ...]


class Roster(NamedTuple):
    digest: int
    version: int
    issued_at: int
    previous: int | None
    entries: tuple[Entry, ...]
    kind: str = "roster"


class Junk(NamedTuple):
    """Something that no trusted key signed, in the form of ``form`` (an artifact), or of nothing that is known."""

    digest: int
    form: object
    kind: str = "junk"


class Signature(NamedTuple):
    """A signature by a certificate (None: by nobody that is known); ``stamp``: a timestamp proves it was made before."""

    certificate: int | None
    stamp: int | None
