"""TLS: the traffic port can show a certificate, and an upstream with an https URL has to."""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.tls import client_context, server_context
from tests.service.traffic.conftest import ASKED, SCORES, RawUpstream, StartTraffic


class Pair(NamedTuple):
    cert: Path
    key: Path


@pytest.fixture
def make_pair(tmp_path: Path) -> Callable[[str], Pair]:
    """Makes a certificate for 127.0.0.1 that vouches for itself."""

    def make(name: str) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        cert = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(key, hashes.SHA256())
        )
        pair = Pair(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
        pair.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8
        pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return pair

    return make


@pytest.fixture
def tls_upstream(make_pair: Callable[[str], Pair]) -> Generator[tuple[RawUpstream, Pair]]:
    """A model server that speaks TLS, and its certificate."""
    pair = make_pair("upstream")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
    server = RawUpstream(listener=listener)
    server.start()
    yield server, pair
    server.close()


def test_the_traffic_port_speaks_https(
    start_traffic: StartTraffic, upstream: RawUpstream, make_pair: Callable[[str], Pair]
) -> None:
    pair = make_pair("traffic")
    traffic = start_traffic(upstream.url, tls=server_context("traffic", *pair))
    with httpx.Client(verify=ssl.create_default_context(cafile=str(pair.cert)), timeout=30) as client:
        for body in (ASKED, b" " * 3_000_000 + ASKED):  # at once, and streamed
            answer = client.post(f"https://127.0.0.1:{traffic.port}/invocations", content=body)
            assert (answer.status_code, answer.content) == (200, SCORES)
    assert [seen.body for seen in upstream.seen] == [ASKED, b" " * 3_000_000 + ASKED]
    assert traffic.talk(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n") == b""  # without TLS there is nothing to be had


def test_an_upstream_with_the_right_certificate(
    start_traffic: StartTraffic, tls_upstream: tuple[RawUpstream, Pair]
) -> None:
    server, pair = tls_upstream
    traffic = start_traffic(server.url.replace("http:", "https:"), upstream_tls=client_context(pair.cert))
    for _ in range(2):
        assert traffic.ask()[2] == SCORES
    assert [seen.on_connection for seen in server.seen] == [0, 1]


def test_an_upstream_with_a_certificate_of_nobody_we_trust(
    start_traffic: StartTraffic, upstream: RawUpstream, make_pair: Callable[[str], Pair]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_pair("impostor"))
    with socket.create_server(("127.0.0.1", 0)) as plain:
        server = RawUpstream(listener=context.wrap_socket(plain, server_side=True))
        server.start()
        trusted = make_pair("trusted")
        traffic = start_traffic(server.url.replace("http:", "https:"), upstream_tls=client_context(trusted.cert))
        status, _, body = traffic.ask()
        assert (status, json.loads(body)["error"]) == (502, "UpstreamUnreachable")
        assert "certificate verify failed" in json.loads(body)["detail"]
        server.close()
    assert not server.seen


def test_certificates_that_cannot_be_used_are_explained(tmp_path: Path, make_pair: Callable[[str], Pair]) -> None:
    one, other = make_pair("one"), make_pair("other")
    assert server_context("traffic", None, None) is None
    with pytest.raises(ConfigurationError, match="traffic_tls_key is not set"):
        server_context("traffic", one.cert, None)
    with pytest.raises(ConfigurationError, match="control_tls_cert is not set"):
        server_context("control", None, one.key)
    with pytest.raises(ConfigurationError, match="the traffic port cannot use the certificate"):
        server_context("traffic", one.cert, other.key)
    with pytest.raises(ConfigurationError, match=r"the traffic port cannot use.*nowhere\.pem"):
        server_context("traffic", tmp_path / "nowhere.pem", one.key)
    with pytest.raises(ConfigurationError, match=r"nowhere\.pem cannot be used"):
        client_context(tmp_path / "nowhere.pem")
