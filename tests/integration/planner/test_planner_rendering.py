"""Templates nobody has to trust: 16 bombs and 8 escapes end in time and in bounds, and nobody else waits for them."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psutil
import pytest
from chargehand_planner.core.job_templates import Fault
from chargehand_planner.shell.rendering.renderer import Renderer, RenderJob

BOMBS = (
    "{{ 10 ** 100000000 }}",
    "{{ (7 ** 900) ** 900 }}",
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
    "{{ 'x' * 10000000000 }}",
    "{{ 'x'.zfill(10000000000) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ lipsum(n=2000000) }}",
    "{{ (7 ** 9000000) | string }}",
    "{{ range(100000) | list | string * 100000 }}",
    "{% set x = 'x' * 90000 %}{% set y = x.replace('x', x) %}{{ y | length }}",
    "{% set ns = {'a': 'xxxxxxxxxx'} %}{% for i in range(99999) %}{{ ns.a.join(['y'] * 90000) | length }}{% endfor %}",
    "{{ '%1000000000d' % 1 }}",
    "{{ ('%1000000000d' | format(1)) }}",
    "{% for i in range(99999) %}{{ range(99999) | list | sort(reverse=true) | map('string') | join | length }}{% endfor %}",
)
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{{ input.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ (1 | attr('__class__')) }}",
    "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{{ [].__reduce_ex__(2) }}",
)
INNOCENT = 'echo {{ input("command") | quote }} on {{ host.name }}'


@pytest.fixture
async def renderer() -> AsyncIterator[Renderer]:
    made = Renderer()
    await made.start()
    yield made
    await made.stop()


def job(body: str, count: int = 1, **inputs: str) -> RenderJob:
    hosts = [{"name": f"web{n}", "address": "", "groups": ["web"], "parameters": {"format": "f"}} for n in range(count)]
    return RenderJob(body, inputs, hosts)


def faults(answers: Sequence[str | Fault]) -> list[Fault]:
    return [answer for answer in answers if isinstance(answer, Fault)]


@pytest.mark.parametrize("body", BOMBS)
async def test_a_bomb_ends_within_two_seconds_as_a_fault(renderer: Renderer, body: str) -> None:
    began = time.monotonic()
    assert len(faults(await renderer.render(job(body)))) == 1
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("body", ESCAPES)
async def test_an_escape_is_a_fault_and_shows_nothing(renderer: Renderer, body: str) -> None:
    (fault,) = faults(await renderer.render(job(body)))
    assert "class 'object'" not in fault.message and "__builtins__" not in fault.message


async def test_innocent_templates_do_not_wait_for_bombs_and_memory_stays_bounded(renderer: Renderer) -> None:
    await renderer.render(job(INNOCENT, command="uptime"))
    waits: list[float] = []
    bombs = asyncio.gather(*(renderer.render(job(body)) for body in BOMBS))
    watching = asyncio.create_task(_largest_worker(bombs))
    while not bombs.done():
        began = time.monotonic()
        assert not faults(await renderer.render(job(INNOCENT, 5, command=str(began))))
        waits.append(time.monotonic() - began)
        await asyncio.sleep(0.005)
    assert all(len(faults(answers)) == 1 for answers in await bombs)
    assert sorted(waits)[int(len(waits) * 0.99)] < 0.2, f"p99 of {len(waits)}: {max(waits):.3f} s at most"
    assert 0 < await watching < 256 * 1024 * 1024


async def _largest_worker(until: asyncio.Future[Any]) -> int:
    """The resident memory of the largest rendering process while it was looked at, in bytes; not of what is about to become one."""
    largest = 0
    while not until.done():
        for process in psutil.Process().children(recursive=True):
            try:
                resident = process.memory_info().rss
                if any("zygote" in word for word in process.cmdline()):
                    largest = max(largest, resident)
            except psutil.NoSuchProcess:
                continue
        await asyncio.sleep(0.01)
    return largest


async def test_a_bomb_on_one_host_is_no_other_hosts_fault(renderer: Renderer) -> None:
    body = "{% if host.name == 'web3' %}" + BOMBS[2] + "{% endif %}ok {{ host.name }}"
    answers = await renderer.render(job(body, 10))
    assert isinstance(answers[3], Fault)
    assert [a for a in answers if isinstance(a, str)] == [f"ok web{n}" for n in range(10) if n != 3]


async def test_a_bomb_on_every_host_is_tried_on_three_of_them(renderer: Renderer) -> None:
    began = time.monotonic()
    assert len(faults(await renderer.render(job(BOMBS[2], 200)))) == 200
    assert time.monotonic() - began < 10


async def test_a_fault_names_its_line(renderer: Renderer) -> None:
    body = "first\n{{ host.name }}\n{{ host.parameters.nothing }}\n"
    (fault,) = faults(await renderer.render(job(body)))
    assert (fault.line, "nothing" in fault.message) == (3, True)
    assert (await renderer.analyse("a\nb {{ nobody }}")).fault == Fault(
        2, "'nobody' is not defined; there are input(\"name\"), host and range"
    )
    syntax = (await renderer.analyse("a\n\n{% if %}")).fault
    assert syntax is not None and syntax.line == 3


async def test_an_analysis_names_inputs_with_lines_and_whether_the_host_matters(renderer: Renderer) -> None:
    found = await renderer.analyse('{{ input("a") }}\n{{ input("b") }}{{ host.name }}')
    assert (found.inputs, found.uses_host, found.fault) == ((("a", 1), ("b", 2)), True, None)
    assert not (await renderer.analyse('{{ input("a") }}')).uses_host
    loading = (await renderer.analyse('x\n{% include "other" %}')).fault
    assert loading is not None and loading.line == 2


async def test_one_template_asked_for_by_many_at_once_is_answered_to_all(renderer: Renderer) -> None:
    found = await asyncio.gather(*(renderer.analyse('{{ input("a") }}') for _ in range(5)))
    assert {analysis.inputs for analysis in found} == {(("a", 1),)}
    jobs = [job(INNOCENT, 3, command=str(number)) for number in range(10)]
    answers = await asyncio.gather(*(renderer.render(one) for one in jobs))
    assert [scripts[2] for scripts in answers] == [f"echo {number} on web2" for number in range(10)]


async def test_who_gives_up_waiting_stops_nobody_else(renderer: Renderer) -> None:
    bomb = asyncio.create_task(renderer.render(job(BOMBS[2])))
    done, _ = await asyncio.wait({bomb}, timeout=0.05)
    assert not done
    bomb.cancel()
    await asyncio.wait({bomb})
    (fault,) = faults(await renderer.render(job(BOMBS[2])))
    assert "ended" in fault.message
    assert not faults(await renderer.render(job(INNOCENT, command="w")))


async def test_what_a_template_may_use(renderer: Renderer) -> None:
    body = (
        '{{ input("x") | quote }}|{{ host.groups | join(",") }}|{{ host.parameters.format }}|'
        "{% for n in range(3) %}{{ loop.index }}{% endfor %}|{{ 'a,b'.split(',') | length }}|{{ 7 % 4 }}|{{ 'é' | upper }}"
    )
    assert await renderer.render(job(body, x="it's; rm -rf /")) == ["'it'\"'\"'s; rm -rf /'|web|f|123|2|3|É"]


async def test_inputs_are_data_and_never_templates(renderer: Renderer) -> None:
    payload = "{{ 7 * 7 }}{% raw %}"
    assert await renderer.render(job('{{ input("x") }}', x=payload)) == [payload]


async def test_a_script_has_at_most_128_kib_and_no_nul(renderer: Renderer) -> None:
    most = "x" * (128 * 1024)
    assert await renderer.render(job('{{ input("x") }}', x=most)) == [most]
    (long,) = faults(await renderer.render(job('{{ input("x") }}y', x=most)))
    assert "128 KiB" in long.message
    (wide,) = faults(await renderer.render(job('{{ input("x") }}', x="é" * (100 * 1024))))
    assert "128 KiB" in wide.message
    (nul,) = faults(await renderer.render(job('{{ "\\x00" }}')))
    assert "NUL" in nul.message


async def test_the_workers_have_no_environment_no_network_and_end_with_the_planner(renderer: Renderer) -> None:
    await renderer.render(job(INNOCENT, command="uptime"))
    family = psutil.Process().children(recursive=True)
    zygote = next(filter(is_zygote, family))
    (worker,) = zygote.children()
    assert zygote.environ() == {}
    assert psutil.Process(worker.pid).num_fds() <= 4
    await renderer.stop()
    gone, alive = await asyncio.to_thread(psutil.wait_procs, [zygote, worker], 5)
    assert (len(gone), alive) == (2, [])


def is_zygote(process: psutil.Process) -> bool:
    """A worker that has ended meanwhile is none."""
    try:
        return any("zygote" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


async def test_a_killed_zygote_is_started_again(renderer: Renderer) -> None:
    await renderer.render(job(INNOCENT, command="uptime"))
    for process in filter(is_zygote, psutil.Process().children(recursive=True)):
        process.kill()
    answers = [await renderer.render(job(INNOCENT, command="w")) for _ in range(2)]
    assert answers[-1] == ["echo w on web0"]


async def test_ten_thousand_hosts_are_rendered_in_seconds(renderer: Renderer) -> None:
    began = time.monotonic()
    answers = await renderer.render(job(INNOCENT, 10_000, command="uptime"))
    assert answers[9_999] == "echo uptime on web9999"
    assert time.monotonic() - began < 10
