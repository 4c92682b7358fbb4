# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The whole device flow on one machine: install, boot check, infer, label, seal, upload."""

from __future__ import annotations

import numpy as np
import pytest

import edgeprov
from edgeprov.device.boot import boot_check
from edgeprov.device.seal import seal
from edgeprov.device.upload import upload
from edgeprov.errors import ModelNotReady
from tests.support.kits import blocks_of
from tests.support.site import CASES, Site


def test_whole_flow(site: Site) -> None:
    site.install_identity()
    site.install()
    cases = np.load(CASES)
    with edgeprov.open_device() as device:
        model = device.load_model()
        results = [model.run(row.reshape(1, 30), quantise=True) for row in cases["X"]]
        for result, label in zip(results, cases["y"].tolist(), strict=True):
            if result.record.n % 10 == 0:
                device.label(result.record, label)
        values = [float(model.dequantise(result)[0].reshape(-1)[0]) for result in results]
    assert [result.record.n for result in results] == list(range(1, 144))
    right = sum((value > 0.5) == bool(label) for value, label in zip(values, cases["y"], strict=True))
    assert right == 139  # tflite-runtime; TensorFlow's own interpreter gets one more

    sealed = seal(site.context)
    assert len(sealed) == 1
    assert sealed[0].contents is not None
    assert (sealed[0].contents.records, sealed[0].contents.labels) == (143, 14)
    verdict, parts = site.verify(site.context.state().layout, sealed[0].entry.digest)
    assert verdict is not None
    records = [row for block in blocks_of(parts) for row in block.rows()]
    assert len(records) == 143

    done = upload(site.context)
    assert (len(done.sent), done.queued) == (1, 0)
    state = site.context.state()
    assert state.outbox() == ()
    assert not state.layout.has_manifest(sealed[0].entry.digest)
    assert site.layout.resolve(f"data/unit-1/{sealed[0].entry.repo[-4:]}:{sealed[0].entry.tag}")
    site.verify(site.layout, sealed[0].entry.digest)


def test_model_needs_this_boots_check(site: Site) -> None:
    site.install_identity()
    digest = site.install()
    site.reboot()
    with edgeprov.open_device() as device, pytest.raises(ModelNotReady, match="boot check"):
        device.load_model()
    (verdict,) = boot_check(site.context)
    assert (verdict.model, verdict.error) == (digest, None)
    with edgeprov.open_device() as device:
        assert device.load_model().digest == digest
