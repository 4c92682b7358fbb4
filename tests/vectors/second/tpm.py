# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""TPM structures and the event log (FORMAT.md sections 16 and 19)."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from tests.vectors.second.base import HEX64, Bad, load_json, need, sha
from tests.vectors.second.signatures import der_signature

# -- section 19: TPM structures ---------------------------------------------------------------------


class Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        need(self.at + n <= len(self.data), "cut short")
        self.at += n
        return self.data[self.at - n : self.at]

    def u(self, n: int) -> int:
        return int.from_bytes(self.take(n), "big")

    def sized(self) -> bytes:
        return self.take(self.u(2))

    def end(self) -> None:
        need(self.at == len(self.data), "bytes behind the structure")


class Public:
    def __init__(self, raw: bytes) -> None:
        c = Cursor(raw)
        need((c.u(2), c.u(2)) == (0x23, 0x0B), "not an ECC key")
        self.attributes = c.u(4)
        self.policy = c.sized()
        need([c.u(2) for _ in range(5)] == [0x10, 0x18, 0x0B, 0x03, 0x10], "scheme or curve")
        x, y = c.sized(), c.sized()
        c.end()
        self.name = b"\x00\x0b" + sha(raw)
        self.qualified = b"\x00\x0b" + sha(b"\x40\x00\x00\x0b" + self.name)
        try:
            self.key = ec.EllipticCurvePublicNumbers(
                int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
            ).public_key()
        except ValueError as error:
            raise Bad("point not on the curve") from error


class Attest:
    """TPMS_ATTEST of type quote (0x8018), certify (0x8017) or NV certify (0x8014)."""

    def __init__(self, raw: bytes) -> None:
        c = Cursor(raw)
        need(c.take(4) == b"\xffTCG", "magic")
        self.kind = c.u(2)
        self.signer, self.extra = c.sized(), c.sized()
        self.clock, self.resets, self.restarts = c.u(8), c.u(4), c.u(4)
        need(c.u(1) <= 1, "safe")
        self.firmware = c.u(8)
        if self.kind == 0x8018:
            self.selection = [(c.u(2), int.from_bytes(c.take(c.u(1)), "little")) for _ in range(c.u(4))]
            self.pcr_digest = c.sized()
        elif self.kind == 0x8017:
            self.name, _ = c.sized(), c.sized()
        elif self.kind == 0x8014:
            self.index, self.offset, self.contents = c.sized(), c.u(2), c.sized()
        else:
            raise Bad("type")
        c.end()


def attested(ak: Public, raw: bytes, signature: bytes, attest: Attest, kind: int) -> None:
    need(attest.kind == kind, "type")
    need(attest.signer == ak.qualified, "qualified signer")
    c = Cursor(signature)
    need((c.u(2), c.u(2)) == (0x18, 0x0B), "signature algorithm")
    r, s = c.sized(), c.sized()
    c.end()
    try:
        ak.key.verify(der_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big")), raw, ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise Bad("attestation signature") from error


MADE_IN_TPM = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 18


def tpm_keys(ak: Public, sk: Public) -> None:
    need(
        ak.attributes & (MADE_IN_TPM | 1 << 16) == MADE_IN_TPM | 1 << 16 and not ak.attributes & 1 << 17,
        "AK attributes",
    )
    need(sk.attributes & MADE_IN_TPM == MADE_IN_TPM and not sk.attributes & (1 << 16 | 1 << 17), "SK attributes")


def device_template(ak: Public, sk: Public) -> None:
    """R-key-1, R-key-2: the attributes of the template, and no other."""
    for key, attributes in ((ak, 0x50472), (sk, 0x40472)):
        need(len(key.policy) in (0, 32), "policy of a key")
        need(key.attributes == (attributes & ~(1 << 6) if key.policy else attributes), "template of a key")


def pcr_values(pairs: object) -> dict[int, bytes]:
    """R-pcr-2: an array of [pcr, value], ascending."""
    need(isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs), "PCR values")
    assert isinstance(pairs, list)
    numbers = [number for number, _ in pairs]
    need(all(type(number) is int and 0 <= number <= 23 for number in numbers), "PCR number")
    need(numbers == sorted(set(numbers)), "PCR numbers do not rise")
    need(all(isinstance(value, bytes) and len(value) == 32 for _, value in pairs), "PCR value")
    return dict(pairs)


# -- section 16: event log --------------------------------------------------------------------------


def replay(log: bytes, pcr: int) -> tuple[list[tuple[str, str, str]], bytes]:
    value, events = bytes(32), []
    if not log:
        return events, value
    need(log[:1] == b"\x1e" and log[-1:] == b"\n", "framing")
    for number, record in enumerate(log[1:].split(b"\x1e")):
        need(record.endswith(b"\n"), "framing")
        entry = load_json(record)
        need(entry["recnum"] == number and entry["pcr"] == pcr and entry["content_type"] == "edgeprov", "entry")
        kind, slot, model = (entry["content"][key] for key in ("type", "slot", "model"))
        need(kind in ("activate", "refused") and model.startswith("sha256:") and HEX64.fullmatch(model[7:]), "content")
        digest = sha(b"edgeprov." + kind.encode() + b"\0" + slot.encode() + b"\0" + bytes.fromhex(model[7:]))
        stated = [item["digest"] for item in entry["digests"] if item["hashAlg"] == "sha256"]
        need(stated == [digest.hex()], "digest of an entry")
        value = sha(value + digest)
        events.append((kind, slot, model))
    return events, value
