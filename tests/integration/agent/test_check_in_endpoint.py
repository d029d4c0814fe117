"""The check-in endpoint of a real agent on a real Kafka: who is believed, who is not, and ten thousand at once."""

import asyncio
import random
import resource
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import pytest
from chargehand.embedded.kafka import KafkaAddress
from chargehand.up.ports import any_free
from chargehand_chassis.clock import now
from chargehand_proxy_agent.core.check_in import BURST, MAX_BODY_BYTES
from chargehand_proxy_agent.core.check_in_keys import key_of
from chargehand_schemas.base import Item
from chargehand_schemas.batches import Outgoing
from chargehand_schemas.catalog import HostChanged, HostRegistered, HostRemoved
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.execution import AttemptReleased
from chargehand_schemas.hosts import HostCheckedIn, HostFactsReported
from chargehand_schemas.proxies import AgentStarted
from chargehand_schemas.reasons import ReleaseReason
from chargehand_schemas.topics import CATALOG_EVENTS
from integration.agent.agent_process import Site, site
from support.check_in import Reply, announcement, request, self_signed, talk

EVERYBODY = 10_000
HELD_MIB = 96


class Hosts:
    """The hosts of a site that check in at its agent."""

    def __init__(self, world: Site, *, address: str = "") -> None:
        self.world = world
        (self.port,) = any_free(1)
        self.address = address or f"127.0.0.1:{self.port}"
        self.secret = bytes(range(32))
        self.starts = 0
        self.file = world.agent.directory / "secret"
        self.write_secrets(self.secret)

    def write_secrets(self, *secrets: bytes, mode: int = 0o600) -> None:
        self.file.write_text("".join(f"{one.hex()}\n" for one in secrets))
        self.file.chmod(mode)

    async def start(self, **more: str) -> None:
        self.starts += 1
        self.world.agent.start(CHECK_IN_ADDRESS=self.address, CHECK_IN_SECRET_FILE=str(self.file), **more)
        await self.world.until(lambda: self.world.agent.log.count("check_in_endpoint") == self.starts)

    async def register(self, *hosts: UUID, proxy: str | None = None) -> None:
        record = {"proxy": self.world.proxy if proxy is None else proxy}
        await self.publish(
            HostRegistered(id=uuid4(), time=now(), host_id=one, version=1, host=HostRecord(name=f"h{one}", **record))
            for one in hosts
        )

    async def publish(self, events: Iterable[HostRegistered | HostChanged | HostRemoved]) -> None:
        rows = [Outgoing(CATALOG_EVENTS.name, str(event.host_id), event) for event in events]
        await self.world.planner.publish(rows)

    async def say(self, host: UUID, *, key: str | None = None, facts: str = "") -> Reply:
        body = announcement(host, key_of(self.secret, host) if key is None else key, facts)
        return await talk(("127.0.0.1", self.port), request(body))

    def said(self, model: type[Item] = HostCheckedIn) -> Counter[UUID]:
        return Counter(item.host_id for item in self.world.items(model))  # type: ignore[attr-defined]


@pytest.fixture
async def hosts(kafka: KafkaAddress, tmp_path: Path) -> AsyncIterator[Hosts]:
    async with site(kafka, tmp_path) as world:
        yield Hosts(world)


async def test_a_host_with_its_key_is_vouched_for_and_its_facts_come_along(hosts: Hosts) -> None:
    host = uuid4()
    await hosts.register(host)
    await hosts.start()
    assert (await hosts.say(host, facts="os=Debian 12\nnot a fact\n")) == Reply(
        200,
        {
            "content-type": "text/plain; charset=utf-8", "content-length": "75", "cache-control": "no-store",
            "x-content-type-options": "nosniff", "connection": "close",
        },
        "checked in, 1 facts; 1 lines that are no facts, or too many, were left out",
    )  # fmt: skip
    event = await hosts.world.first(HostCheckedIn)
    assert (event.host_id, event.proxy, event.agent_id) == (host, hosts.world.proxy, "agent-1")
    assert (await hosts.world.first(HostFactsReported)).facts == {"os": "Debian 12"}

    assert (await hosts.say(host, facts="os=Debian 12\n")).status == 200
    assert (await hosts.say(host, facts="os=Debian 13\n")).status == 200
    await hosts.world.until(lambda: hosts.said()[host] == 3)
    assert [item.facts["os"] for item in hosts.world.items(HostFactsReported)] == ["Debian 12", "Debian 13"]


