"""Settings of the reporter and of the gateway. Owns their fields; the reference page is generated from them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from chargehand_chassis.settings import ServiceSettings
from pydantic import Field


class ReporterSettings(ServiceSettings):
    """What the reporter needs besides. Read models and output are kept in the data directory, or in the store's URL."""

    group_messages: int = Field(100, ge=1, le=1000, description="Messages folded in one transaction at most.")
    group_bytes: int = Field(8 << 20, ge=1 << 20, description="Bytes of messages folded in one transaction, roughly.")
    report_every: timedelta = Field(
        timedelta(milliseconds=250), description="Under load accumulated reports are published this often."
    )
    silent_after: timedelta = Field(timedelta(seconds=90), description="A proxy not heard for so long is told silent.")
    notify_within: timedelta = Field(
        timedelta(days=7), description="What happened longer ago is not told; a read model built anew stays quiet."
    )


class GatewaySettings(ServiceSettings):
    """What the gateway needs besides."""

    reporter_data: Path | None = Field(
        None, description="Data directory of the reporter, for SQLite; empty: `reporter` beside this data directory."
    )
    http_host: str = Field("127.0.0.1", description="Address to listen on; loopback unless asked otherwise.")
    http_port: int = Field(7373, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    http_port_file: Path | None = Field(None, description="File to write the port to once it is open.")
    public_hosts: tuple[str, ...] = Field(
        (), description="Further values of the Host header to answer, host or host:port, as a JSON list."
    )
    tls_certificate_file: Path | None = Field(
        None, description="Certificate chain; given with its key: HTTPS is spoken."
    )
    tls_key_file: Path | None = Field(None, description="Key of the certificate.")
    trust_forwarded_proto: bool = Field(
        False, description="A proxy in front speaks HTTPS for us: cookies are marked Secure, origins are https."
    )
    session_lifetime: timedelta = Field(timedelta(hours=12), description="How long a login by link lasts.")
    login_link_lifetime: timedelta = Field(timedelta(minutes=15), description="How long an unused login link is good.")
    default_proxy: str = Field(
        "local",
        description="The proxy of hosts that name none, as the planner has it: whose observations of them are shown.",
    )
    decide_within: timedelta = Field(
        timedelta(seconds=5), description="How long a posted command waits for its decision before 202."
    )
    silent_after: timedelta = Field(timedelta(seconds=90), description="A proxy not heard for so long is shown silent.")
    max_body_bytes: int = Field(1 << 20, ge=1 << 16, description="Largest request body, in bytes.")
    max_streams: int = Field(500, ge=1, description="Event streams open at once.")

    @property
    def store_directory(self) -> Path:
        """Where the reporter's SQLite files are."""
        return self.reporter_data or self.data.parent / "reporter"
