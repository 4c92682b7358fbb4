# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The template of a kit's repository: names that every registry takes, one for each device, and errors that help."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprov.errors import ConfigError
from edgeprov.registry.reference import is_repository
from edgeprov.registry.repository_template import device_part, render_repository

KIT: dict[str, Any] = {"serial": "ward-1", "created": "2026-11-30T23:59:59Z", "model": "ab" * 32, "bin_name": "07"}


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("data/{device}/{year}", "data/ward-1/2026"),
        ("data/{device}/{month}", "data/ward-1/202611"),
        ("data/{month}/{bin}", "data/202611/07"),
        ("data/{day}/{bin}", "data/20261130/07"),
        ("data-{device}-{month}", "data-ward-1-202611"),
        ("data/{model}", "data/" + "ab" * 32),
        ("data/all", "data/all"),
    ],
)
def test_a_template_gives_the_name_of_a_repository(template: str, name: str) -> None:
    assert render_repository(template, **KIT) == name


@pytest.mark.parametrize(
    ("template", "changes", "says"),
    [
        ("data/{slot}", {}, "{slot} is not known"),
        ("data/{}", {}, "{} is not known"),
        ("data/{device", {}, "no repository"),
        ("data/{device.__class__}", {}, "is not known"),
        ("data/{bin}", {"bin_name": None}, "this device has none"),
        ("data/{year}", {"created": None}, "this artifact has none"),
        ("Data/{device}", {}, "no repository"),
        ("data//{device}", {}, "no repository"),
        ("/data", {}, "no repository"),
        ("", {}, "no repository"),
        ("data/{device}" * 40, {}, "no repository"),
        ("../{device}", {}, "no repository"),
    ],
)
def test_a_bad_template_is_named_with_advice(template: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        render_repository(template, **(KIT | changes))
    assert says in caught.value.message
    assert "registry.data_template" in caught.value.advice


SERIALS = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=48)


@given(SERIALS, SERIALS)
def test_each_serial_has_a_part_of_its_own(one: str, other: str) -> None:
    assert is_repository(device_part(one))
    assert (device_part(one) == device_part(other)) == (one == other)


def test_a_plain_serial_stays_readable() -> None:
    assert device_part("ward-1") == "ward-1"
    assert device_part("Ward_1").startswith("ward-1-")
    assert device_part("__").isalnum()
