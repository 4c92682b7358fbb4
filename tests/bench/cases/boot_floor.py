# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The least that a boot check in Python can cost: its libraries, one digest, one signature. No checks, no state, no words.

Policy and configuration are TOML, manifests JSON, the signature is ECDSA: four libraries. The constructor of
ECDSA is passed by, for it loads the whole backend.
"""

import gc
import os
import sys

gc.disable()
sys.path.append(sys.argv[1])
import json  # noqa: E402
import tomllib  # noqa: E402
from hashlib import sha256  # noqa: E402

from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.hazmat.primitives.hashes import SHA256  # noqa: E402

MESSAGE = b"boot check"
POINT = "04b7abe3cbb49e5095ebd82857b7729ef163c94d5a80f76d3654ae01aba1169c8fb3711503a4910c4a83cbac72b1d9dce6c73270448460b4fa1c55419a7a69873d"
SIGNATURE = "304402202ba14a7bb0ce677fbf451782623b5e178fd0613ccf967a3bd13b7082cec2db4c0220101a3af2752f4691cfcc6cdf8f73568d25e0ab0ab6665551005a554a705a9d0a"


class Ecdsa(ec.ECDSA):
    algorithm = SHA256()

    def __init__(self):
        pass


tomllib.loads("")
json.loads("{}")
buffer, digest = bytearray(65536), sha256()
with open(sys.argv[2], "rb", buffering=0) as file:
    while count := file.readinto(buffer):
        digest.update(memoryview(buffer)[:count])
key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), bytes.fromhex(POINT))
key.verify(bytes.fromhex(SIGNATURE), MESSAGE, Ecdsa())
os._exit(0)
