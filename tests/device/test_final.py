# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The end of an enrollment: a final head, after which nothing follows; the desk retires the enrollment by it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edgeprov
from edgeprov.device.attest import attest
from edgeprov.device.boot import boot_check
from edgeprov.device.seal import seal
from edgeprov.device.upload import unsent, upload
from edgeprov.errors import EvidenceInvalid, IdentityError, UsageError
from edgeprov.fleet.enrollment.roster_desk import final_number
from edgeprov.formats.head import parse_head
from tests.support.site import Site

NONCE = "ab" * 16
INPUT = np.zeros((1, 30), np.int8)


def infer(site: Site, count: int = 1) -> None:
    with edgeprov.open_device(site.config_file) as device:
        model = device.load_model()
        for _ in range(count):
            model.run(INPUT)


def test_nothing_follows_a_final_head(ready: Site):
    infer(ready, 3)
    raw = attest(ready.context, NONCE, final=True)
    assert parse_head(raw).parsed_standing().final
    counter = ready.tpm.counter
    for deed in (infer, lambda site: seal(site.context)):
        with pytest.raises(IdentityError, match="ended with a final head"):
            deed(ready)
    assert ready.tpm.counter == counter
    assert parse_head(attest(ready.context, NONCE, final=True)).parsed_standing().final, "it can be asked again"
    assert upload(ready.context).sent
    assert not unsent(ready.context.state())


def test_the_desk_takes_only_a_final_head_of_this_enrollment(ready: Site, tmp_path: Path):
    infer(ready, 3)
    seal(ready.context)
    device, policy = ready.unit.verified(), ready.world.policy
    with pytest.raises(EvidenceInvalid, match="not final"):
        final_number(device, attest(ready.context, NONCE), policy)
    raw = attest(ready.context, NONCE, final=True)
    assert final_number(device, raw, policy) == ready.tpm.counter
    with pytest.raises(EvidenceInvalid):
        final_number(ready.world.enroll("unit-2").verified(), raw, policy)
    with pytest.raises(EvidenceInvalid, match="no verified record"):
        final_number(None, raw, policy)
    forged = json.loads(raw) | {
        "standing": json.loads(attest(ready.context, NONCE, final=True))["standing"],
        "at": "2026-01-01T00:00:00Z",
    }
    with pytest.raises(EvidenceInvalid):
        final_number(device, json.dumps(forged).encode(), policy)


def test_an_application_that_stopped_behind_the_last_kit_is_in_no_way(ready: Site):
    """The kit ended its segment, and what it opened behind that holds no record: it ends with the boot."""
    with edgeprov.open_device(ready.config_file) as device:
        model = device.load_model()
        model.run(INPUT)
        with pytest.raises(UsageError, match="segments are open"):
            attest(ready.context, NONCE, final=True)
    with pytest.raises(UsageError) as refused:
        attest(ready.context, NONCE, final=True)
    assert "reboot" in (refused.value.advice or "")
    ready.reboot()
    boot_check(ready.context)
    assert parse_head(attest(ready.context, NONCE, final=True)).parsed_standing().final
    assert upload(ready.context).sent
