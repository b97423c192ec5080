"""What a worker's silence, or the age of its pass, says about it. Pure functions: times in seconds are passed in."""

from typing import Literal

CHECK_SECONDS = 0.5  # Between two looks at all processes.
FROZEN_SECONDS = 60.0  # After so long a worker that is lost and whose process is stopped is killed.
FROZEN_LOADING_SECONDS = 600.0  # Likewise while it loads: it has no tasks then.
# A pass is stuck that runs for so many times its estimate, but for no less than two minutes: a machine may be slowed
# tenfold. A pass of a new kind has no estimate; a legal one of a minute may take ten on such a machine.
STUCK_FACTOR = 20.0
MIN_STUCK_SECONDS = 120.0
STUCK_FIRST_SECONDS = 900.0

# "lost": it was ready and is not heard; "down": its process is dead.
WorkerState = Literal["loading", "ready", "lost", "down"]
Finding = Literal["well", "frozen", "stuck"]


def judge(state: WorkerState, lost_seconds: float, stopped: bool, pass_seconds: float, expected: float) -> Finding:
    """Whether a worker is well, or should be killed, since it is frozen or stuck in a pass.

    `lost_seconds`: since its connection was lost, 0 while it is connected. `stopped`: whether the system does not run
    its process. `pass_seconds`: since it told that a pass began, 0 for none; `expected`: the estimate of that pass, 0
    for none.
    """
    if state == "down":
        return "well"
    if stopped and lost_seconds > (FROZEN_LOADING_SECONDS if state == "loading" else FROZEN_SECONDS):
        return "frozen"
    return "stuck" if pass_seconds > longest_pass(expected) else "well"


def longest_pass(expected: float) -> float:
    """Seconds after which a pass is stuck, by its estimate; 0 stands for none."""
    return max(MIN_STUCK_SECONDS, STUCK_FACTOR * expected) if expected else STUCK_FIRST_SECONDS


def passed(last: float, now: float) -> float:
    """Seconds between two looks, at most two periods: after longer ones it is this process that did not run."""
    return min(now - last, 2 * CHECK_SECONDS)
