"""The log of all processes: lines of text or of JSON, on the standard error stream."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

LogFormat = Literal["text", "json"]
TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class LogSettings(NamedTuple):
    """What a process logs, and how."""

    level: int = logging.WARNING
    format: LogFormat = "text"


class JsonFormatter(logging.Formatter):
    """A line of JSON for each record. Its `fields`, if it has them, take the place of its message."""

    def format(self, record: logging.LogRecord) -> str:
        """The time in UTC, level, name and process, then the fields or the message, and an exception as text."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
        }
        fields = getattr(record, "fields", None)
        line |= fields if fields is not None else {"message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(settings: LogSettings) -> None:
    """Lets this process log so from now on, unless it does already.

    Records do without the places that they come from and without threads, which take as long to find as all the rest,
    and which no line shows ("Optimization" in Python's Logging HOWTO).
    """
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else logging.Formatter(TEXT))
    logging.basicConfig(handlers=[handler], level=settings.level)


def current() -> LogSettings:
    """How this process logs, for others that it starts."""
    root = logging.getLogger()
    is_json = any(isinstance(handler.formatter, JsonFormatter) for handler in root.handlers)
    return LogSettings(root.level, "json" if is_json else "text")
