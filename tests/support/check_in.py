"""What a host says to a check-in endpoint, as the tests say it. Owns a small HTTP client that can also misbehave."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CRLF = b"\r\n"


@dataclass(frozen=True)
class Reply:
    """A whole HTTP answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    words: str = ""


def announcement(host_id: UUID, key: str, facts: str = "") -> bytes:
    return f"chargehand check-in 1\nhost={host_id}\nkey={key}\n\n{facts}".encode()


def request(body: bytes, *, method: str = "POST", path: str = "/check-in", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode() + body


async def talk(
    address: tuple[str, int], data: bytes, *, tls: ssl.SSLContext | None = None, name: str | None = None
) -> Reply:
    """Send these bytes and read the answer. ConnectionError if there is none."""
    reader, writer = await asyncio.open_connection(*address, ssl=tls, server_hostname=name)
    try:
        writer.write(data)
        await writer.drain()
        return parse(await reader.read())
    finally:
        writer.close()


def parse(answer: bytes) -> Reply:
    head, _, text = answer.partition(CRLF + CRLF)
    lines = head.decode().split("\r\n")
    match = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", lines[0])
    if match is None:
        raise ConnectionResetError(f"no answer: {answer[:100]!r}")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Reply(int(match[1]), headers, text.decode().strip())


def self_signed(directory: Path, name: str) -> tuple[Path, Path]:
    """A certificate for this name and for 127.0.0.1, and its key; it is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))])
    moment = datetime.now(UTC)
    made = x509.CertificateBuilder(
        subject,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        moment - timedelta(days=1),
        moment + timedelta(days=1),
    )
    certificate = made.add_extension(names, critical=False).sign(key, hashes.SHA256())
    files = directory / f"{name}.pem", directory / f"{name}.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return files
