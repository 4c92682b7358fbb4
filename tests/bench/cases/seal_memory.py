# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A process that prepares a spool, and another that only seals it, so that its memory is that of sealing.

The TPM's part is replaced by answers that were computed before, so that no key library is loaded.
"""

from __future__ import annotations

import json
import os
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class AnsweringTpm:
    """Well-formed answers without meaning: nothing on the device looks into its own evidence."""

    assurance = "dev"
    public_key_spki = b""

    def __init__(self, root: Path) -> None:
        saved = json.loads((root / "answers.json").read_text())
        names = ("attest", "signature", "der", "ak")
        self._attest, self._signature, self._der, self._ak = (b64decode(saved[key]) for key in names)
        self.certificate_chain = tuple(b64decode(item) for item in saved["chain"])
        self.counter, self._pcr, self._clock = saved["counter"], bytes.fromhex(saved["pcr"]), saved["clock"]

    @contextmanager
    def group(self) -> Iterator[None]:
        yield

    def quote(self, _qualifying: bytes, *, model_pcr: bytes | None = None) -> Any:
        from edgeprov.formats.tpmt import Attestation

        pcrs = () if model_pcr is None else ((14, model_pcr),)
        return Attestation(attest=self._attest, signature=self._signature, pcrs=pcrs)

    certify_counter = quote

    def identity(self) -> SimpleNamespace:
        return SimpleNamespace(ak_public=self._ak)

    def sign_digest(self, _digest: bytes) -> bytes:
        return self._der

    def increment_counter(self) -> int:
        self.counter += 1
        return int(self.counter)

    def read_counter(self) -> int:
        return int(self.counter)

    def read_pcr(self) -> bytes:
        return self._pcr

    def clock(self) -> SimpleNamespace:
        return SimpleNamespace(clock_ms=self._clock, reset_count=1, restart_count=0, safe=True)


def prepare(folder: Path, total: int) -> None:
    from edgeprov.formats.b64 import b64
    from tests.bench.cases.seal import make_site, record_large

    site = make_site(folder, "full")
    record_large(site, total, os.urandom(20_000_000))
    sample = site.tpm.quote(bytes(32))
    (folder / "answers.json").write_text(
        json.dumps(
            {
                "attest": b64(sample.attest), "signature": b64(sample.signature), "der": b64(site.tpm.sign_digest(bytes(32))), "ak": b64(site.tpm.ak_public),
                "chain": [b64(item) for item in site.unit.record.certificates],
                "counter": site.tpm.counter, "pcr": site.tpm.read_pcr().hex(), "clock": site.tpm.clock_ms,
            }
        )
    )  # fmt: skip


def seal_it(folder: Path) -> None:
    from edgeprov.config import load_config
    from edgeprov.device.context import Context
    from edgeprov.device.seal import seal

    tpm = AnsweringTpm(folder)

    @contextmanager
    def opened(_self: Context) -> Iterator[AnsweringTpm]:
        yield tpm

    Context.tpm = Context.boot_tpm = opened  # type: ignore[method-assign, assignment]
    seal(Context(load_config({"EDGEPROV_CONFIG": str(folder / "edgeprov.toml")})))


def sealed(folder: Path, total: int) -> None:
    """A device whose outbox holds one kit."""
    from edgeprov.device.seal import seal
    from tests.bench.cases.seal import make_site, record_large

    site = make_site(folder, "full")
    record_large(site, total, os.urandom(total + 10_000))
    seal(site.context)


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1] == "sealed":
        sealed(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        seal_it(Path(sys.argv[2]))
