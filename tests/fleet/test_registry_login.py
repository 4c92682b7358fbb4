# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The desk at a registry with tokens from another host and blobs in a store; a login that ends is no verdict."""

from __future__ import annotations

from edgeprov.fleet.registries.kits import open_reader
from edgeprov.fleet.registries.sources import Source, open_registry, parse_source
from tests.support.fleet import push_kit
from tests.support.registries import docker_registry
from tests.support.registry_front import registry_front
from tests.support.tls import write_credentials


def test_a_refused_login_is_one_line_and_no_verdict(hub, tmp_path):
    with docker_registry(tmp_path / "server") as upstream, registry_front(upstream) as front:
        hub.registry = open_registry(parse_source(upstream), create=True)
        unit = hub.device("a1")
        for _ in range(3):
            push_kit(hub.registry, unit, unit.seal(records=5))
        front.redirect_blobs = True
        file = write_credentials(tmp_path / "config.json", front.host, front.user, front.password)
        options = ("--credentials", file, "--token-host", front.token_host)
        denied = hub.run("sync", front.host, *options)
        assert denied.code == 41
        assert "--allow-host" in denied.err
        run = hub.run("sync", front.host, *options, "--allow-host", front.store_host, "--json")
        assert run.code == 0, run.err
        assert (run.last("synced")["devices"], run.last("synced")["faults"]) == (1, 0)
        assert front.authorizations == []

        front.password, front.tokens = "changed", {}
        open_reader.cache_clear()
        asked = len(front.granted)
        lost = hub.run("verify")
        assert lost.code == 40, lost.out
        assert lost.out.count("refuses the account") <= 2, "one line for the kits, one for what they need"
        assert "0 verified, 0 refused, 3 not readable now" in lost.out
        assert len(front.granted) - asked <= 3
        assert [item["verdict"] for item in hub.run("query", "--json").items if "verdict" in item] == ["unchecked"] * 3

        write_credentials(file, front.host, front.user, front.password)
        open_reader.cache_clear()
        good = hub.run("verify")
        assert "3 verified, 0 refused" in good.out, good.out + good.err


def test_a_wrong_password_ends_a_sync_with_one_request(hub, tmp_path):
    with docker_registry(tmp_path / "server") as upstream, registry_front(upstream) as front:
        file = write_credentials(tmp_path / "bad.json", front.host, front.user, "wr0ng")
        run = hub.run("sync", front.host, "--credentials", file, "--token-host", front.token_host)
        assert run.code == 41
        assert len(front.granted) == 1
        assert str(file) in run.err
        assert "wr0ng" not in run.err + run.out


def test_a_source_keeps_its_settings_and_loopback_is_parsed():
    source = parse_source("registry.example/x", allow_hosts=["s"], token_hosts=["t"], proxy="http://p", ca_file="/ca")
    assert Source.of_json({**source.as_json(), "allow_hosts": ["s"], "token_hosts": ["t"]}) == source
    assert hash(source)
    assert not parse_source("localhost.example.com:5000/x").plain_http
    assert not parse_source("127.hospital.example/x").plain_http
    assert parse_source("localhost:5000/x").plain_http
    assert not parse_source("localhost:5000/x", tls=True).plain_http
    assert not parse_source("127.0.0.1:5000/x", ca_file="/ca").plain_http
