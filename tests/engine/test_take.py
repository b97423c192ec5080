"""The policy of take(), as a pure function."""

import random
from collections import Counter
from collections.abc import Mapping
from math import ceil

from gradserve_server.engine.take import (
    BATCH_AGEING_SECONDS,
    DEFAULT_DUE_SECONDS,
    MAX_OVERDUE_SECONDS,
    NEW_JOBS_SHARE,
    OVERDUE_PASSES,
    STEPPING_BATCH_SHARE,
    Key,
    RowRequest,
    take,
)

KEY = Key("a", "exact", 8, 8, "image")
OTHER = Key("b", "exact", 8, 8, "image")
NOW = 100.0
PASS = 0.3  # Its unit is the second.
LATE = min(OVERDUE_PASSES * PASS, MAX_OVERDUE_SECONDS)


def claim(name: str, rows: int = 1, **changes: object) -> RowRequest:
    plain = RowRequest(name, KEY, rows, running=False, interactive=True, deadline=float("inf"), since=NOW)
    return plain._replace(**changes)


class Had:
    """Seconds that callers and keys have had; those that are not named have had less than any."""

    def __init__(self, keys: Mapping[Key, float] | None = None, **callers: float) -> None:
        self.keys, self.callers = keys or {}, callers

    def had(self, caller: str) -> float:
        return self.callers.get(caller, -1)

    def had_kind(self, caller: str, key: Key) -> float:
        return self.keys.get(key.kind, -1)


def taken(
    claims: list[RowRequest],
    limit: int = 8,
    served: Mapping[Key, int] | None = None,
    now: float = NOW,
    **callers: float,
) -> dict[str, int]:
    dealt = take(claims, lambda key: limit, Had(served, **callers), now, lambda key: PASS)
    return {str(c.query): rows for c, rows in dealt}


def test_nothing_is_taken_of_nothing() -> None:
    assert take([], lambda key: 8, Had(), NOW, lambda key: PASS) == []


def test_all_rows_fit() -> None:
    assert taken([claim("a", 3), claim("b", 5)]) == {"a": 3, "b": 5}


def test_a_wide_query_does_not_push_out_a_narrow_one() -> None:
    assert taken([claim("wide", 50, since=NOW - 9), claim("narrow", 1)]) == {"wide": 7, "narrow": 1}


def test_rows_are_dealt_evenly_to_wide_queries() -> None:
    assert taken([claim("a", 50), claim("b", 50), claim("c", 50), claim("d", 50)]) == dict.fromkeys("abcd", 2)


def test_a_limit_of_one_takes_the_most_urgent_row() -> None:
    claims = [claim("late"), claim("early", since=NOW - 1), claim("pressing", 9, deadline=NOW + 1)]
    assert taken(claims, limit=1) == {"pressing": 1}
    assert taken(claims[:2], limit=1) == {"early": 1}


def test_running_jobs_come_first_but_new_ones_get_a_quarter() -> None:
    running = [claim(f"running {i}", running=True, since=NOW - 1) for i in range(20)]
    new = [claim(f"new {i}", since=NOW - 50) for i in range(20)]
    got = taken(new + running, limit=16)
    assert Counter(name.split()[0] for name in got) == {"running": 12, "new": 4}


def test_new_jobs_that_have_waited_get_at_least_one_row() -> None:
    running = [claim(f"running {i}", running=True) for i in range(5)]
    assert taken([*running, claim("new", since=NOW - LATE)], limit=2) == {"running 0": 1, "new": 1}
    assert taken([*running, claim("new")], limit=2) == {"running 0": 1, "running 1": 1}
    assert taken([*running, claim("new", deadline=NOW + PASS)], limit=2)["new"] == 1, "or it would be too late"


def test_a_pass_in_a_hurry_is_not_made_smaller_twice() -> None:
    claims = [claim("wide", 50, running=True), claim("step", running=True)]
    rows = [
        sum(n for _, n in take(claims, lambda key: 10, Had(), NOW, lambda key: PASS, most)) for most in (4, 6, 9, None)
    ]
    assert rows == [4, 6, 6, 6]


def test_patience_has_an_end_where_passes_are_slow() -> None:
    claims = [*(claim(f"running {i}", running=True) for i in range(6)), claim("new", since=NOW - MAX_OVERDUE_SECONDS)]
    dealt = take(claims, lambda key: 6, Had(), NOW, lambda key: 2.0)
    assert "new" in {c.query for c, _ in dealt}


