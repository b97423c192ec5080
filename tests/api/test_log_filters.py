"""What the log says of callers that leave while their answer is sent."""

import logging

import pytest
from grpc._cython import cygrpc

from gradserve_server.api.telemetry import log_filters


@pytest.fixture(autouse=True)
def installed() -> None:
    log_filters.install()
    log_filters.install()
    assert sum(isinstance(each, log_filters.CallerGone) for each in log_filters.GRPC_LOGGER.filters) == 1


def raised(error: Exception, caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    with caplog.at_level(logging.INFO):
        try:
            raise error
        except Exception:
            log_filters.GRPC_LOGGER.exception("Unexpected [%s] raised by servicer method [%s]", "Any", "/Explain")
    (record,) = caplog.records
    return record


def test_an_answer_that_nobody_took_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    record = raised(cygrpc.ExecuteBatchError("Failed", (), ()), caplog)
    assert record.levelno == logging.INFO
    assert "Traceback" not in caplog.text
    assert "the caller left before the answer was sent: Unexpected [Any] raised by servicer" in caplog.text


def test_other_errors_keep_their_traceback(caplog: pytest.LogCaptureFixture) -> None:
    record = raised(ValueError("a fault"), caplog)
    assert record.levelno == logging.ERROR
    assert "Traceback" in caplog.text
