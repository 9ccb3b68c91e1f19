"""Who may use the app: this browser, by its cookie, for this host, from its own pages."""

from __future__ import annotations

import pytest

from sscjax.app.access import FILE_POLICY, PAGE_POLICY, SANDBOX_POLICY, Keys

HOST = {"host": "127.0.0.1:8765"}


@pytest.fixture
def keys() -> Keys:
    return Keys(8765)


def test_an_address_works_once_and_the_next_is_another(keys: Keys) -> None:
    token = keys.address.partition("?token=")[2]
    assert len(token) >= 40 and keys.address.startswith("http://127.0.0.1:8765/?")
    assert not keys.exchanges("") and not keys.exchanges(token[:-1])
    assert keys.exchanges(token)
    assert not keys.exchanges(token)
    assert keys.exchanges(keys.address.partition("?token=")[2])


def test_only_the_cookie_of_this_server_is_known(keys: Keys) -> None:
    assert keys.knows(f"other=1; {keys.cookie}={keys.session}")
    for cookies in ("", "\x00", f"{keys.cookie}=", f"sscjax_1={keys.session}", "é=ü"):
        assert not keys.knows(cookies)
    assert not keys.knows(f"{keys.cookie}={Keys(8765).session}")


@pytest.mark.parametrize(
    "host", ["", "localhost:8765", "127.0.0.1", "127.0.0.1:80", "evil.example:8765", "[::1]:8765"]
)
def test_another_name_of_this_machine_is_refused(keys: Keys, host: str) -> None:
    """A site whose name is pointed at 127.0.0.1 (DNS rebinding) sends its own name."""
    assert keys.refusal("GET", {"host": host}) == "the request is for another host"
    assert keys.refusal("GET", HOST) == ""


@pytest.mark.parametrize(
    "origin", ["null", "http://127.0.0.1:9", "https://127.0.0.1:8765", "http://evil.example"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_requests_of_other_pages_are_refused(keys: Keys, method: str, origin: str) -> None:
    assert "another page" in keys.refusal(method, {**HOST, "origin": origin})
    assert keys.refusal(method, {**HOST, "origin": keys.origin}) == ""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_what_changes_something_says_where_it_comes_from(keys: Keys, method: str) -> None:
    assert keys.refusal(method, HOST) != ""


def test_pages_of_other_ports_count_as_others(keys: Keys) -> None:
    assert keys.foreign({"sec-fetch-site": "same-site"})
    assert keys.foreign({"sec-fetch-site": "cross-site"})
    assert not keys.foreign({"sec-fetch-site": "same-origin"}) and not keys.foreign({})


def test_no_policy_lets_a_page_load_from_elsewhere() -> None:
    for policy in (PAGE_POLICY, FILE_POLICY, SANDBOX_POLICY):
        assert policy.startswith("default-src 'none'; ")
        assert "http" not in policy and "*" not in policy and "unsafe-eval" not in policy
    assert "unsafe" not in PAGE_POLICY
    # A run that somebody else made may hold anything.
    assert "script-src" not in FILE_POLICY and "same-origin" not in SANDBOX_POLICY
