"""The files Kafka is configured by, as text. Pure: values in, text out; nothing is read, written or started here.

Every path is relative to the broker's directory, which is its working directory: so no blank, comma or umlaut in the path of
a home directory can break a properties file, and `ps` shows no path at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

DATA = "data"
FORMING = "data.forming-"
"""How the name begins under which a data directory is formatted before it gets its own: a format that was cut short leaves no
`data`, and one that still runs, because its starter was killed a moment ago, another name than the next."""

BROKER = "broker"
"""The account of the broker itself (it speaks to its own controller)."""

_PLAIN = (
    'org.apache.kafka.common.security.plain.PlainLoginModule required username="{0}" password="{1}" user_{0}="{1}";'
)
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"

_SERVER = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=SASL_PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=SASL_PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
inter.broker.listener.name=SASL_PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-256,PLAIN
listener.name.controller.sasl.enabled.mechanisms=PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.mechanism.controller.protocol=PLAIN
listener.name.controller.plain.sasl.jaas.config={plain}
listener.name.sasl_plaintext.plain.sasl.jaas.config={plain}
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config={scram}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{broker};User:{owner}
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
num.network.threads=2
num.io.threads=2
background.threads=2
log.segment.bytes=16777216
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=4194304
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""

# Everything goes to a file that rolls; errors also to the console, whose file is new at each start: what it says is of this one.
LOGGING = """\
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
rootLogger.appenderRef.errors.ref = errors
rootLogger.appenderRef.errors.level = error
logger.values.name = org.apache.kafka.common.config
logger.values.level = warn
appender.errors.type = Console
appender.errors.name = errors
appender.errors.layout.type = PatternLayout
appender.errors.layout.pattern = %m%n
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = logs/kafka.log
appender.file.filePattern = logs/kafka.%i.log
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSSXXX} %p %m (%c)%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 8MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 2
"""


def server_properties(*, port: int, controller_port: int, owner: str, broker_password: str, data: str = DATA) -> str:
    """server.properties of a single node on loopback, where only accounts get in and only `owner` may do anything.
    Holds the broker's own password: write it with mode 0600. (Measured values; the cleaner's buffer of 4 MiB instead of
    128 is what fits a small heap, the two `broker.*` lines are what makes it ready 4 instead of 13 s after a kill -9.)"""
    return _SERVER.format(
        port=port,
        controller_port=controller_port,
        plain=_PLAIN.format(BROKER, broker_password),
        scram=_SCRAM,
        broker=BROKER,
        owner=owner,
        data=data,
    )


def format_arguments(cluster_id: str, properties: str, passwords: Mapping[str, str]) -> str:
    """The arguments of Kafka's storage tool, one a line, for a file it reads itself (`@file`): they hold the passwords
    of the SCRAM accounts, and what stands in argv every local user can read."""
    accounts = [
        line
        for name, password in passwords.items()
        for line in ("--add-scram", f"SCRAM-SHA-256=[name={name},password={password}]")
    ]
    return "\n".join(["format", "--standalone", "-t", cluster_id, "-c", properties, *accounts]) + "\n"


def java_options(jars: Iterable[Path], *, smallest_heap_mib: int, largest_heap_mib: int) -> str:
    """The options of the Java runtime, for a file it reads itself. C1 alone and the serial collector start fastest and
    need least memory; without performance counters and with a tmpdir of its own it leaves nothing in /tmp when killed."""
    class_path = ":".join(map(str, jars)).replace("\\", "\\\\").replace('"', '\\"')
    return "\n".join(
        [
            f"-Xms{smallest_heap_mib}m",
            f"-Xmx{largest_heap_mib}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.io.tmpdir=tmp",
            "-Djava.net.preferIPv4Stack=true",
            "-Djava.awt.headless=true",
            "-Dlog4j2.disableJmx=true",
            "-Dlog4j2.configurationFile=log4j2.properties",
            f'-cp "{class_path}"',
            "",
        ]
    )
