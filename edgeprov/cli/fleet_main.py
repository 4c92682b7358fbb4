# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""`edgeprov-fleet`: what runs where models are published and data is collected."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprov.cli.output import run_program

VERBS = {
    "ca": "make a small vendor PKI: a signer for each role, trust folders",
    "publish": "pack a Kitfile folder as a ModelKit, sign it, push it",
    "enroll": "check a device's request, issue its certificate, publish its record",
    "roster": "publish the list of enrollments that must report, or show it",
    "retire": "end an enrollment in the roster",
    "import": "take in a technician's stick, and write the receipt",
    "sync": "bring the index up to date with the registries",
    "query": "find kits by model, device, slot, time, labels or verdict",
    "lineage": "from a model to its data, the training sets made of it, and the next model",
    "verify": "judge kits by the ten steps, and every byte of them",
    "collect": "write verified, labelled results as a Parquet data set with a signed statement",
    "audit": "who produced what, when, with which model: gaps, forks and doubts shown",
    "prove": "write one result with its whole chain of proof as one file",
    "check-proof": "verify such a file with nothing but the trust anchors",
    "trust": "show who has which role, and which deny entries match nothing",
    "export-trust": "write trusted_root.json and trust stores for cosign and notation",
    "stamp": "add RFC 3161 timestamps to the signatures of kits",
    "serve": "a read-only web service and page over the index",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return run_program(
        "edgeprov-fleet",
        "Publish models, and answer which model version produced which data, with proof.",
        "edgeprov.cli.fleet",
        VERBS,
        argv,
    )


if __name__ == "__main__":
    raise SystemExit(main())
