# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A model that arrives over several contacts: nothing is fetched twice, nothing wrong is kept."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprov.errors import DigestMismatch, RegistryError, StoreBusy
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.limits import MIB
from edgeprov.registry.download import download
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from edgeprov.registry.retry import OutOfTime, Pace, WaitClock
from edgeprov.store.layout import Layout
from tests.support.faultproxy import FaultProxy
from tests.support.registries import docker_registry
from tests.support.sender import Hours

REPO = "models/wdbc"
CONTENT = random.Random(5).randbytes(3 * MIB + 7)
BLOB = describe(CONTENT, "application/x-model")


class Broken:
    """A registry whose line is cut after the numbers of bytes in ``cuts``."""

    name = "broken"

    def __init__(self, cuts: list[int], content: bytes = CONTENT, ignore_range: bool = False) -> None:
        self.cuts = cuts
        self.content = content
        self.ignore_range = ignore_range
        self.served = 0
        self.offsets: list[int] = []

    def fetch_blob(self, _repo: str, blob: Descriptor, *, offset: int = 0) -> Iterator[bytes]:
        self.offsets.append(offset)
        left = self.cuts.pop(0) if self.cuts else 1 << 60
        for start in range(offset, len(self.content), 65536):
            chunk = self.content[start : start + 65536]
            if len(chunk) > left:
                raise RegistryError("cut")
            left -= len(chunk)
            self.served += len(chunk)
            yield chunk


def pace(**options: float) -> Pace:
    hours = Hours()
    return Pace(clock=WaitClock(hours.monotonic, hours.sleep, hours.chance), **options)  # type: ignore[arg-type]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "layout")


def fetch(layout: Layout, registry: object, *, limit: Pace | None = None) -> int:
    with layout.resume_blob(BLOB) as partial:
        return download(registry, REPO, BLOB, partial, limit or pace())  # type: ignore[arg-type]


def test_cuts_in_one_contact_fetch_nothing_twice(layout: Layout) -> None:
    broken = Broken([100_000, 0, 1_000_000, 70_000])
    assert fetch(layout, broken) == len(CONTENT)
    assert broken.served == len(CONTENT)
    assert broken.offsets == sorted(broken.offsets)
    layout.verify_blob(BLOB)
    assert layout.partial_size(BLOB.digest) == 0


def test_the_next_run_goes_on_after_a_line_that_stays_dead(layout: Layout) -> None:
    with pytest.raises(RegistryError):
        fetch(layout, Broken([1_000_000, *[0] * 50]))
    assert not layout.has_blob(BLOB.digest)
    got = layout.partial_size(BLOB.digest)
    assert got > 900_000
    assert fetch(Layout.open(layout.blob_path(BLOB.digest).parents[2]), Broken([])) == len(CONTENT) - got
    layout.verify_blob(BLOB)


def test_a_budget_ends_the_contact_and_keeps_what_came(layout: Layout) -> None:
    with pytest.raises(OutOfTime):
        fetch(layout, Broken([1_000_000, *[0] * 50]), limit=pace(budget_s=60))
    assert layout.partial_size(BLOB.digest) > 900_000


def test_what_a_power_cut_damaged_is_fetched_again(layout: Layout) -> None:
    with pytest.raises(RegistryError):
        fetch(layout, Broken([1_000_000, *[0] * 50]))
    partial = next(layout.blob_path(BLOB.digest).parents[2].rglob("partial-*"))
    partial.write_bytes(bytes(partial.stat().st_size))
    assert fetch(layout, Broken([])) > len(CONTENT)  # the rest, and then all of it
    layout.verify_blob(BLOB)


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"x", bytes(len(CONTENT))])
def test_other_bytes_are_refused_and_leave_nothing(layout: Layout, content: bytes) -> None:
    with pytest.raises(DigestMismatch):
        fetch(layout, Broken([], content))
    assert not layout.has_blob(BLOB.digest)
    assert layout.partial_size(BLOB.digest) == 0


def test_two_processes_do_not_write_into_one_file(layout: Layout) -> None:
    with layout.resume_blob(BLOB), pytest.raises(StoreBusy), layout.resume_blob(BLOB):
        pass


def test_what_nobody_wants_any_more_is_dropped(layout: Layout) -> None:
    with layout.resume_blob(BLOB) as partial:
        partial.write(b"begun")
    layout.drop_partials([BLOB.digest])
    assert layout.partial_size(BLOB.digest) == 5
    layout.drop_partials([])
    assert layout.partial_size(BLOB.digest) == 0


@pytest.mark.slow
def test_a_real_registry_over_a_bad_link(layout: Layout, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry") as host, FaultProxy(host, seed=3, share=0.5, limit=20).serve() as link:
        OrasRegistry(host, settings=RegistrySettings(plain_http=True)).push_blob(REPO, BLOB, CONTENT)
        registry = OrasRegistry(link.host, settings=RegistrySettings(plain_http=True, connect_s=2, read_s=1))
        while not layout.has_blob(BLOB.digest):
            try:
                fetch(layout, registry)
            except RegistryError as error:
                assert error.retryable
    layout.verify_blob(BLOB)
