"""What the environment may say, and what is said of it when it cannot be used."""

from datetime import timedelta

import pytest
from chargehand_chassis.runner import EXIT_FATAL, run_service
from chargehand_chassis.settings import KafkaSettings, ServiceSettings, WrongSettings, read_settings


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1m30s", 90), ("PT90S", 90), ("250ms", 0.25), ("P1D", 86_400)]
)
def test_a_duration_is_written_as_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    monkeypatch.setenv("CHARGEHAND_SESSION_TIMEOUT", text)
    assert read_settings(KafkaSettings).session_timeout == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "5 m", "-5s", "PT", "1h30"])
def test_what_is_no_duration_is_refused_with_a_form_to_write(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CHARGEHAND_SESSION_TIMEOUT", text)
    with pytest.raises(WrongSettings, match="CHARGEHAND_SESSION_TIMEOUT: "):
        read_settings(KafkaSettings)


def test_all_that_is_wrong_is_named_and_no_value_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value may hold a password, also one that is right."""
    monkeypatch.setenv("CHARGEHAND_STORE_URL", "postgresql://c:canary-1@h/d")
    monkeypatch.setenv("CHARGEHAND_PARTITIONS", "canary-2")
    monkeypatch.setenv("CHARGEHAND_STALL_AFTER", "canary-3")
    with pytest.raises(WrongSettings) as wrong:
        read_settings(ServiceSettings)
    text = str(wrong.value)
    assert "CHARGEHAND_DATA is not set (This process's own directory" in text
    assert "CHARGEHAND_KEY_FILE is not set" in text and "CHARGEHAND_PARTITIONS: " in text
    assert "CHARGEHAND_STALL_AFTER: not a duration: write 30s, 5m or 1h30m" in text
    assert "canary" not in text and "pydantic" not in text
    assert wrong.value.__cause__ is None and wrong.value.__suppress_context__


def test_a_service_that_cannot_start_says_so_in_one_line_and_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def never(_: object) -> None:
        raise AssertionError

    monkeypatch.setenv("CHARGEHAND_DATA", "/nowhere")
    assert run_service("planner", ServiceSettings, never) == EXIT_FATAL
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("planner cannot start: CHARGEHAND_KEY_FILE is not set")
