"""Generates `gradserve.Client` from `gradserve.AsyncClient`; with --check, says whether they are in step.

The two differ in a few words, which the rules below replace one after the other. What differs in more than words is
written by hand twice, under two names: the channels in stubs.py, the ordered map in ordered.py.
"""

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "client" / "gradserve"
MODULES = {
    "aio.py": "client.py",
    "calls/aio_inside.py": "calls/inside.py",
    "calls/aio_management.py": "calls/management.py",
    "calls/aio_many.py": "calls/many.py",
    "calls/aio_photos.py": "calls/photos.py",
    "calls/aio_pictures.py": "calls/pictures.py",
    "transport/aio_connection.py": "transport/connection.py",
}
HEADER = "# Generated from {source} by protos/sync_client.py: edit that file, then `make protos`.\n"

# Sentences of documentation that hold for one of the two only.
SENTENCES = {
    "aio.py": {
        "The client for asyncio; `gradserve.client` has the same for ordinary code.": (
            "The client for ordinary code; `gradserve.aio` has the same for asyncio."
        ),
        """server for asyncio.

    It may be made anywhere and used in several event loops: each has connections of its own, from its first
    call on until `close` or the end of its `async with`.
""": "server; safe to share between threads.\n",
        "interceptors: of grpc.aio,": "interceptors: of grpc,",
        "channel: one of grpc.aio,": "channel: one of grpc,",
    },
    "aio_inside.py": {"The calls for asyncio that look": "The calls that look"},
    "aio_management.py": {"The calls for asyncio that change": "The calls that change"},
    "aio_many.py": {"The calls for asyncio about": "The calls about"},
    "aio_photos.py": {"The calls for asyncio about": "The calls about"},
    "aio_pictures.py": {"The calls for asyncio that make": "The calls that make"},
    "aio_connection.py": {
        "A connection to a server for asyncio:": "A connection to a server:",
        "Close the running loop's connections and cancel the calls that run in it; the next call opens others.": (
            "Close the connections; calls that are still running are cancelled."
        ),
    },
}
# Regular expressions, in the order in which they are applied, with what takes the place of what they match.
RULES = {
    r"await asyncio\.to_thread\(\s*([\w.]+),\s*": r"\1(",  # Where no event loop waits, no thread is needed.
    r"asyncio\.sleep": "time.sleep",
    r"async (def|for|with)\b": r"\1",
    r"await ": "",
    r"__a(enter|exit)__": r"__\1__",
    r"\bAsync(?=[A-Z])": "",  # Of AsyncClient, AsyncConnection, AsyncChannels, AsyncIterator.
    r"\bin_order_async\b": "in_order",
    r"^from gradserve\.(\w+)\.aio_": r"from gradserve.\1.",
}


def synchronous(source: Path) -> str:
    """The synchronous form of a module, with sorted imports, and without those that it does not need any more."""
    text = source.read_text()
    for sentence, replacement in SENTENCES[source.name].items():
        if sentence not in text:
            raise ValueError(f"{source.name} does not say {sentence!r} any more: adapt SENTENCES")
        text = text.replace(sentence, replacement)
    for pattern, replacement in RULES.items():
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    text, target = HEADER.format(source=source.name) + text, PACKAGE / MODULES[str(source.relative_to(PACKAGE))]
    for command in (["check", "--quiet", "--select=I,F401", "--fix"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, f"--stdin-filename={target}", "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> int:
    """Generates in place, or compares: 0 in step, 1 not."""
    fresh = {PACKAGE / target: synchronous(PACKAGE / source) for source, target in MODULES.items()}
    if "--check" not in sys.argv:
        for path, text in fresh.items():
            path.write_text(text)
        print("\n".join(str(path.relative_to(PACKAGE)) for path in fresh))
        return 0
    stale = [path.name for path, text in fresh.items() if path.read_text() != text]
    named = " and ".join(f"{target} from {source}" for source, target in MODULES.items() if target in stale)
    said = f"not as generated: {named}; edit the source and run `make protos`"
    print(said if stale else f"{len(fresh)} modules in step")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
