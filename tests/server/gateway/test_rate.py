import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfysnap_server.gateway.rate import RateLimiter, TokenBucket


@pytest.mark.parametrize(
    ("per_minute", "at_once"), [(3, 3), (20, 20), (60, 20), (240, 20), (600, 50), (6000, 500)]
)
def test_after_a_pause_the_requests_of_five_seconds_may_come_at_once(
    per_minute: int, at_once: int
) -> None:
    bucket = TokenBucket(per_minute, now=0)
    assert [bucket.take(1000) for _ in range(at_once)] == [0] * at_once
    assert bucket.take(1000) > 0


def test_the_request_after_those_waits_for_a_token() -> None:
    bucket = TokenBucket(60, now=0)
    assert [bucket.take(0) for _ in range(20)] == [0] * 20
    assert bucket.take(0) == 1
    assert bucket.take(0.5) == pytest.approx(0.5)
    assert bucket.take(1) == 0
    assert bucket.take(1) > 0


def test_used_and_reset_show_what_is_taken_and_when_it_is_back() -> None:
    bucket = TokenBucket(6, now=0)
    assert (bucket.used(0), bucket.reset(0)) == (0, 0)
    for _ in range(3):
        bucket.take(0)
    assert (bucket.used(0), bucket.reset(0)) == (3, 30)
    assert (bucket.used(10), bucket.reset(10)) == (2, 20)
    assert (bucket.used(1000), bucket.reset(1000)) == (0, 0)


@given(
    per_minute=st.integers(1, 1000),
    gaps=st.lists(st.floats(0, 30), min_size=1, max_size=200),
)
def test_in_no_minute_pass_more_than_its_budget_and_what_comes_at_once(
    per_minute: int, gaps: list[float]
) -> None:
    bucket, now, passed = TokenBucket(per_minute, now=0), 0.0, list[float]()
    for gap in gaps:
        now += gap
        if bucket.take(now) == 0:
            passed.append(now)
    for start in passed:
        assert sum(start <= at < start + 60 for at in passed) <= per_minute + bucket.at_once


def test_headers_show_the_budget_what_is_left_of_it_and_when_all_is_back() -> None:
    bucket = TokenBucket(600, now=0)
    for _ in range(15):
        bucket.take(0)
    assert bucket.headers(0) == [
        (b"ratelimit-policy", b'"requests_per_minute";q=600;w=60'),
        (b"ratelimit", b'"requests_per_minute";r=35;t=2'),
    ]


@given(per_minute=st.integers(1, 1000))
def test_after_the_wait_that_was_named_a_request_passes(per_minute: int) -> None:
    bucket = TokenBucket(per_minute, now=0)
    while not (wait := bucket.take(0)):
        pass
    assert bucket.take(wait + 1e-6) == 0


def test_a_clock_that_goes_back_gives_no_tokens() -> None:
    bucket = TokenBucket(1, now=100)
    assert bucket.take(100) == 0
    assert bucket.take(0) > 0
    assert bucket.take(130) > 0


def test_keys_have_buckets_of_their_own_that_begin_anew_with_another_limit() -> None:
    rates = RateLimiter()
    assert rates.bucket("a", 1, 0).take(0) == 0
    assert rates.bucket("a", 1, 0).take(0) > 0
    assert rates.bucket("b", 1, 0).take(0) == 0
    assert rates.bucket("a", 2, 0).take(0) == 0


def test_full_buckets_are_forgotten_when_there_are_many() -> None:
    rates = RateLimiter()
    busy = rates.bucket("busy", 1, 0)
    busy.take(0)
    for number in range(20_000):
        rates.bucket(f"key {number}", 1, 0)
    assert rates.bucket("busy", 1, 0) is busy
    assert len(rates) <= 10_000
