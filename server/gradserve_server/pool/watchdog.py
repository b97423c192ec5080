"""What a worker's heartbeats, or their absence, say about it. Pure functions: times in seconds are passed in."""

from typing import Literal

BEAT_SECONDS = 1.0  # Between two heartbeats of a worker.
CHECK_SECONDS = 0.5  # Between two looks at all workers.
AWAY_SECONDS = 1.0  # A look that comes so much too late tells that the front-end itself was not running.
SILENT_SECONDS = 4.0  # Silence after which a worker gets no tasks, and those that it has go to others.
FROZEN_SECONDS = 60.0  # Silence after which it is killed.
# Likewise while it loads: it has no tasks then, and reading large files may hold the interpreter's lock.
FROZEN_LOADING_SECONDS = 600.0
# A pass is stuck that runs for so many times its estimate, but for no less than two minutes: a machine may be slowed
# tenfold. A pass of a new kind has no estimate; a legal one of a minute may take ten on such a machine.
STUCK_FACTOR = 20.0
MIN_STUCK_SECONDS = 120.0
STUCK_FIRST_SECONDS = 900.0

# "silent": it was ready and is not heard; "down": its process is dead.
WorkerState = Literal["loading", "ready", "silent", "down"]
Finding = Literal["well", "silent", "frozen", "stuck"]


def judge(state: WorkerState, silence: float, pass_seconds: float, expected: float) -> Finding:
    """What is to be thought of a worker that was not heard for `silence` seconds.

    Its last heartbeat told that a pass had been running for `pass_seconds`, whose estimate is `expected`; 0 stands for
    no pass, and for no estimate. "silent": others should take its tasks. "frozen" and "stuck": it should be killed.
    """
    if state == "down":
        return "well"
    if state == "loading":
        return "frozen" if silence > FROZEN_LOADING_SECONDS else "well"
    if silence > FROZEN_SECONDS:
        return "frozen"
    if silence > SILENT_SECONDS:
        return "silent"
    return "stuck" if pass_seconds > longest_pass(expected) else "well"


def longest_pass(expected: float) -> float:
    """Seconds after which a pass is stuck, by its estimate; 0 stands for none."""
    return max(MIN_STUCK_SECONDS, STUCK_FACTOR * expected) if expected else STUCK_FIRST_SECONDS


def away(last: float, now: float) -> float:
    """Seconds in which the front-end itself was not running between two looks, so that it could hear nobody."""
    late = now - last - CHECK_SECONDS
    return late if late > AWAY_SECONDS else 0.0
