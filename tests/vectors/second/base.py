# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""JSON, base64 and canonical msgpack (FORMAT.md sections 2 and 3), and the trust policy (section 21)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import tomllib
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key

HEX64 = re.compile(r"[0-9a-f]{64}")


class Bad(Exception):
    """A signature or structure that does not count."""


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def need(condition: object, why: str) -> None:
    if not condition:
        raise Bad(why)


# -- section 2: JSON; canonical base64 --------------------------------------------------------------


def unique(pairs: list) -> dict:
    need(len({key for key, _ in pairs}) == len(pairs), "duplicate key")
    return dict(pairs)


def load_json(raw: bytes) -> dict:
    try:
        value = json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=lambda name: need(False, name))
    except (ValueError, RecursionError) as error:
        raise Bad(f"not JSON: {error}") from error
    need(isinstance(value, dict), "not an object")
    return value


def un64(text: object) -> bytes:
    need(isinstance(text, str), "not text")
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Bad("not base64") from error
    need(base64.b64encode(data).decode() == text, "not canonical base64")
    return data


def un64url(text: object) -> bytes:
    need(isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_-]*", text), "not base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# -- section 3: canonical msgpack -------------------------------------------------------------------


def unpack(data: bytes) -> object:
    value, end = _unpack(data, 0)
    need(end == len(data), "bytes behind the value")
    need(pack(value) == data, "not canonical")
    return value


def _unpack(d: bytes, i: int) -> tuple[object, int]:
    need(i < len(d), "cut short")
    t = d[i]
    i += 1

    def take(n: int) -> bytes:
        need(i + n <= len(d), "cut short")
        return d[i : i + n]

    if t <= 0x7F:
        return t, i
    if t >= 0xE0:
        return t - 256, i
    if 0x80 <= t <= 0x8F:
        return _map(d, i, t & 15)
    if 0x90 <= t <= 0x9F:
        return _list(d, i, t & 15)
    if 0xA0 <= t <= 0xBF:
        return take(t & 31).decode(), i + (t & 31)
    if t in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[t], i
    if t in (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB):
        width = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}[t]
        n = int.from_bytes(take(width), "big")
        i += width
        body = take(n)
        return (body if t < 0xD0 else body.decode()), i + n
    if t == 0xCB:
        return struct.unpack(">d", take(8))[0], i + 8
    if 0xCC <= t <= 0xCF:
        n = 1 << (t - 0xCC)
        return int.from_bytes(take(n), "big"), i + n
    if 0xD0 <= t <= 0xD3:
        n = 1 << (t - 0xD0)
        return int.from_bytes(take(n), "big", signed=True), i + n
    if t in (0xDC, 0xDD, 0xDE, 0xDF):
        width = 2 if t in (0xDC, 0xDE) else 4
        n = int.from_bytes(take(width), "big")
        return (_list if t < 0xDE else _map)(d, i + width, n)
    raise Bad(f"msgpack type {t:#x}")


def _list(d: bytes, i: int, n: int) -> tuple[list, int]:
    result = []
    for _ in range(n):
        value, i = _unpack(d, i)
        result.append(value)
    return result, i


def _map(d: bytes, i: int, n: int) -> tuple[dict, int]:
    result: dict = {}
    for _ in range(n):
        key, i = _unpack(d, i)
        need(isinstance(key, str) and key not in result, "map key")
        result[key], i = _unpack(d, i)
    return result, i


def pack(v: object) -> bytes:
    if v is None or isinstance(v, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[v]
    if isinstance(v, int):
        if 0 <= v < 128 or -32 <= v < 0:
            return bytes((v & 255,))
        for n, code in (
            ((1, 0xCC), (2, 0xCD), (4, 0xCE), (8, 0xCF)) if v >= 0 else ((1, 0xD0), (2, 0xD1), (4, 0xD2), (8, 0xD3))
        ):
            try:
                return bytes((code,)) + v.to_bytes(n, "big", signed=v < 0)
            except OverflowError:
                continue
        raise Bad("integer")
    if isinstance(v, float):
        return b"\xcb" + struct.pack(">d", v)
    if isinstance(v, bytes):
        n = len(v)
        return (
            b"\xc4" + n.to_bytes(1, "big")
            if n < 256
            else b"\xc5" + n.to_bytes(2, "big")
            if n < 65536
            else b"\xc6" + n.to_bytes(4, "big")
        ) + v
    if isinstance(v, str):
        raw = v.encode()
        n = len(raw)
        head = (
            bytes((0xA0 | n,))
            if n < 32
            else b"\xd9" + n.to_bytes(1, "big")
            if n < 256
            else b"\xda" + n.to_bytes(2, "big")
        )
        return head + raw
    if isinstance(v, list):
        n = len(v)
        return (
            bytes((0x90 | n,))
            if n < 16
            else b"\xdc" + n.to_bytes(2, "big")
            if n < 65536
            else b"\xdd" + n.to_bytes(4, "big")
        ) + b"".join(map(pack, v))
    need(isinstance(v, dict), "type")
    n = len(v)
    keys = sorted(v, key=str.encode)
    return (bytes((0x80 | n,)) if n < 16 else b"\xde" + n.to_bytes(2, "big")) + b"".join(
        pack(k) + pack(v[k]) for k in keys
    )


# -- section 21: trust policy -----------------------------------------------------------------------


class Policy:
    def __init__(self, folder: Path) -> None:
        toml = tomllib.loads((folder / "policy.toml").read_text()) if (folder / "policy.toml").exists() else {}
        device = toml.get("device", {})
        self.roles = toml.get("roles", {})
        self.assurance = device.get("assurance", [])
        self.firmware = device.get("firmware", [])
        pcr = device.get("pcr", 14)
        self.pcrs = pcr if isinstance(pcr, list) else [pcr]
        self.boot = [
            {int(key): bytes.fromhex(value) for key, value in values.items()}
            for values in device.get("boot_pcrs", {}).values()
        ]
        # No timestamp is read here, so an entry with a date (`from`) spares nothing.
        self.deny = {(item["type"], self._name(item["value"])) for item in toml.get("deny", [])}
        self.anchors: dict[str, list[x509.Certificate]] = {"publisher": [], "device": []}
        self.keys: list = []
        for path in sorted(folder.glob("*.pem")):
            for role, found in self.anchors.items():
                if path.name.startswith(role):
                    for kind, body in self._blocks(path.read_text()):
                        if kind == "CERTIFICATE":
                            found.append(x509.load_pem_x509_certificate(body.encode()))
                        elif role == "publisher":
                            self.keys.append(load_pem_public_key(body.encode()))

    @staticmethod
    def _blocks(text: str) -> list[tuple[str, str]]:
        return [(m[1], m[0]) for m in re.finditer(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----\n?", text, re.DOTALL)]

    @staticmethod
    def _name(text: str) -> str:
        if text.startswith(("urn:", "serial:")):
            return text
        return text.lower().removeprefix("sha256:").replace(":", "")

    def not_denied(self, kind: str, value: str) -> None:
        need((kind, value) not in self.deny, "denied")