def test_new_jobs_are_dealt_rows_after_the_running_ones() -> None:
    running = [claim(f"running {i}", 50, running=True) for i in range(4)]
    got = taken([claim("new 0"), claim("new 1"), *running], limit=8)
    assert got == {f"running {i}": 2 for i in range(4)}
    assert taken([claim("new 0"), claim("new 1"), *running[:2]], limit=8)["new 1"] == 1


def test_what_new_jobs_leave_goes_to_running_ones_and_the_other_way_round() -> None:
    assert taken([claim("new", 1), claim("running", 50, running=True)], limit=16) == {"new": 1, "running": 15}
    assert taken([claim("new", 50), claim("running", 2, running=True)], limit=16) == {"new": 14, "running": 2}


def test_passes_are_brisk_while_jobs_wait_for_one_row() -> None:
    steps = [claim(f"step {i}", running=True) for i in range(12)]
    wide = claim("wide", 50, running=True)
    assert sum(taken([wide, *steps[:3]], limit=10).values()) == 10 * STEPPING_BATCH_SHARE
    assert taken([wide, *steps], limit=16) == {"wide": 1} | {f"step {i}": 1 for i in range(11)}, "a row for each job"
    assert sum(taken([wide, *steps], limit=8).values()) == 8
    assert sum(taken([wide, claim("one")], limit=10).values()) == 10, "not for jobs that take no steps"
    batch = [c._replace(interactive=False) for c in steps]
    assert sum(taken([wide, *batch], limit=10).values()) == 10, "nor for those that must wait anyway"


def test_batch_gives_way_to_interactive() -> None:
    claims = [claim("batch", 50, interactive=False, running=True), claim("interactive", 5)]
    assert taken(claims) == {"interactive": 5, "batch": 3}
    assert taken([claims[0], claim("interactive", 50)]) == {"interactive": 8}


def test_batch_ages_into_interactive() -> None:
    waited = claim("batch", 50, interactive=False, since=NOW - BATCH_AGEING_SECONDS - 0.1)
    assert taken([waited, claim("interactive", 50)]) == {"batch": 5, "interactive": 3}


def test_earlier_deadlines_get_the_odd_rows() -> None:
    claims = [claim("a", 9), claim("b", 9, deadline=NOW + 9), claim("c", 9, deadline=NOW + 1)]
    assert taken(claims) == {"c": 3, "b": 3, "a": 2}


def test_the_oldest_goes_first_among_equals() -> None:
    claims = [claim(f"{i}", since=NOW - i) for i in range(12)]
    assert set(taken(claims)) == {str(i) for i in range(4, 12)}


def test_a_pass_has_one_key() -> None:
    for field, value in {"model": "b", "precision": "fast", "height": 9, "width": 9, "wrt": "taps", "alone": 7}.items():
        different = claim("different", key=KEY._replace(**{field: value}), since=NOW + 1)
        assert taken([claim("first"), different]) == {"first": 1}, field


def test_the_key_served_least_goes_first() -> None:
    claims = [claim("a", 50, since=NOW - 9), claim("b", key=OTHER)]
    assert taken(claims, served={KEY: 7, OTHER: 6}) == {"b": 1}
    assert taken(claims, served={KEY: 6, OTHER: 7}) == {"a": 8}
    assert taken(claims, served={KEY: 6}) == {"b": 1}, "never served"


def test_batch_work_does_not_choose_the_key() -> None:
    claims = [claim("interactive"), claim("batch", key=OTHER, interactive=False)]
    assert taken(claims, served={KEY: 9}) == {"interactive": 1}


