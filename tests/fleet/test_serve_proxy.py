# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The service behind nginx, with the configuration of FLEET.md as it is written there."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.peers import peer
from tests.support.service import ROOT, TOKEN, serving
from tests.support.tls import Authority, Pem

AROUND = """daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{server}
}}
"""


@contextmanager
def proxy(folder: Path, pem: Pem, behind: str) -> Iterator[int]:
    """nginx with the documented server block; only ports and files are other ones."""
    block = re.search(r"```nginx\n(.*?)```", (ROOT / "edgeprov/fleet/FLEET.md").read_text(), re.DOTALL)
    assert block
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = block[1]
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("http://127.0.0.1:8080", f"http://{behind}"),
        ("/etc/edgeprov/tls/server.pem", str(pem.certificate)),
        ("/etc/edgeprov/tls/server.key", str(pem.key)),
    ):
        assert server.count(old) == 1, old
        server = server.replace(old, new)
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, server=server))
    process = subprocess.Popen(
        [peer("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.PIPE
    )
    try:
        for _ in range(500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)
        if process.stderr:
            process.stderr.close()


def ask(port: int, authority: Authority, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    context = ssl.create_default_context(cafile=str(authority.file))
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_tls_tokens_and_rates_behind_a_proxy(judged, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN + "\n")
    authority = Authority(tmp_path)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with (
        serving(judged, "--token-file", tokens, "--behind-proxy", "127.0.0.1", "--rate", "2") as service,
        proxy(tmp_path, authority.issue("server"), service.netloc) as port,
    ):
        assert ask(port, authority, "/api/v1/kits")[0] == 401
        status, headers, body = ask(port, authority, "/api/v1/kits?limit=3", **bearer)
        assert status == 200
        assert headers["strict-transport-security"].startswith("max-age=")
        assert "default-src 'none'" in headers["content-security-policy"]
        # The link to the next page holds behind any proxy: it names no host and no scheme.
        link = re.fullmatch(r'<(\?[^>]+)>; rel="next"', headers["link"])
        assert link
        assert (
            json.loads(ask(port, authority, "/api/v1/kits" + link[1], **bearer)[2])["items"]
            != json.loads(body)["items"]
        )
        assert ask(port, authority, "/api/v1/kits?limit=3", If_None_Match=headers["etag"], **bearer)[0] == 304
        # The proxy tells who asks, and a client cannot pretend to be another one each time.
        codes = {ask(port, authority, "/healthz", X_Forwarded_For=f"10.0.0.{number}")[0] for number in range(12)}
        assert codes == {200, 429}
        # Another client, as the proxy would tell it, still has its own rate.
        assert service.ask("/healthz", X_Forwarded_For="192.0.2.7")[0] == 200


def test_without_tokens_a_proxy_does_not_open_it(judged, tmp_path):
    """Whoever forgets the tokens gets a refusal, not an open service."""
    authority = Authority(tmp_path)
    with serving(judged) as service, proxy(tmp_path, authority.issue("server"), service.netloc) as port:
        context = ssl.create_default_context(cafile=str(authority.file))
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
        connection.request("GET", "/api/v1/kits", headers={"Host": "audit.example.org"})
        assert connection.getresponse().status == 421
        connection.close()
