"""The outputs of ModelInfer: which are wanted, and their tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...models.card import ModelCard
from ..errors import Violations, near, shown
from ..reply import best, probabilities_of
from .tensors import LENGTH, SLICE
from .v2 import inference_pb2 as v2

NUMBERS = ("logits", "probabilities")  # [N, classes].
OUTPUTS = (*NUMBERS, "labels", "map")
MAX_CLASSIFICATION = 1000
VALUE_BYTES = 64  # The most that VALUE:INDEX: of a class takes: a float32 in decimal has up to 47 characters.


class WantedOutput(NamedTuple):
    """An output by its name; `classification`: how many classes of it, as texts, and 0 for all as numbers."""

    name: str
    classification: int = 0


def wanted_outputs(message: v2.ModelInferRequest, explains: bool, violations: Violations) -> list[WantedOutput]:
    """The outputs that the request names, or all that it can have."""
    if not message.outputs:
        return [WantedOutput(name) for name in OUTPUTS if name != "map" or explains]
    names = [each.name for each in message.outputs[: len(OUTPUTS)]]
    if len(set(names)) < len(message.outputs):
        violations.add("outputs", f"must name each output once; there are: {', '.join(OUTPUTS)}")
    wanted = []
    for i, (name, output) in enumerate(zip(names, message.outputs, strict=False)):
        if name not in OUTPUTS:
            violations.add(f"outputs[{i}].name", f"there is no output {shown(name)}; {near(name, OUTPUTS)}")
        elif name == "map" and not explains:
            text = "map needs the parameter explain, which names a method, such as grad_cam"
            violations.add(f"outputs[{i}].name", text)
        else:
            wanted.append(WantedOutput(name, _classification(output, i, violations)))
    return wanted


def _classification(output: v2.ModelInferRequest.InferRequestedOutputTensor, i: int, violations: Violations) -> int:
    """The parameter of that name, 0 where it is not set."""
    others = output.parameters.keys() - {"classification"}
    path = f"outputs[{i}].parameters"
    if others:
        text = f"of {output.name} may have classification alone, had {shown(min(others))}"
        violations.add(path, f"{text}; shared memory is not served")
    if "classification" not in output.parameters:
        return 0
    count = output.parameters["classification"].int64_param
    if output.name not in NUMBERS:
        violations.add(path, f"classification applies to {' and '.join(NUMBERS)}, and not to {output.name}")
    elif not 1 <= count <= MAX_CLASSIFICATION:
        violations.add(path, f"classification of {output.name} must be from 1 to {MAX_CLASSIFICATION}, was {count}")
    return max(0, count)


def class_outputs(
    wanted: Sequence[WantedOutput], logits: Sequence[np.ndarray], top_k: int, card: ModelCard
) -> dict[str, np.ndarray | list[list[bytes]]]:
    """All wanted outputs except maps, by name, from the logits [classes] of each row.

    Each is an array of numbers [N, classes], or texts [N][k].
    """
    tensors: dict[str, np.ndarray | list[list[bytes]]] = {}
    for output in wanted:
        if output.name == "labels":
            tensors["labels"] = [[card.classes[k].encode() for k in best(row, top_k)] for row in logits]
        elif output.name in NUMBERS:
            plain = output.name == "logits"
            rows = [row if plain else probabilities_of(row.astype(np.float64), card.head) for row in logits]
            count = output.classification
            tensors[output.name] = (
                [_classified(row, best(own, count), card) for row, own in zip(rows, logits, strict=True)]
                if count
                else np.stack(rows).astype("<f4")
            )
    return tensors


def _classified(values: np.ndarray, classes: Sequence[int], card: ModelCard) -> list[bytes]:
    """Classes as Triton writes them: VALUE:INDEX:NAME."""
    return [f"{values[k]:f}:{k}:{card.classes[k]}".encode() for k in classes]


def reply_bytes(wanted: Sequence[WantedOutput], rows: int, size: tuple[int, int], top_k: int, card: ModelCard) -> int:
    """The most bytes that the elements of these outputs take; `size`: the height and width of the maps."""
    classes = len(card.classes)
    text = LENGTH.size + max(len(name.encode()) for name in card.classes)
    total = 0
    for output in wanted:
        if output.name == "map":
            total += 4 * size[0] * size[1] + text  # With the class that it is of.
        elif output.name == "labels":
            total += min(top_k, classes) * text
        elif output.classification:
            total += min(output.classification, classes) * (VALUE_BYTES + text)
        else:
            total += 4 * classes
    return rows * total


def add_output(
    response: v2.ModelInferResponse, name: str, values: np.ndarray | list[list[bytes]], *, raw: bool
) -> v2.ModelInferResponse.InferOutputTensor:
    """Adds a tensor to the response, with its elements as raw contents or in the field of their type."""
    if isinstance(values, np.ndarray):
        output = response.outputs.add(name=name, datatype="FP32", shape=values.shape)
        if raw:
            response.raw_output_contents.append(values.tobytes())
        else:
            flat = values.ravel()
            for place in range(0, len(flat), SLICE):
                output.contents.fp32_contents.extend(flat[place : place + SLICE].tolist())
        return output
    output = response.outputs.add(name=name, datatype="BYTES", shape=(len(values), len(values[0])))
    texts = [text for row in values for text in row]
    if raw:
        response.raw_output_contents.append(b"".join(LENGTH.pack(len(text)) + text for text in texts))
    else:
        output.contents.bytes_contents.extend(texts)
    return output
