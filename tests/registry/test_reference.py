# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from edgeprov.errors import UsageError
from edgeprov.registry.reference import parse_reference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "registry", "repo", "tag"),
    [
        (f"registry.example/models/wdbc@{DIGEST}", "registry.example", "models/wdbc", None),
        (f"localhost:5000/wdbc:1.0@{DIGEST}", "localhost:5000", "wdbc", "1.0"),
        ("[::1]:5000/a/b", "[::1]:5000", "a/b", None),
        (f"oci:/srv/registry//models/wdbc@{DIGEST}", "oci:/srv/registry", "models/wdbc", None),
        ("oci:registry//data/ab/202601:ward-1.0000000001.ff", "oci:registry", "data/ab/202601", "ward-1.0000000001.ff"),
        (f"oci:/srv/stick@{DIGEST}", "oci:/srv/stick", "", None),
        ("oci:/srv/stick:latest", "oci:/srv/stick", "", "latest"),
    ],
)
def test_a_reference_is_read_and_written_alike(text: str, registry: str, repo: str, tag: str | None) -> None:
    reference = parse_reference(text)
    assert (reference.registry_name, reference.repo, reference.tag) == (registry, repo, tag)
    assert (reference.digest is not None) == ("@" in text)
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "wdbc", "models/wdbc:1", "https://registry.example/a", "registry.example", "registry.example/", "oci:",
        "registry.example/UPPER", "registry.example/a//b", "registry.example/../a", "registry.example:99999/a",
        "registry.example/a@sha512:" + "ab" * 64, "registry.example/a@sha256:AB", "registry.example/a:" + "t" * 129,
        f"registry.example/a@{DIGEST}@{DIGEST}", "-host.example/a", "oci:/srv//Bad/Repo", "host.example/a b",
        "oci:/srv//../x", "registry.example/a:-x", "\x00.example/a",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert caught.value.exit_code == 2
