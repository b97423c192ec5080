"""When a worker that died is started again, and when the server gives up. Pure functions: times are passed in."""

FIRST_PAUSE_SECONDS = 0.5  # Before the second start in a row; the first is at once, and each later pause twice as long.
MAX_PAUSE_SECONDS = 30.0
JITTER_SHARE = 0.5  # Largest part of a pause that chance takes away, so that workers do not all load at once.
STEADY_SECONDS = 10.0  # A worker that was ready for so long begins a new row of deaths.


def deaths_in_a_row(before: int, ready_seconds: float) -> int:
    """The deaths in a row with this one, of a worker that was ready for `ready_seconds` before it."""
    return 1 if ready_seconds >= STEADY_SECONDS else before + 1


def pause(deaths: int, chance: float) -> float:
    """Seconds until the next start after that many deaths in a row. `chance`: a random number in [0, 1)."""
    if deaths <= 1:
        return 0.0
    doublings = min(deaths - 2, 30)  # More would only make a number that no float can hold.
    return min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**doublings) * (1 - JITTER_SHARE * chance)


def waiting_since(before: float | None, any_ready: bool, away: float, now: float) -> float | None:
    """Since when no worker is ready; None while one is. `away`: seconds in which the front-end was not running."""
    if any_ready:
        return None
    return now if before is None else min(now, before + away)
