# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A fleet that never was: seeded devices with software keys, real signed kits, and planted faults.

    python -m tests.bench.fleetgen OUT [--devices 8] [--days 21] [--seed 1] [--to REGISTRY]

OUT/registry holds models, device records and kits as an OCI layout (one layout per month of arrival
when the fleet is large; with --to all goes to a registry instead), OUT/trust.d the trust folder that
fits, OUT/heads each device's answer to an auditor's nonce, OUT/truth.json what was planted.
The same arguments give the same bytes, with any number of processes.
"""
