# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A private CA with server and client certificates, and a token server: what hospitals put before a registry."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

NOW = dt.datetime.now(dt.UTC)


@dataclass
class Pem:
    """A certificate and its key as files."""

    certificate: Path
    key: Path


class Authority:
    """A CA that writes PEM files into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self.file = folder / "ca.pem"
        root = self._build(self._name, self._key.public_key(), ca=True).sign(self._key, hashes.SHA256())
        self.file.write_bytes(root.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, start: dt.datetime = NOW - dt.timedelta(days=1), days: int = 30) -> Pem:
        """A certificate for 127.0.0.1 that serves and connects."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        built = self._build(subject, key.public_key(), ca=False, start=start, days=days).add_extension(names, False)
        pem = Pem(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        pem.certificate.write_bytes(built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        pem.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pem

    def _build(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        *,
        ca: bool,
        start: dt.datetime = NOW - dt.timedelta(days=1),
        days: int = 30,
    ) -> x509.CertificateBuilder:
        usage = {"digital_signature": not ca, "key_cert_sign": ca, "crl_sign": ca}
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            # Python verifies as strictly as RFC 5280 reads since 3.13, and wants these three.
            .add_extension(
                x509.KeyUsage(**usage, **dict.fromkeys(others, False), encipher_only=False, decipher_only=False),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


@dataclass
class TokenServer:
    """A docker token server: user and password against a JWT for the scope that was asked for.

    Attributes:
        lifetime_s: Of each token, as ``expires_in``; negative ones have expired when they are given.
        granted: Scopes that were given, in order.
        refuse: Answer 401 to everybody.
    """

    realm: str = ""
    lifetime_s: int = 300
    granted: list[str] = field(default_factory=list)
    refuse: bool = False
    user: str = "unit-1"
    password: str = "s3cret"
    certificate: Path = Path()
    key: Any = None
    x5c: str = ""
    authority: Any = None

    def token(self, scope: str, *, lifetime_s: int | None = None) -> str:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        now = int(time.time())
        claims = {
            "iss": "tests",
            "aud": "registry",
            "sub": self.user,
            "exp": now + (self.lifetime_s if lifetime_s is None else lifetime_s),
            "nbf": now - 86_400,
            "iat": now - 86_400,
            "jti": f"{now}{len(self.granted)}",
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}] if scope else [],
        }
        head = {"typ": "JWT", "alg": "ES256", "x5c": [self.x5c]}
        signed = b".".join(_b64(json.dumps(part).encode()) for part in (head, claims))
        r, s = decode_dss_signature(self.key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return (signed + b"." + _b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextmanager
def token_server(folder: Path, *, tls: bool = False) -> Iterator[TokenServer]:
    """Serve tokens on loopback; with ``tls`` under a certificate of the authority that also signs the tokens."""
    authority = Authority(folder)
    pem = authority.issue("token-signer")
    state = TokenServer(certificate=folder / "ca.pem", authority=authority)
    state.key = serialization.load_pem_private_key(pem.key.read_bytes(), None)
    certificate = x509.load_pem_x509_certificate(pem.certificate.read_bytes())
    state.x5c = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
    expected = "Basic " + base64.b64encode(f"{state.user}:{state.password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            scope = query.get("scope", [""])[0]
            ok = self.headers.get("Authorization") == expected and not state.refuse
            if ok:
                state.granted.append(scope)
            body = json.dumps({"token": state.token(scope)} if ok else {}).encode()
            self.send_response(200 if ok else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.realm = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}/token"
        if tls:
            server.socket = server_context(authority.issue("token-server")).wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


def server_context(pem: Pem) -> ssl.SSLContext:
    """For a server that shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem.certificate, pem.key)
    return context


def write_credentials(path: Path, host: str, user: str, password: str) -> Path:
    """docker's config.json form."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return path


def htpasswd(user: str, password: str) -> str:
    """One line in the bcrypt form that the registries read, through the system's crypt()."""
    import ctypes
    import ctypes.util

    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    salt = "$2a$05$" + hashlib.sha256(user.encode()).hexdigest()[:22]
    return f"{user}:{library.crypt(password.encode(), salt.encode()).decode()}\n"


@contextmanager
def connect_proxy() -> Iterator[tuple[str, list[str]]]:
    """A forward proxy for plain requests and CONNECT; yields its address and what it was asked for."""
    import http.client
    import select
    import socket

    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            asked.append(f"CONNECT {self.path}")
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                self.send_response_only(200)
                self.end_headers()
                pair = [self.connection, server]
                while True:
                    for item in select.select(pair, [], [], 10)[0]:
                        data = item.recv(65536)
                        if not data:
                            self.close_connection = True
                            return
                        (server if item is self.connection else self.connection).sendall(data)

        def forward(self) -> None:
            asked.append(f"{self.command} {self.path}")
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = http.client.HTTPConnection(parts.netloc, timeout=20)
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(self.command, path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            data = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            if answer.getheader("Content-Length") is None:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            connection.close()

        do_GET = do_HEAD = do_POST = do_PUT = forward

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()
