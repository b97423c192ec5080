"""Changes of models as the small server answers them: some progress, then the result."""

from collections.abc import Iterator

from gradserve.v1 import management_pb2, models_pb2

PROGRESS = (
    management_pb2.ModelChangeProgress(state=management_pb2.MODEL_CHANGE_STATE_READING, seconds=0.1),
    management_pb2.ModelChangeProgress(
        state=management_pb2.MODEL_CHANGE_STATE_LOADING, worker=1, workers=2, model="tiny", seconds=0.5
    ),
    management_pb2.ModelChangeProgress(state=management_pb2.MODEL_CHANGE_STATE_READY, worker=2, workers=2, seconds=2.5),
)


def changed(cards: list[models_pb2.Model], served: list[str]) -> Iterator[management_pb2.ModelChangeEvent]:
    """The events of a change that has loaded these."""
    for progress in PROGRESS:
        yield management_pb2.ModelChangeEvent(progress=progress)
    result = management_pb2.ModelChangeResult(models=cards, served=served, seconds=3.0)
    yield management_pb2.ModelChangeEvent(result=result)
