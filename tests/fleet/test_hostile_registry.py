# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A registry that lies to `sync`: it is shown, it stops nothing, and nothing of it counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from edgeprov.limits import LIMITS
from tests.contract.registry.test_hostile_server import Answer, server

JSON = {"Content-Type": "application/json"}
SHARD = f"data/{'a' * 64}/202602"
TAG = f"ward-9.default.1.{'b' * 12}"
Respond = Callable[[str, str, int], Answer]


def says(value: Any, **headers: str) -> Answer:
    return (200, {**JSON, **headers}, json.dumps(value).encode())


def registry_with(tags: Callable[[str, int], Answer], manifest: Answer = (404, {}, b"")) -> Respond:
    """One shard is in its catalogue; its list of tags and its manifests are the case's."""

    def respond(_method: str, path: str, call: int) -> Answer:
        if "/_catalog" in path:
            return says({"repositories": [SHARD]})
        if "/tags/list" in path:
            return tags(path, call)
        return manifest if "/manifests/" in path else says({})

    return respond


def catalogue(answer: Callable[[int], Answer]) -> Respond:
    return lambda _method, path, call: answer(call) if "/_catalog" in path else says({})


DEEP = (200, JSON, b"[" * 100_000)
HUGE = (200, {**JSON, "Content-Length": str(1 << 40)}, b" " * 1_000_000)
UNREADABLE: dict[str, Respond] = {
    "endless catalogue": catalogue(
        lambda call: says({"repositories": [f"r{call}"]}, Link=f'</v2/_catalog?last={call}>; rel="next"')
    ),
    "catalogue that repeats itself": catalogue(
        lambda _call: says({"repositories": ["r"]}, Link='</v2/_catalog?last=r>; rel="next"')
    ),
    "catalogue of another type": catalogue(lambda _call: says({"repositories": [1, None, {}]})),
    "catalogue that is a list": catalogue(lambda _call: says(["r"])),
    "huge catalogue": catalogue(lambda _call: HUGE),
    "deep catalogue": catalogue(lambda _call: DEEP),
    "catalogue elsewhere": catalogue(lambda call: (307, {"Location": f"/v2/_catalog?again={call}"}, b"")),
    "endless tags": registry_with(
        lambda _path, call: says({"name": SHARD, "tags": [f"t{call}"]}, Link=f'</v2/{SHARD}/tags/list?last={call}>; rel="next"')
    ),
    "tags of another type": registry_with(lambda _path, _call: says({"tags": {"a": 1}})),
    "huge tags": registry_with(lambda _path, _call: HUGE),
    "next page on another host": registry_with(
        lambda _path, _call: says({"tags": []}, Link='<http://192.0.2.1/v2/x/tags/list>; rel="next"')
    ),
}  # fmt: skip
UNUSABLE: dict[str, Answer] = {
    "another manifest": says({"schemaVersion": 2}, **{"Docker-Content-Digest": f"sha256:{'c' * 64}"}),
    "huge manifest": HUGE,
    "deep manifest": DEEP,
    "page of a portal": (200, {"Content-Type": "text/html"}, b"<html>pay here</html>"),
    "manifest elsewhere": (307, {"Location": "http://192.0.2.1/"}, b""),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", UNREADABLE)
def test_a_registry_that_cannot_be_listed_is_named_and_the_others_are_read(
    full, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(LIMITS), "list_pages", 100)  # of 10,000: endless all the same
    with server(UNREADABLE[case]) as hostile:
        run = full.run("sync", hostile.name, full.name, "--json")
    # A catalogue that lies costs the registry, a list of tags that lies costs its shard.
    told = [item for item in run.items if item["type"] in ("source-failed", "fault")]
    assert [item["source"] for item in told] == [hostile.name]
    # Either way a job that runs at night must notice.
    assert run.code in (4, 40, 41, 44), run.err
    assert (run.last("synced")["source"], run.last("synced")["kits"]) == (full.name, 8)
    only_the_good_ones_count(full)


UNLISTED: dict[str, tuple[Answer, int]] = {
    "denied": ((403, {}, b""), 41),
    "broken": ((500, {}, b""), 40),
    "another type": (says({"tags": {"a": 1}}), 44),
    "too deep": (DEEP, 44),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", UNLISTED)
def test_one_shard_that_cannot_be_listed_gives_its_exit_code_and_the_other_shards_are_read(full, case: str) -> None:
    answer, code = UNLISTED[case]

    def respond(_method: str, path: str, _call: int) -> Answer:
        if "/_catalog" in path:
            return says({"repositories": [SHARD, SHARD.replace("202602", "202603")]})
        if "/tags/list" in path:
            return answer if "202602" in path else says({"tags": [TAG]})
        return (404, {}, b"")

    with server(respond) as hostile:
        run = full.run("sync", hostile.name, full.name, "--json")
        shown = full.run("sync", hostile.name)
    told = {(item["repo"][-6:], item["reference"]) for item in run.items if item["type"] == "fault"}
    assert told == {("202602", ""), ("202603", TAG)}  # the second was asked for what it lists
    assert [(item["kits"], item["unread"]) for item in run.items if item["type"] == "synced"] == [(0, 1), (8, 0)]
    assert (run.code, run.last("error")["code"], shown.code) == (code, code, code)
    assert "its tags cannot be listed" in shown.out
    only_the_good_ones_count(full)


@pytest.mark.timeout(120)
def test_one_manifest_that_a_registry_cannot_give_now_does_not_stop_the_others(full) -> None:
    broken, gone = TAG, TAG.replace("bbb", "ccc")

    def respond(_method: str, path: str, _call: int) -> Answer:
        if "/_catalog" in path:
            return says({"repositories": [SHARD]})
        if "/tags/list" in path:
            return says({"tags": [broken, gone]})
        return (500 if broken in path else 404, {}, b"")

    with server(respond) as hostile:
        run = full.run("sync", hostile.name, full.name, "--json")
    assert {item["reference"] for item in run.items if item["type"] == "fault"} == {broken, gone}
    assert (run.code, run.last("synced")["kits"]) == (40, 8)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", UNUSABLE)
def test_a_manifest_that_is_none_is_shown_and_does_not_count(full, case: str) -> None:
    tags = [TAG, "\x1b[2J", "x" * 10_000, "latest"]
    with server(registry_with(lambda _path, _call: says({"tags": tags}), UNUSABLE[case])) as hostile:
        run = full.run("sync", hostile.name, full.name, "--json")
    told = [item for item in run.items if item["type"] in ("fault", "source-failed")]
    assert told, run.out
    assert run.last("synced")["kits"] == 8
    only_the_good_ones_count(full)


def only_the_good_ones_count(full: Any) -> None:
    assert len(full.run("query", "--json").items) >= 8
    item = full.run("verify", "--trust", full.trust, "--json").last("verified")
    assert (item["ok"], item["refused"]) == (8, 0)
