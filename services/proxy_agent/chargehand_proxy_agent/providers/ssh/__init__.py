"""The ssh provider: connections, host keys and sessions by asyncssh, and on the host the wrapper. `SshProvider` is its face."""

from .provider import SshProvider
from .settings import SshSettings

__all__ = ["SshProvider", "SshSettings"]
