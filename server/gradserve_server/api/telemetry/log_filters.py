"""A filter of gRPC's own logger, which logs a caller who left as if it were a fault of the server."""

import logging

GRPC_LOGGER = logging.getLogger("grpc._cython.cygrpc")
FAILED_SEND = "ExecuteBatchError"  # It is named here, since its module in grpc is private.


class CallerGone(logging.Filter):
    """Turns gRPC's error about an answer that could not be sent into a line at INFO without a traceback.

    A caller who leaves, or whose deadline passes, at the moment of the answer is no fault of the server. gRPC tells
    most of them apart; it logs an unexpected error where the answer was already on its way.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrites the record; every record is kept."""
        if record.exc_info and type(record.exc_info[1]).__name__ == FAILED_SEND:
            record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
            record.msg, record.args = f"the caller left before the answer was sent: {record.getMessage()}", ()
            record.exc_info = record.exc_text = None
        return True


def install() -> None:
    """Puts the filter on gRPC's logger; a second call does nothing."""
    if not any(isinstance(each, CallerGone) for each in GRPC_LOGGER.filters):
        GRPC_LOGGER.addFilter(CallerGone())
