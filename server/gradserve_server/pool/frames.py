"""Messages as the frames of a ZeroMQ message: a pickle of our own classes, and beside it the arrays' bytes.

A pickle may name any function of any module, and unpickling calls it. Here it may name only what messages are made of,
so that whoever reaches a socket can send wrong values but run nothing.
"""

import io
import logging
import pickle
from collections.abc import Sequence
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple

import numpy as np
import zmq

log = logging.getLogger(__name__)

COPIED_BYTES = 1 << 14  # Arrays below this size are copied on arrival, since small frames lie at any address.
PACKAGE = __name__.partition(".")[0]
# The classes and functions of numpy that pickled arrays refer to.
NUMPY_NAMES = frozenset({"_frombuffer", "_reconstruct", "scalar", "dtype", "ndarray"})


class ForeignClass(Exception):
    """A message refers to a class or function that messages may not contain."""


class Unread(NamedTuple):
    """Stands for a message that could not be read, about the task of that id."""

    id: str
    reason: str


def frames_of(messages: Sequence[object]) -> list[bytes | memoryview]:
    """The frames of messages that are sent together. Their arrays must not change any more.

    The ids of their tasks come first, so that they are known where the rest cannot be read.
    """
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    pickler = _Pickler(file, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
    pickler.dump([message.id for message in messages if hasattr(message, "id")])
    pickler.dump(messages)
    return [file.getvalue(), *(buffer.raw() for buffer in buffers)]


def messages_of(frames: Sequence[zmq.Frame], sender: str) -> list[Any] | None:
    """The messages that were sent together; where they cannot be read, an Unread for each task that they are about.

    Large arrays are not copied: they stay in the frames.

    Returns None where not even the ids of their tasks can be read.
    """
    head, *arrays = frames
    ids: list[str] | None = None
    try:
        unpickler = _Unpickler(io.BytesIO(head.bytes), buffers=[_array_bytes(frame.buffer) for frame in arrays])
        ids = list(map(str, unpickler.load()))
        return list(unpickler.load())
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        log.error("a message of %s is refused: %s", sender, reason)
        return None if ids is None else [Unread(each, reason) for each in ids]


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """Copies arrays that are read-only, since they would arrive read-only, and torch warns of those."""
        if isinstance(value, np.ndarray) and not value.flags.writeable:
            return value.copy(order="K").__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    allowed: ClassVar[dict[tuple[str, str], Any]] = {}  # Cache of the allowed classes, by module and name.

    def find_class(self, module: str, name: str) -> Any:
        """A dataclass, NamedTuple or Enum of this package, or a part of numpy's arrays. Raises ForeignClass."""
        if (known := self.allowed.get((module, name))) is not None:
            return known
        root = module.partition(".")[0]
        if root == PACKAGE or (root == "numpy" and name in NUMPY_NAMES):
            value = super().find_class(module, name)
            if root == "numpy" or _is_message_part(value):
                self.allowed[module, name] = value
                return value
        raise ForeignClass(f"a message names {module}.{name}, which is no part of any message")


def _is_message_part(value: Any) -> bool:
    named_tuple = isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields")
    return isinstance(value, type) and (named_tuple or is_dataclass(value) or issubclass(value, Enum))


def _array_bytes(buffer: memoryview) -> Any:
    return buffer if buffer.nbytes >= COPIED_BYTES else np.frombuffer(buffer, np.uint8).copy()