async def test_nothing_is_published_for_whoever_is_not_believed_and_each_is_told_why(hosts: Hosts) -> None:
    """Bad input of the row S58: a wrong key, an id that is not its own, another proxy's host, a removed one, what is malformed."""
    ours, others, moved, removed, last = (uuid4() for _ in range(5))
    await hosts.register(ours, moved, removed, last)
    await hosts.register(others, proxy="elsewhere")
    moves = HostChanged(id=uuid4(), time=now(), host_id=moved, version=2, host=HostRecord(name="m", proxy="elsewhere"))
    await hosts.publish([moves, HostRemoved(id=uuid4(), time=now(), host_id=removed, version=2, name="r")])
    await hosts.start()
    address = ("127.0.0.1", hosts.port)

    assert (await hosts.say(ours, key="0" * 64)).status == 403
    assert (await hosts.say(ours, key=key_of(hosts.secret, others))).status == 403
    wrong = await hosts.say(ours, key=key_of(bytes(32), ours))
    assert (wrong.status, wrong.words) == (
        403,
        f"refused: this is not the key of host {ours} at proxy {hosts.world.proxy}; install the check-in again",
    )
    for host in (others, moved, removed, uuid4()):
        reply = await hosts.say(host)
        assert (reply.status, "remove the check-in" in reply.words) == (410, True)
    for data, status in (
        (request(b"hello"), 400),
        (request(b"x" * (MAX_BODY_BYTES + 1)), 413),
        (request(b"", length=10**15), 413),
        (request(b"", method="GET"), 405),
        (request(b"", path="/"), 404),
        (request(b"", path="/check-in?x=" + "y" * 20_000), 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello over TLS\r\n\r\n", 400),
        (b"POST /check-in HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST /check-in HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    ):
        reply = await talk(address, data)
        assert (reply.status, bool(reply.words)) == (status, True), data[:80]
    chunk = b"%x\r\n%b\r\n" % (16_000, b"x" * 16_000)
    chunked = b"POST /check-in HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + 4 * chunk
    assert (await talk(address, chunked)).status == 413

    assert (await hosts.say(last)).status == 200
    await hosts.world.until(lambda: bool(hosts.said()[last]))
    assert hosts.said() == {last: 1}
    assert hosts.said(HostFactsReported) == {}


async def test_who_is_slow_or_hangs_up_keeps_nobody_waiting(hosts: Hosts) -> None:
    """A slow loris has ten seconds in all, however often it sends something; beyond the limit others are told to come again."""
    host = uuid4()
    await hosts.register(host)
    await hosts.start(CHECK_IN_CONNECTIONS="2")
    address = ("127.0.0.1", hosts.port)
    slow = [await asyncio.open_connection(*address) for _ in range(2)]
    for _, writer in slow:
        writer.write(b"POST /check-in HTTP/1.1\r\n")
    async with asyncio.timeout(5):
        while (beyond := await hosts.say(host)).status != 503:
            pass
    assert (beyond.headers["retry-after"], beyond.words) == (
        "10",
        "busy: too many hosts check in at once; come again in 10 s",
    )
    slow[0][1].close()
    for _ in range(100):
        await asyncio.sleep(0.05)  # a connection that was answered has its place until the host has closed it
        if (reply := await hosts.say(host)).status != 503:
            break
    assert reply.status in (200, 429)
    reader, writer = slow[1]
    answer = asyncio.create_task(reader.read())
    began = asyncio.get_running_loop().time()
    while not answer.done():
        writer.write(b"X-A: b\r\n")
        await asyncio.wait({answer}, timeout=0.5)
    assert asyncio.get_running_loop().time() - began < 15
    assert b"HTTP/1.1 408 " in answer.result()


async def test_replays_are_harmless_and_the_rate_of_one_host_is_bounded(hosts: Hosts) -> None:
    host, other = uuid4(), uuid4()
    await hosts.register(host, other)
    await hosts.start()
    replies = await asyncio.gather(*(hosts.say(host) for _ in range(50)))
    counts = Counter(reply.status for reply in replies)
    assert counts == {200: BURST, 429: 50 - BURST}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies if reply.status == 429)
    assert (await hosts.say(other)).status == 200, "one host's rate is not another's"
    await hosts.world.until(lambda: hosts.said()[other] == 1)
    assert hosts.said().keys() == {host, other}
    assert 1 <= hosts.said()[host] <= BURST, "what comes at once is said once"


async def test_a_secret_is_rotated_without_touching_hosts_first(hosts: Hosts) -> None:
    host, newer, older = uuid4(), bytes(32), hosts.secret
    await hosts.register(host)
    hosts.write_secrets(newer, older)
    await hosts.start()
    assert (await hosts.say(host, key=key_of(older, host))).status == 200
    assert (await hosts.say(host, key=key_of(newer, host))).status == 200
    assert await hosts.world.agent.stop() == 0
    hosts.write_secrets(newer)
    await hosts.start()
    assert (await hosts.say(host, key=key_of(older, host))).status == 403
    assert newer.hex() not in hosts.world.agent.log


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"CHECK_IN_ADDRESS": "0.0.0.0:8710"}, "0.0.0.0:8710 is not loopback: hosts' keys would cross the network in clear"),
        ({"CHECK_IN_ADDRESS": "localhost"}, "'localhost' is no IP address with a port"),
        ({"CHECK_IN_CERTIFICATE_FILE": "/none.pem"}, "CHARGEHAND_CHECK_IN_CERTIFICATE_FILE /none.pem cannot be used"),
        ({"CHECK_IN_SECRET_FILE": "/none"}, "CHARGEHAND_CHECK_IN_SECRET_FILE /none: "),
    ],
)  # fmt: skip
async def test_an_agent_does_not_start_with_an_endpoint_that_it_must_not_open(
    hosts: Hosts, settings: dict[str, str], words: str
) -> None:
    hosts.world.agent.start(**{"CHECK_IN_ADDRESS": hosts.address, "CHECK_IN_SECRET_FILE": str(hosts.file), **settings})
    assert await hosts.world.agent.ended() != 0
    assert words in hosts.world.agent.log


