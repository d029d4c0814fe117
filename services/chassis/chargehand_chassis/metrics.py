"""The metrics, as one typed list: a name that is not here does not exist. Owns names and meanings.

One registry a process; label `partition` is `topic/number`.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
    return Gauge(f"chargehand_{name}", text, labels, registry=REGISTRY)


def _counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
    return Counter(f"chargehand_{name}", text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
    return Histogram(f"chargehand_{name}", text, labels, registry=REGISTRY)


class METRICS:
    """Every metric of every service."""

    consumer_lag = _gauge("consumer_lag_messages", "Messages between the position and the end.", ("partition",))
    messages_read = _counter("messages_read_total", "Messages read and verified.", ("topic",))
    items_read = _counter("items_read_total", "Items read and verified.", ("topic",))
    messages_published = _counter("messages_published_total", "Messages acknowledged by the broker.", ("topic",))
    items_published = _counter("items_published_total", "Items acknowledged by the broker.", ("topic",))
    dead_letters = _counter("dead_letters_total", "Messages without effect.", ("topic", "reason"))
    repeats = _counter("repeated_items_total", "Items seen before; without effect.", ("topic",))
    job_tasks_due = _gauge("job_tasks_due", "Job tasks waiting whose time has come.")
    job_tasks_waiting = _gauge("job_tasks_waiting", "Job tasks that wait.")
    slots_held = _gauge("slots_held", "Slots held by attempts.")
    attempts_running = _gauge("attempts_running", "Attempts an agent follows.")
    attempts_taken = _counter("attempts_taken_total", "Commands to run an attempt taken by an agent.")
    attempts_over = _counter("attempts_over_total", "Attempts over at an agent, by how.", ("phase",))
    outbox_depth = _gauge("outbox_depth_items", "Items stored and not yet published.")
    fold_items = _counter("fold_items_total", "Items folded into the read model.")
    fold_seconds = _histogram("fold_seconds", "Time of one fold transaction.")
    output_bytes = _counter("output_bytes_total", "Bytes of host output stored.")
    check_ins = _counter("check_ins_total", "Check-ins of hosts answered, by HTTP status.", ("status",))
    check_in_connections = _gauge("check_in_connections", "Connections of hosts that check in.")
    clock_offset = _gauge("clock_offset_seconds", "This clock minus the broker's.")
    connections_open = _gauge("connections_open", "Open connections to hosts.")
    commands = _counter("commands_total", "Commands decided.", ("type", "decision"))
    bindings = _counter("bindings_total", "Decisions of the binder, by what was decided.", ("kind",))
    renders = _counter("renders_total", "Scripts rendered.", ("outcome",))
    http_requests = _counter("http_requests_total", "HTTP requests answered.", ("route", "status"))
    streams_open = _gauge("event_streams_open", "Open event streams.")
    ready = _gauge("ready", "1 when the service does its work.")
