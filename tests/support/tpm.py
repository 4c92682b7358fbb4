# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Real swtpm instances for tests, none of which outlives its test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeprov.tpm import simulator


@contextmanager
def simulators(root: Path) -> Iterator[Path]:
    """Stop every simulated TPM below ``root`` after the body."""
    try:
        yield root
    finally:
        stop_simulators(root)


def stop_simulators(root: Path) -> None:
    """Stop every simulated TPM whose folder lies below ``root``."""
    for boot in root.rglob("simulator.boot"):
        simulator.stop(boot.parent, power_cut=True)


def make_with_ek_certificate(folder: Path) -> Path:
    """TPM state with EK and platform certificates of a local CA, as a chip maker leaves them.

    Returns:
        The CA's certificates in PEM.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = folder.parent / (folder.name + "-ca")
    authority.mkdir()
    (folder.parent / "localca.conf").write_text(
        f"statedir = {authority}\nsigningkey = {authority}/signkey.pem\n"
        f"issuercert = {authority}/issuercert.pem\ncertserial = {authority}/certserial\n"
    )
    (folder.parent / "localca.options").write_text(
        "--tpm-manufacturer id:00001014\n--tpm-model swtpm\n--tpm-version 2\n--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n"
    )
    (folder.parent / "setup.conf").write_text(
        f"create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {folder.parent}/localca.conf\n"
        f"create_certs_tool_options = {folder.parent}/localca.options\n"
    )
    subprocess.run(
        ["swtpm_setup", "--tpm2", "--tpm-state", str(folder), "--ecc", "--createek", "--create-ek-cert",
         "--create-platform-cert", "--pcr-banks", "sha256", "--config", str(folder.parent / "setup.conf"),
         "--logfile", str(folder.parent / "setup.log")],
        check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    return authority