def test_properties_of_random_claims() -> None:
    rng = random.Random(5)
    for _ in range(500):
        claims = [
            claim(
                str(i),
                rng.choice([1, 1, 2, 50]),
                key=rng.choice([KEY, OTHER, KEY._replace(unshared=i)]),
                running=rng.random() < 0.5,
                interactive=rng.random() < 0.7,
                deadline=rng.choice([float("inf"), NOW + rng.random()]),
                since=NOW - 8 * rng.random(),
            )
            for i in range(rng.randint(1, 30))
        ]
        limit = rng.randint(1, 16)
        batch = take(claims, lambda key, limit=limit: limit, Had({KEY: rng.randint(0, 3)}), NOW, lambda key: PASS)
        keys, rows = {c.key for c, _ in batch}, sum(n for _, n in batch)
        assert len(keys) == 1
        mine = [c for c in claims if c.key in keys]
        urgent = [c for c in mine if c.interactive or NOW - c.since > BATCH_AGEING_SECONDS]
        stepping = sum(c.running and c.rows == 1 for c in urgent or mine)
        room = min(limit, max(stepping, ceil(STEPPING_BATCH_SHARE * limit))) if stepping else limit
        assert rows == min(room, sum(c.rows for c in mine)), "no room is left while a row waits"
        assert all(1 <= n <= c.rows for c, n in batch)
        assert len({id(c) for c, _ in batch}) == len(batch)
        got = {c.query: n for c, n in batch}
        if any(got.get(c.query, 0) < c.rows for c in urgent):
            assert all(c in urgent for c, _ in batch), "batch work goes only where no interactive row waits"
        new = [c for c in urgent or mine if not c.running]
        late = [c for c in new if NOW - c.since >= LATE or c.deadline <= NOW + 2 * PASS]
        given = sum(got.get(c.query, 0) for c in late)
        if room > 1:
            assert given >= min(sum(c.rows for c in late), max(1, int(room * NEW_JOBS_SHARE)))


def test_nobody_starves() -> None:
    """Two keys, running and new, batch and interactive: everyone gets a row within a few passes."""
    served: dict[Key, int] = {}
    waiting = {
        str(i): claim(str(i), key=(KEY, OTHER)[i % 2], running=i % 3 == 0, interactive=i % 5 > 0) for i in range(40)
    }
    now = NOW
    for turn in range(30):
        busy = [claim(f"busy {key.model}", 50, key=key, running=True, since=now) for key in (KEY, OTHER)]
        batch = take([*waiting.values(), *busy], lambda key: 8, Had(served), now, lambda key: PASS)
        served[batch[0][0].key] = turn
        now += 0.5
        for c, _ in batch:
            waiting.pop(str(c.query), None)
    assert not waiting


def test_rows_are_dealt_to_jobs_not_to_their_queries() -> None:
    many = [claim(f"call {i}", 5, since=NOW - 9, job="wide") for i in range(50)]
    got = taken([*many, claim("narrow", 1)], limit=8)
    assert got["narrow"] == 1
    assert sum(got.values()) == 8


def test_a_claim_without_a_deadline_is_not_starved_by_those_that_have_one() -> None:
    old = claim("old", since=NOW - DEFAULT_DUE_SECONDS - 1)
    others = [claim(f"{i}", deadline=NOW + 60 + i) for i in range(20)]
    assert taken([*others, old], limit=8)["old"] == 1


def test_the_caller_who_had_least_is_next_with_its_key() -> None:
    claims = [claim("much", 50, caller="a"), claim("little", key=OTHER, caller="b")]
    assert taken(claims, a=5, b=4) == {"little": 1}
    assert taken(claims, a=4, b=5) == {"much": 8}


def test_many_keys_are_not_many_shares() -> None:
    sizes = [claim(f"{i}", 50, key=KEY._replace(height=i), caller="a") for i in range(16)]
    assert taken([*sizes, claim("little", key=OTHER, caller="b")], a=5, b=4) == {"little": 1}


def test_callers_who_had_the_same_share_a_pass_by_their_weights() -> None:
    claims = [claim(f"{i}", 50, caller="a") for i in range(9)] + [claim("one", 50, caller="b")]
    assert taken(claims, a=1, b=1)["one"] == 4
    heavy = [c._replace(weight=3.0) if c.caller == "a" else c for c in claims]
    assert taken(heavy, a=1, b=1)["one"] == 2


def test_who_had_less_gets_more_of_a_shared_pass_and_leaves_what_it_does_not_need() -> None:
    claims = [claim("a", 50, caller="a"), claim("b", 50, caller="b")]
    assert taken(claims, a=PASS / 2, b=0) == {"a": 2, "b": 6}
    assert taken([claims[0], claim("b", 1, caller="b")], a=9, b=0) == {"a": 7, "b": 1}


def test_a_limit_of_one_takes_a_row_of_the_caller_whose_turn_it_is() -> None:
    claims = [claim("early", since=NOW - 9, caller="a"), claim("late", caller="b")]
    assert taken(claims, limit=1, a=2, b=1) == {"late": 1}