async def test_a_secret_that_others_may_read_is_not_used(hosts: Hosts) -> None:
    hosts.write_secrets(hosts.secret, mode=0o640)
    hosts.world.agent.start(CHECK_IN_ADDRESS=hosts.address, CHECK_IN_SECRET_FILE=str(hosts.file))
    assert await hosts.world.agent.ended() == 78
    assert "others may read it" in hosts.world.agent.log


async def test_beyond_loopback_hosts_check_in_by_tls(hosts: Hosts, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "proxy")
    host = uuid4()
    await hosts.register(host)
    hosts.address = f"0.0.0.0:{hosts.port}"
    await hosts.start(CHECK_IN_CERTIFICATE_FILE=str(certificate), CHECK_IN_CERTIFICATE_KEY_FILE=str(key))
    data = request(announcement(host, key_of(hosts.secret, host)))
    trusting = ssl.create_default_context(cafile=str(certificate))
    assert (await talk(("127.0.0.1", hosts.port), data, tls=trusting, name="proxy")).status == 200
    with pytest.raises(ssl.SSLError):
        await talk(("127.0.0.1", hosts.port), data, tls=ssl.create_default_context(), name="proxy")
    with pytest.raises(ConnectionError):
        await talk(("127.0.0.1", hosts.port), data)


async def test_an_agent_without_an_endpoint_says_so_to_the_job_that_would_install_one(hosts: Hosts) -> None:
    hosts.world.agent.start()
    await hosts.world.first(AgentStarted)
    command = hosts.world.run("echo __CHARGEHAND_CHECK_IN__")
    await hosts.world.command(command)
    released = await hosts.world.first(AttemptReleased, command)
    assert (released.why, "set CHARGEHAND_CHECK_IN_ADDRESS" in released.detail) == (ReleaseReason.NOT_SUPPORTED, True)


async def test_ten_thousand_hosts_after_a_power_failure_are_all_in_the_log(hosts: Hosts) -> None:
    """S58: bounded, and none lost: whoever was told that it checked in is in the log, and whoever was not comes again."""
    many = [uuid4() for _ in range(EVERYBODY)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    at_once = asyncio.Semaphore(min(EVERYBODY, hard - 512 if hard > 0 else EVERYBODY))
    statuses: Counter[int] = Counter()
    try:
        await hosts.register(*many)
        await hosts.start()
        assert hosts.world.agent.process is not None
        process = psutil.Process(hosts.world.agent.process.pid)
        before, most = process.memory_info().rss, 0

        async def until_taken(host: UUID) -> None:
            for _ in range(100):
                try:
                    async with at_once:
                        reply = await hosts.say(host, facts="os=Debian GNU/Linux 12\nkernel=6.1\n")
                except (ConnectionError, TimeoutError):
                    statuses[0] += 1
                else:
                    statuses[reply.status] += 1
                    if reply.status == 200:
                        return
                await asyncio.sleep(random.uniform(0.2, 3))
            raise AssertionError(f"{host} was never taken: {statuses}")

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, process.memory_info().rss)
                await asyncio.sleep(0.05)

        watcher = asyncio.create_task(watch())
        await asyncio.gather(*map(until_taken, many))
        watcher.cancel()
        assert statuses[200] == EVERYBODY
        assert not statuses.keys() - {0, 200, 503}
        await hosts.world.until(lambda: len(hosts.world.items(HostCheckedIn)) >= EVERYBODY, within_s=60)
        assert hosts.said().keys() == hosts.said(HostFactsReported).keys() == set(many)
        assert most - before < HELD_MIB * 1024 * 1024
        print(f"statuses {dict(statuses)}, memory + {(most - before) >> 20} MiB, cpu {process.cpu_times()}")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
