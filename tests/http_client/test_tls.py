"""TLS with a certificate chain made here: the name and the issuer are verified, and a configured file is trusted."""

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from http_client.scripted_server import Peer, echo, serving
from tollkeeper.errors import ConfigurationError
from tollkeeper.providers.http.base import ConnectFailed
from tollkeeper.providers.http.choice import http_options
from tollkeeper.providers.http.connector import tls_context
from tollkeeper.providers.http.pooled_client import PooledClient
from tollkeeper.settings import Settings

DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Issuer:
    """A certificate authority."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def issue(name: str, issuer: Issuer | None, *, authority: bool = False, expired: bool = False) -> Issuer:
    """A certificate for a name or an address, signed by the issuer or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    host: x509.GeneralName
    try:
        host = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        host = x509.DNSName(name)
    signer = issuer.key if issuer is not None else key
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * DAY)
        .not_valid_after(now - DAY if expired else now + DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([host]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return Issuer(certificate, key)


def pem(*issuers: Issuer) -> bytes:
    return b"".join(issuer.certificate.public_bytes(serialization.Encoding.PEM) for issuer in issuers)


@dataclass(frozen=True)
class Chain:
    """The file with the root's certificate, and the root and the authority between it and the servers."""

    ca_file: Path
    root: Issuer
    middle: Issuer

    def server(self, folder: Path, name: str, *, expired: bool = False) -> ssl.SSLContext:
        """The context of a server with a certificate for this name."""
        leaf = issue(name, self.middle, expired=expired)
        key = leaf.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = folder / f"{name}.pem"
        file.write_bytes(key + pem(leaf, self.middle))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    root = issue("Root", None, authority=True)
    ca_file = tmp_path_factory.mktemp("ca") / "root.pem"
    ca_file.write_bytes(pem(root))
    return Chain(ca_file, root, issue("Middle", root, authority=True))


async def post(client: PooledClient, body: bytes) -> bytes:
    received = await client.post("/x", body, total_s=30, max_bytes=30_000_000)
    try:
        return await received.whole()
    finally:
        received.close()


async def test_a_certificate_for_the_name_from_the_configured_authority_is_accepted(
    chain: Chain, tmp_path: Path
) -> None:
    names: list[str | None] = []
    context = chain.server(tmp_path, "localhost")
    context.sni_callback = lambda _, name, __: names.append(name)
    async with serving(echo, context) as server:
        client = PooledClient(f"https://localhost:{server.port}", {}, connect_s=10, ca_file=chain.ca_file)
        body = b"x" * 3_000_000
        assert [await post(client, b"one"), await post(client, body)] == [b"one", body]
        assert (server.accepted, names) == (1, ["localhost"])
        await client.close()
        await server.wait_until_closed()


async def test_a_certificate_for_an_address_is_accepted(chain: Chain, tmp_path: Path) -> None:
    async with serving(echo, chain.server(tmp_path, "127.0.0.1")) as server:
        client = PooledClient(f"https://127.0.0.1:{server.port}", {}, connect_s=10, ca_file=chain.ca_file)
        assert await post(client, b"x") == b"x"
        await client.close()


@pytest.mark.parametrize(
    ("name", "expired", "trusted"),
    [("other.example", False, True), ("localhost", True, True), ("localhost", False, False)],
    ids=["of another name", "expired", "of an unknown authority"],
)
async def test_a_certificate_that_proves_nothing_is_refused_before_anything_is_sent(
    chain: Chain, tmp_path: Path, name: str, expired: bool, trusted: bool
) -> None:
    received: list[bytes] = []

    async def record(peer: Peer) -> None:
        received.append(await peer.request())

    async with serving(record, chain.server(tmp_path, name, expired=expired)) as server:
        ca_file = chain.ca_file if trusted else None
        client = PooledClient(f"https://localhost:{server.port}", {"X-Key": "secret"}, connect_s=10, ca_file=ca_file)
        with pytest.raises(ConnectFailed):
            await post(client, b"x")
        await client.close()
    assert received == []


def test_old_versions_of_tls_are_refused_and_only_http_1_1_is_offered() -> None:
    context = tls_context(None)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize("content", [None, b"no certificate"], ids=["missing", "without certificates"])
def test_a_file_that_is_no_list_of_certificates_is_refused_at_start(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="TOLLKEEPER_CA_FILE"):
        http_options(Settings(ca_file=file))
