"""When a process that died is started again. Pure functions: times are passed in."""

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
