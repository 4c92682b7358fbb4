# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What the real `kit info` showed of a data kit of ours is what our config says; the output was kept once."""

from __future__ import annotations

import json

import yaml

from edgeprov.formats.datakit import EVIDENCE_NAME, EVIDENCE_PATH, PART_LAYER, Part, build_datakit, part_name, part_path
from edgeprov.formats.descriptor import describe
from edgeprov.formats.digest import parse_digest
from tests.support.kits import KITS


def test_kit_shows_what_we_wrote() -> None:
    shown = yaml.safe_load((KITS / "kit-info-data-kit.yaml").read_text())
    model = parse_digest(shown["datasets"][0]["parameters"]["sourceModel"])
    kinds = (("records", 1), ("records", 2), ("outputs", 1), ("outputs", 2), ("labels", 1), ("label-values", 1))
    names = [(kind, part_name(kind, n), part_path(kind, n)) for kind, n in kinds]
    parts = [
        Part(kind=kind, name=name, path=path, layer=describe(name.encode(), PART_LAYER))
        for kind, name, path in (*names, ("evidence", EVIDENCE_NAME, EVIDENCE_PATH))
    ]
    _, config = build_datakit(
        model=model,
        device="urn:edgeprov:device:dev1",
        enrollment=bytes(32),
        slot="default",
        seq=3,
        prev=None,
        records=2000,
        labels=1,
        first=1,
        last=2000,
        recorded_first_ns=0,
        recorded_last_ns=1,
        merkle=bytes(32),
        labels_merkle=bytes(32),
        parts=parts,
        created="2026-01-01T00:00:00Z",
    )
    ours = json.loads(config)
    for item in ours["datasets"]:
        # kit keeps these in the config and leaves them out of what it shows.
        assert item.pop("digest") == item.pop("diffId")
    assert ours == shown
