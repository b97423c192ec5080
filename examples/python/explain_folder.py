"""A batch job: maps of all photos of a folder, many under way at once.

    python explain_folder.py photos/ maps/ --server 127.0.0.1:50051

A photo that fails is told, and the others go on. Photos that have their map in maps/ are left out, so that a job that
was stopped goes on when the same command is given again. Exit code 1: some photos have no map.
"""

import argparse
import asyncio
import sys
from pathlib import Path

import gradserve

UNDER_WAY = 8  # Requests at once. They share passes on the server, which orders them by itself.
SECONDS = 20  # The most that one answer may take on the server.
PAUSES = (1, 2, 4, 8, 16)  # Seconds between attempts while the server is away.
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


async def explain(client: gradserve.AsyncClient, photo: Path, model: str) -> gradserve.Explanation:
    """The SmoothGrad of a photo, of as many samples as there is time for; asks again while the server is full or away.

    Raises GradserveError and OSError for what asking again does not cure.
    """
    pauses = iter(PAUSES)
    while True:
        try:
            return await client.explain(
                photo, "smooth_grad", model=model, priority="batch", time_budget=SECONDS, allow_partial=True
            )
        except gradserve.ResourceExhausted as error:
            if error.retry_after is None:  # It is no full server, but for instance too large a reply.
                raise
            await asyncio.sleep(error.retry_after)
        except gradserve.Unavailable:
            pause = next(pauses, None)
            if pause is None:
                raise
            await asyncio.sleep(pause)


async def save(client: gradserve.AsyncClient, photo: Path, path: Path, model: str, places: asyncio.Semaphore) -> bool:
    """Save a photo's map over the photo, and say what came of it; whether there is a map."""
    async with places:
        try:
            result = await explain(client, photo, model)
        except (gradserve.GradserveError, OSError) as error:
            print(f"{photo}: failed: {error}", file=sys.stderr)
            return False
    unfinished = result.save(path.with_name(f".{path.name}"))  # Renamed when whole: a job may be stopped at any time.
    unfinished.replace(path)
    partial = "" if result.completed_fraction == 1 else f", {result.done} of {result.asked} samples"
    print(f"{photo}: {result.target_name}{partial}")
    return True


async def run(photos: Path, maps: Path, server: str, model: str) -> int:
    """Explain all photos that have no map yet; the exit code."""
    maps.mkdir(parents=True, exist_ok=True)
    named = {each: maps / f"{each.name}.png" for each in sorted(photos.iterdir()) if each.suffix.lower() in SUFFIXES}
    places = asyncio.Semaphore(UNDER_WAY)
    async with gradserve.AsyncClient(server, timeout=2 * SECONDS) as client:
        await client.model(model)  # An unknown model is told once here, not for every photo.
        jobs = [save(client, photo, path, model, places) for photo, path in named.items() if not path.exists()]
        done = await asyncio.gather(*jobs)
    print(f"{sum(done)} of {len(done)} photos explained; {len(named) - len(done)} had their map before")
    return 0 if all(done) else 1


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("maps", type=Path)
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--model", default="", help="left out: the server's default")
    arguments = parser.parse_args()
    if not arguments.photos.is_dir():
        parser.error(f"{arguments.photos} is no folder")
    try:
        return asyncio.run(run(**vars(arguments)))
    except gradserve.GradserveError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
