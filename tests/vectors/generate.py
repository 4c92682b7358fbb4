# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the test vectors, or with --check compares them with what would be written.

    python -m tests.vectors.generate [--check]

Everything comes from public seeds and fixed times; signatures are deterministic (RFC 6979). VECTORS.md
describes the files.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgeprov.formats.jsonx import encode_json
from tests.support.softtpm import SoftTpm, spki
from tests.vectors.cases_device import Case, Stage
from tests.vectors.cases_evidence import all_evidence
from tests.vectors.cases_items import heads, tombstones
from tests.vectors.cases_proof import ED25519_KEY, P384_KEY, PUBLISHER_KEY, all_proof
from tests.vectors.conclusion.all_cases import all_histories
from tests.vectors.make import make_world

HERE = Path(__file__).parent
AT = "2026-03-01T00:00:00Z"


def trust_folders() -> Iterator[tuple[str, dict[str, bytes]]]:
    world = make_world()
    standard = world.policy_files
    toml = standard["policy.toml"]
    golden = hashlib.sha256(b"boot loader").hexdigest()

    def keys() -> bytes:
        parts = [
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            for key in (PUBLISHER_KEY, P384_KEY, ED25519_KEY)
        ]
        return b"".join(parts)

    yield "standard", standard
    yield "keys", standard | {"publisher-keys.pem": keys()}
    yield (
        "one-ca",
        standard
        | {
            "publisher-2.pem": world.device_root.pem,
            "policy.toml": toml.replace(b'["https://acme.example/models"]', b'["*"]'),
        },
    )
    yield "no-publisher", {name: data for name, data in standard.items() if name != "publisher.pem"}
    yield "no-identities", standard | {"policy.toml": toml.replace(b'["https://acme.example/models"]', b"[]")}
    yield "other-enrollers", standard | {"policy.toml": toml.replace(b"enroller:*", b"enroller:line2")}
    yield "hardware", standard | {"policy.toml": toml.replace(b'["dev"]', b'["hardware"]')}
    yield "firmware", standard | {"policy.toml": toml + b"firmware = [%d]\n" % 0x20240125}
    sets = b'[device.boot_pcrs.release-1]\n4 = "%s"\n[device.boot_pcrs.release-2]\n4 = "%s"\n7 = "%s"\n'
    yield "boot-pcr", standard | {"policy.toml": toml + sets % (golden.encode(), golden[::-1].encode(), b"07" * 32)}
    yield "other-pcrs", standard | {"policy.toml": toml + b"pcr = [12, 15]\n"}
    yield "two-boards", standard | {"policy.toml": toml + b"pcr = [12, 14]\n"}

    def deny(kind: str, value: str, more: str = "") -> bytes:
        return f'[[deny]]\ntype = "{kind}"\nvalue = "{value}"\n{more}'.encode()

    key = hashlib.sha256(spki(SoftTpm("unit-0001").sk)).hexdigest()
    yield "denied", standard | {"policy.toml": toml + deny("key", "sha256:" + key)}
    serial = f"{world.publisher_root.certificate.serial_number:x}"
    kit = Stage().seal().digest
    record = Stage().unit.record
    leaf = hashlib.sha256(record.certificates[0]).hexdigest().upper()
    fingerprint = ":".join(leaf[at : at + 2] for at in range(0, 64, 2))
    yield "kit-denied", standard | {"policy.toml": toml + deny("kit", str(kit), 'reason = "made at a fair"\n')}
    yield "kit-denied-from", standard | {"policy.toml": toml + deny("kit", str(kit), "from = 2026-02-20T00:00:00Z\n")}
    yield "model-denied", standard | {"policy.toml": toml + deny("model", str(world.model.digest))}
    yield "device-denied", standard | {"policy.toml": toml + deny("device", record.device)}
    yield "enrollment-denied", standard | {"policy.toml": toml + deny("device", record.enrollment.hex())}
    yield "certificate-denied", standard | {"policy.toml": toml + deny("certificate", fingerprint)}
    others = b"".join(deny(kind, str(kit)) for kind in ("model", "key", "certificate"))
    yield "others-denied", standard | {"policy.toml": toml + others}
    yield "publisher-denied", standard | {"policy.toml": toml + deny("certificate", "serial:" + serial)}


def files() -> Iterator[tuple[str, bytes]]:
    """Every file below this folder, with its content."""
    for name, folder in trust_folders():
        for file, data in folder.items():
            yield f"trust/{name}/{file}", data
    yield from _listed("cases", "proof", [("", item) for item in (*all_evidence(), *all_proof())])
    items = [("tombstone/", item) for item in tombstones()] + [("head/", item) for item in heads()]
    yield from _listed("items", "item", items)


def _listed(folder: str, kind: str, cases: list[tuple[str, tuple[int, Case]]]) -> Iterator[tuple[str, bytes]]:
    """The files of a folder, and the list of them."""
    names: set[str] = set()
    index = []
    for prefix, (group, (name, comment, document, more)) in cases:
        place = "accepted" if group == 0 else ("malformed" if group < 0 else f"step-{group:02d}")
        case_id = f"{prefix}{place}/{name}" + ("" if group == 0 else "_fail")
        assert case_id not in names, case_id
        names.add(case_id)
        yield f"{folder}/{case_id}.{kind}.json", _json(document, indent=None)
        expected = {"verified": group == 0} | ({"step": group} if group > 0 else {})
        index.append(
            {"id": case_id, "comment": comment, "trust": more.pop("trust", "standard"), "at": AT, "expected": expected}
        )
        assert not more, more
    schema = f"edgeprov-{kind}-vectors-1"
    yield f"{folder}.json", _json({"schema": schema, "numberOfTests": len(index), "tests": index}, indent=1)


def conclusion_files() -> Iterator[tuple[str, bytes]]:
    """One file of histories for each rule of the conclusion."""
    by_rule: dict[str, list[object]] = {}
    for vector in all_histories():
        by_rule.setdefault(vector.rule, []).append(vector.as_json())
    for rule, vectors in by_rule.items():
        yield f"conclusion/{rule}.json", b"[" + b",\n".join(map(encode_json, vectors)) + b"]\n"


def _json(value: object, *, indent: int | None) -> bytes:
    return (json.dumps(value, indent=indent, sort_keys=True) + "\n").encode()


def main(check: bool) -> int:
    wanted = dict(files()) | dict(conclusion_files())
    present = {
        str(path.relative_to(HERE))
        for found in (
            *((HERE / name).rglob("*") for name in ("cases", "items", "trust")),
            (HERE / "conclusion").glob("*.json"),
        )
        for path in found
        if path.is_file()
    }
    stale = sorted(present - set(wanted))
    changed = [
        name for name, data in wanted.items() if not (HERE / name).exists() or (HERE / name).read_bytes() != data
    ]
    if check:
        for name in stale + changed:
            print(f"differs: {name}", file=sys.stderr)
        return 1 if stale or changed else 0
    for name in stale:
        (HERE / name).unlink()
    for name in changed:
        (HERE / name).parent.mkdir(parents=True, exist_ok=True)
        (HERE / name).write_bytes(wanted[name])
    print(f"{len(wanted)} files, {len(changed)} written, {len(stale)} removed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv[1:]))
