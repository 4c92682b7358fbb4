# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The processes that make a real device and record on it, one word each; none of them is measured.

make FOLDER SETTINGS MODEL_BYTES     enroll it on a swtpm of its own, install and activate a model
record FOLDER COUNT INPUT_BYTES      record results, as an application does
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from cryptography import x509

from edgeprov.config import load_config
from edgeprov.device.context import Context
from edgeprov.device.enrollment_request import create_request
from edgeprov.device.identity import create_identity, install_certificates
from edgeprov.formats.b64 import parse_b64
from tests.support import pki
from tests.support.site import DIGITS, MODELS, Site


def make(folder: Path, settings: str, model_bytes: str) -> None:
    folder.mkdir(parents=True)
    site = Site(folder, settings=settings)
    create_identity(site.context)
    request = json.loads(create_request(site.context, nonce=bytes(32)))
    csr = x509.load_der_x509_csr(parse_b64(request["csr"], "csr"))
    key = SimpleNamespace(public_key=csr.public_key)
    certificate = pki.device_certificate(site.world.device_root, site.serial, key)
    install_certificates(site.context, certificate.pem + site.world.device_root.pem)
    if size := int(model_bytes):
        # Bytes behind the flatbuffer belong to no tensor: the interpreter takes the file, whatever its size.
        weights = DIGITS.read_bytes()
        weights += os.urandom(size - len(weights))
    else:
        weights = (MODELS / "mobilenetv2_224_untrained_int8.tflite").read_bytes()
    (folder / "model.tflite").write_bytes(weights)
    site.install(site.publish(weights, name="model"))


def record(folder: Path, count: str, input_bytes: str) -> None:
    from tests.bench.cases.record import make_recorder

    size = int(input_bytes)
    context = Context(load_config({"EDGEPROV_CONFIG": str(folder / "edgeprov.toml")}))
    blob = memoryview(os.urandom(min(20_000_000, max(1, int(count)) * size) + size))
    with make_recorder(context, size or 30) as recorder:
        for number in range(int(count)):
            start = number * size % max(1, len(blob) - size)
            inputs = (blob[start : start + size],) if size else ()
            recorder.append((number.to_bytes(10, "little"),), duration_ns=15_000 + number % 977, inputs=inputs)


if __name__ == "__main__":
    word, place, *rest = sys.argv[1:]
    {"make": make, "record": record}[word](Path(place), *rest)
