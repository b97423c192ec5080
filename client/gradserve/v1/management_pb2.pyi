from gradserve.v1 import models_pb2 as _models_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelChangeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    MODEL_CHANGE_STATE_UNSPECIFIED: _ClassVar[ModelChangeState]
    MODEL_CHANGE_STATE_WAITING: _ClassVar[ModelChangeState]
    MODEL_CHANGE_STATE_READING: _ClassVar[ModelChangeState]
    MODEL_CHANGE_STATE_LOADING: _ClassVar[ModelChangeState]
    MODEL_CHANGE_STATE_WARMING_UP: _ClassVar[ModelChangeState]
    MODEL_CHANGE_STATE_READY: _ClassVar[ModelChangeState]
MODEL_CHANGE_STATE_UNSPECIFIED: ModelChangeState
MODEL_CHANGE_STATE_WAITING: ModelChangeState
MODEL_CHANGE_STATE_READING: ModelChangeState
MODEL_CHANGE_STATE_LOADING: ModelChangeState
MODEL_CHANGE_STATE_WARMING_UP: ModelChangeState
MODEL_CHANGE_STATE_READY: ModelChangeState

class LoadModelRequest(_message.Message):
    __slots__ = ["names"]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ["names"]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class ReloadModelRequest(_message.Message):
    __slots__ = ["names"]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class ModelChangeEvent(_message.Message):
    __slots__ = ["progress", "result"]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: ModelChangeProgress
    result: ModelChangeResult
    def __init__(self, progress: _Optional[_Union[ModelChangeProgress, _Mapping]] = ..., result: _Optional[_Union[ModelChangeResult, _Mapping]] = ...) -> None: ...

class ModelChangeProgress(_message.Message):
    __slots__ = ["state", "worker", "workers", "model", "seconds"]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    state: ModelChangeState
    worker: int
    workers: int
    model: str
    seconds: float
    def __init__(self, state: _Optional[_Union[ModelChangeState, str]] = ..., worker: _Optional[int] = ..., workers: _Optional[int] = ..., model: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class ModelChangeResult(_message.Message):
    __slots__ = ["models", "served", "seconds"]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[_models_pb2.Model]
    served: _containers.RepeatedScalarFieldContainer[str]
    seconds: float
    def __init__(self, models: _Optional[_Iterable[_Union[_models_pb2.Model, _Mapping]]] = ..., served: _Optional[_Iterable[str]] = ..., seconds: _Optional[float] = ...) -> None: ...
