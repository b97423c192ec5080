"""What a stream tells while its task runs: the progress of pictures that are made, and the maps of Explain."""

from google.protobuf.message import Message

from gradserve.v1 import explain_pb2

from ...methods.explain.reporting import PartOfAnswer
from ...pool.wire import Preview
from ..progress import progress
from ..request import Bound
from .explanation import explanation


def stream_progress(request: Message, bound: Bound, preview: Preview) -> Message:
    """The message about a worker's preview."""
    part = preview.answer
    if not isinstance(part, PartOfAnswer):
        return progress(preview)
    assert isinstance(request, explain_pb2.ExplainRequest), "no other task has several answers"
    call = bound.task.arguments.calls[part.place]
    return explain_pb2.ExplainProgress(
        index=part.place,
        explanation=explanation(call, part.explained, bound.card, request.format),
        finished=part.finished,
        region=bound.picture.region,
    )
