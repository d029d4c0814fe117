"""Two network segments that cannot see each other (S2), and the one way out of them."""

import socket
import subprocess
import threading
from pathlib import Path

from support.netns import Segment

GREETING = b"from outside\n"


def reads(segment: Segment, address: str, port: int) -> str:
    """What a server says first to a client in the site of the segment; why not, else."""
    script = (
        "import socket, sys\n"
        "try: print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).recv(64).decode())\n"
        "except OSError as error: print(error)\n"
    )
    command = segment.site.command(["/usr/bin/env", "python3", "-c", script, address, str(port)])
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout


def test_a_site_reaches_its_own_host_and_no_other(segments: tuple[Segment, Segment]) -> None:
    north, south = segments
    assert north.host.name == "north1"
    for segment, own, other in ((north, north.host, south.host), (south, south.host, north.host)):
        assert reads(segment, own.address, own.port).startswith("SSH-2.0-OpenSSH")
        assert "unreachable" in reads(segment, other.address, other.port)


def test_nothing_leads_into_a_segment_but_its_own_wire(segments: tuple[Segment, Segment]) -> None:
    for segment in segments:
        routes = Path("/proc/net/route").read_text()
        inside = subprocess.run(
            segment.site.command(["ip", "-brief", "link"]), capture_output=True, text=True, timeout=20, check=True
        )
        assert {line.split("@")[0].split()[0] for line in inside.stdout.splitlines()} == {"lo", "wire"}
        assert "wire" not in routes


def test_a_site_sees_of_this_machine_only_what_is_relayed(segments: tuple[Segment, Segment]) -> None:
    north, south = segments
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert "refused" in reads(north, "127.0.0.1", port)
        threading.Thread(target=greet, args=(server,), daemon=True).start()
        with north.site.relay(port):
            assert reads(north, "127.0.0.1", port).encode().startswith(GREETING.strip())
            assert "refused" in reads(south, "127.0.0.1", port)


def greet(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(GREETING)
