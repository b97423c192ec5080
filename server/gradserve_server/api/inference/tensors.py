"""The tensor of a ModelInfer request: its type, shape and elements, and the picture of each of its rows."""

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gradserve.v1 import common_pb2 as pb

from ..errors import Violations, shown
from .v2 import inference_pb2 as v2

NAME = "image"
MAX_ROWS = 256  # The most pictures of a request.
NUMBERS: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("uint8")}
MESSAGE_NUMBERS = {**NUMBERS, "UINT8": np.dtype("uint32")}  # In a message's typed contents, which have no bytes.
CONTENTS = {"FP32": "fp32_contents", "UINT8": "uint_contents", "BYTES": "bytes_contents"}
LENGTH = struct.Struct("<I")  # What stands before each element of BYTES.
SLICE = 1 << 16  # Elements that are copied from a message at a time, so that other threads run between.


class InputTensor(NamedTuple):
    """The pictures of a request: numbers [N, 3, H, W] or [N, H, W, 3], or encoded."""

    values: np.ndarray | Sequence[bytes]

    @property
    def rows(self) -> int:
        """How many pictures."""
        return len(self.values)

    @property
    def encoded(self) -> bool:
        """Whether they are files."""
        return not isinstance(self.values, np.ndarray)

    def picture(self, row: int) -> pb.Image:
        """The picture of a row."""
        values = self.values[row]
        if isinstance(values, bytes):
            return pb.Image(encoded=values)
        if values.shape[0] == 3:  # With three columns too, the channels come first, as the metadata says.
            values = values.transpose(1, 2, 0)
        dtype = pb.DTYPE_UINT8 if values.dtype == np.uint8 else pb.DTYPE_FLOAT32
        return pb.Image(tensor=pb.Tensor(shape=values.shape, dtype=dtype, data=values.tobytes()))


def read_tensor(message: v2.ModelInferRequest, violations: Violations) -> InputTensor | None:
    """The request's one tensor, or None with violations that name it."""
    if [each.name for each in message.inputs] != [NAME]:
        names = ", ".join(shown(each.name) for each in message.inputs[:4]) or "none"
        violations.add("inputs", f"must be one tensor, {NAME}; there were: {names}")
        return None
    (tensor,) = message.inputs
    if tensor.parameters:
        text = f"{NAME} takes none, and had {shown(min(tensor.parameters))}; shared memory is not served"
        violations.add("inputs[0].parameters", f"{text}: send the elements with the request")
    if tensor.datatype not in CONTENTS:
        allowed = "FP32 (numbers from 0 to 1), UINT8 or BYTES (encoded pictures)"
        violations.add("inputs[0].datatype", f"of {NAME} must be {allowed}, was {shown(tensor.datatype)}")
        return None
    if not _check_shape(tensor, violations):
        return None
    values = _raw(message, tensor, violations) if message.raw_input_contents else _typed(tensor, violations)
    return None if values is None else InputTensor(values)


def _check_shape(tensor: v2.ModelInferRequest.InferInputTensor, violations: Violations) -> bool:
    """Whether the shape is one that its type has; if not, with a violation."""
    shape = list(tensor.shape)
    known = f"[{', '.join(map(str, shape[:6]))}{', ...' if len(shape) > 6 else ''}]"
    if tensor.datatype == "BYTES":
        allowed, fits = "[N] or [N, 1] for BYTES", len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    else:
        allowed = f"[N, 3, H, W] or [N, H, W, 3] for {tensor.datatype}"
        fits = len(shape) == 4 and 3 in (shape[1], shape[3]) and min(shape) > 0
    if not fits:
        violations.add("inputs[0].shape", f"of {NAME} must be {allowed}, was {known}")
    elif not 1 <= shape[0] <= MAX_ROWS:
        violations.add("inputs[0].shape", f"of {NAME} must have 1 to {MAX_ROWS} rows, was {known}")
        return False
    return fits


def _raw(
    message: v2.ModelInferRequest, tensor: v2.ModelInferRequest.InferInputTensor, violations: Violations
) -> np.ndarray | list[bytes] | None:
    """The elements as raw_input_contents have them, or None with a violation."""
    path = "raw_input_contents"
    if len(message.raw_input_contents) != 1:
        violations.add(path, f"must be one, that of {NAME}, were {len(message.raw_input_contents)}")
        return None
    if tensor.contents.ListFields():
        violations.add("inputs[0].contents", f"of {NAME} must be empty, since raw_input_contents has its elements")
        return None
    data, shape = message.raw_input_contents[0], tuple(tensor.shape)
    if tensor.datatype == "BYTES":
        return _split(data, shape[0], violations)
    dtype = NUMBERS[tensor.datatype]
    size = math.prod(shape) * dtype.itemsize
    if len(data) != size:
        what = f"{NAME} is {tensor.datatype} {list(shape)}"
        violations.add(f"{path}[0]", f"{what}, which takes {size} bytes; there were {len(data)}")
        return None
    return np.frombuffer(data, dtype).reshape(shape)


def _split(data: bytes, count: int, violations: Violations) -> list[bytes] | None:
    """The elements of BYTES, each of which has its length before it; None with a violation where they do not fit."""
    elements, place = list[bytes](), 0
    while place < len(data) and len(elements) <= count:
        end = place + LENGTH.size
        end += LENGTH.unpack_from(data, place)[0] if end <= len(data) else 0
        if end > len(data):
            text = f"element {len(elements)} of {NAME} is cut off: each has its length before it, in 4 bytes"
            violations.add("raw_input_contents[0]", f"{text}, little-endian")
            return None
        elements.append(data[place + LENGTH.size : end])
        place = end
    if len(elements) != count:
        more = "more" if len(elements) > count else str(len(elements))
        violations.add("raw_input_contents[0]", f"the shape of {NAME} says {count} elements; there were {more}")
        return None
    return elements


def _typed(tensor: v2.ModelInferRequest.InferInputTensor, violations: Violations) -> np.ndarray | list[bytes] | None:
    """The elements as the contents of the tensor have them, or None with a violation."""
    name, shape = CONTENTS[tensor.datatype], tuple(tensor.shape)
    others = [field.name for field, _ in tensor.contents.ListFields() if field.name != name]
    if others:
        violations.add("inputs[0].contents", f"of {NAME} must have {name} alone for {tensor.datatype}, had {others[0]}")
        return None
    elements = getattr(tensor.contents, name)
    if len(elements) != math.prod(shape):
        text = f"{NAME} is {tensor.datatype} {list(shape)}, which takes {math.prod(shape)} elements"
        violations.add(f"inputs[0].contents.{name}", f"{text}; there were {len(elements)}")
        return None
    if tensor.datatype == "BYTES":
        return list(elements)
    values = np.empty(len(elements), NUMBERS[tensor.datatype])
    for place in range(0, len(elements), SLICE):
        part = np.array(elements[place : place + SLICE], MESSAGE_NUMBERS[tensor.datatype])
        if tensor.datatype == "UINT8" and part.max() > np.iinfo(np.uint8).max:
            text = f"{NAME} is UINT8: from 0 to 255, one element was {part.max()}"
            violations.add(f"inputs[0].contents.{name}", text)
            return None
        values[place : place + SLICE] = part
    return values.reshape(shape)
