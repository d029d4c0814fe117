"""Many ssh servers in a process of their own, which cost next to nothing: `python -m benchmarks.ssh_hosts COUNT`.

Owns hosts that play the wrapper's part without a shell: each has a port and a host key, takes anyone who has a key, says hello, takes the
order, prints a line and has ended. It prints where they are as JSON, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys

import asyncssh
import uvloop
from support.hostile_ssh import hello, take_order

PRINTED = b"hello\n"


class _AnyKey(asyncssh.SSHServer):
    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return True


async def _answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
    await hello(process)
    await take_order(process)
    process.stdout.write(b"started 0 0\no 0 %d\n%bended 0 - exited 1 1 %d 0\n" % (len(PRINTED), PRINTED, len(PRINTED)))
    process.exit(0)


async def _listen() -> tuple[int, str]:
    """One host: its port and its key."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[key],
        server_factory=_AnyKey,
        process_factory=_answer,
        encoding=None,
        config=None,
        gss_host=None,
    )
    return server.get_port(), key.export_public_key().decode("ascii").strip()


async def _serve(count: int) -> None:
    hosts = [await _listen() for _ in range(count)]
    print(json.dumps(hosts), flush=True)
    await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Serve until the input ends."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
