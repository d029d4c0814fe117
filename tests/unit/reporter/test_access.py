"""Forty forms of Host, Origin and Sec-Fetch headers: which may come in (localhost dashboards; issue of hostile input)."""

import pytest
from chargehand_reporter.core.access import Door, is_from_our_page

LOCAL = Door()
PUBLIC = Door(frozenset({"jobs.example.com", "jobs.example.com:8443"}), scheme="https")


def headers(**values: str | list[str]) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    for name, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            found.append((name.replace("_", "-").encode(), one.encode("latin-1")))
    return found


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:7373", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:65535", "[::1]", "[::1]:7373"],
)
def test_localhost_at_any_port_is_answered(host: str) -> None:
    assert LOCAL.judge("GET", headers(host=host)) is None
    assert LOCAL.judge("POST", headers(host=host, origin=f"http://{host}")) is None


@pytest.mark.parametrize(
    ("hosts", "code"),
    [
        ([], "host_malformed"),
        (["localhost", "localhost"], "host_malformed"),
        (["localhost", "evil.example"], "host_malformed"),
        ([""], "host_not_allowed"),
        (["evil.example"], "host_not_allowed"),
        (["localhost.evil.example"], "host_not_allowed"),
        (["evil.localhost"], "host_not_allowed"),
        (["localhost."], "host_not_allowed"),
        (["127.0.0.1."], "host_not_allowed"),
        (["127.0.0.2"], "host_not_allowed"),
        (["127.1"], "host_not_allowed"),
        (["0.0.0.0:7373"], "host_not_allowed"),
        (["[::]:7373"], "host_not_allowed"),
        (["::1"], "host_not_allowed"),
        (["localhost:"], "host_not_allowed"),
        (["localhost:7373@evil.example"], "host_not_allowed"),
        (["localhost:7373/evil"], "host_not_allowed"),
        (["localhost:123456"], "host_not_allowed"),
        (["localhost:7373 "], "host_not_allowed"),
        (["http://localhost"], "host_not_allowed"),
        (["2130706433"], "host_not_allowed"),
        (["localhost\xa0"], "host_not_allowed"),
    ],
)
def test_any_other_host_is_refused(hosts: list[str], code: str) -> None:
    refused = LOCAL.judge("GET", headers(host=hosts))
    assert refused is not None
    assert refused.code == code


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "http://localhost",
        "http://localhost:8080",
        "https://localhost:7373",
        "http://127.0.0.1:7373",
        "http://localhost:7373.evil.example",
        "http://localhost:7373/",
        "file://",
        "",
        ["http://localhost:7373", "http://evil.example"],
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_page_of_any_other_origin_is_refused(origin: str | list[str], method: str) -> None:
    refused = LOCAL.judge(method, headers(host="localhost:7373", origin=origin))
    assert refused is not None
    assert refused.code == "origin_not_allowed"


@pytest.mark.parametrize("site", ["cross-site", "same-site", "weird", ["same-origin", "cross-site"]])
@pytest.mark.parametrize(("method", "is_stream"), [("POST", False), ("GET", True), ("GET", False)])
def test_another_site_may_neither_post_nor_listen_nor_fetch(
    site: str | list[str], method: str, is_stream: bool
) -> None:
    refused = LOCAL.judge(method, headers(host="localhost", sec_fetch_site=site), is_stream=is_stream)
    assert refused is not None
    assert refused.code == "origin_not_allowed"


def test_another_site_may_link_to_us_but_not_frame_us() -> None:
    link = headers(host="localhost", sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="document")
    frame = headers(host="localhost", sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="iframe")
    assert LOCAL.judge("GET", link) is None
    assert LOCAL.judge("GET", link, is_stream=True) is not None
    assert LOCAL.judge("POST", link) is not None
    assert LOCAL.judge("GET", frame) is not None


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_our_own_pages_and_the_address_bar_may(site: str) -> None:
    assert LOCAL.judge("GET", headers(host="localhost", sec_fetch_site=site), is_stream=True) is None


def test_a_public_host_is_answered_exactly_as_the_settings_name_it() -> None:
    assert PUBLIC.judge("GET", headers(host="Jobs.Example.Com")) is None
    assert PUBLIC.judge("POST", headers(host="jobs.example.com:8443", origin="https://jobs.example.com:8443")) is None
    assert PUBLIC.judge("GET", headers(host="jobs.example.com:80")) is not None
    assert PUBLIC.judge("POST", headers(host="jobs.example.com", origin="http://jobs.example.com")) is not None


def test_a_cookie_alone_acts_only_where_a_browser_says_that_our_page_asks() -> None:
    assert not is_from_our_page(headers(host="localhost"))
    assert not is_from_our_page(headers(host="localhost", sec_fetch_site="none"))
    assert is_from_our_page(headers(host="localhost", sec_fetch_site="same-origin"))
    assert is_from_our_page(headers(host="localhost", origin="http://localhost"))
