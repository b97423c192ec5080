"""Two front-ends before one worker that is full: together they let in as much as one alone."""

import asyncio
import io
from statistics import fmean

import numpy as np
import pytest
from lengths import length
from loads import loaded
from PIL import Image
from serving import Server

from gradserve.load.figures import REFUSED
from gradserve.load.loops import OpenLoop
from gradserve.load.mix import MixEntry

pytestmark = pytest.mark.alone
ROW_SECONDS = 0.04  # The network sleeps so long, so that the worker is as fast on a busy machine.
RATE = 3 / ROW_SECONDS  # Requests per second, of one row each: three times what the worker can answer.
SECONDS, WARM_UP_SECONDS = length(8, 60), 4.0
CONNECTIONS = 16  # The system deals them to the front-ends.
CONFIG = f"""
[limits]
max_in_flight = 1000
caller_share = 1.0

[models.slow]
builder = "networks:slow"
arguments = {{ seconds = {ROW_SECONDS} }}
weights = "random"
precisions = ["exact"]
height = 8
width = 12
resize = 8
"""
MIX = [MixEntry("explain", method="gradient", model="slow", parameters={"target": 0})]


def photo() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


async def let_in(server: Server) -> float:
    """How many requests are in on average, by what the server counts, while it refuses others."""
    loop = OpenLoop(RATE, SECONDS, WARM_UP_SECONDS)
    load = asyncio.create_task(loaded(server.address, MIX, [photo()], loop, connections=CONNECTIONS))
    await asyncio.sleep(WARM_UP_SECONDS)
    counts = []
    for _ in range(int(SECONDS / 0.25) - 2):
        counts.append(await asyncio.to_thread(server.metric, "gradserve_jobs_in_flight"))
        await asyncio.sleep(0.25)
    codes = (await load).all.codes
    assert set(codes) == {"OK", REFUSED}
    assert codes[REFUSED] > sum(codes.values()) / 3
    return fmean(counts)


def test_two_front_ends_refuse_at_the_load_at_which_one_does() -> None:
    found = []
    for front_ends in (1, 2):
        with Server(CONFIG, "--workers", "1", "--front-ends", str(front_ends)) as server:
            found.append(asyncio.run(let_in(server)))
    print(f"requests in, on average: {found[0]:.1f} with one front-end, {found[1]:.1f} with two")
    assert 0.8 <= found[1] / found[0] <= 1.2
