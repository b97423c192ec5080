"""Runs passes on one device, so that parts of a batch that fail or are not finite harm no other part."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

import torch

from ..models.other_sizes import refusal
from ..models.out_of_memory import is_out_of_memory
from ..models.prepared import Prepared
from .cuda_graphs import Recordings
from .differentiate import differentiate
from .events import ModelFailed, NotFinite, OutOfMemory
from .objective import NotApplicable
from .query import Answer, Part
from .repeatable import repeatable
from .take import Key

log = logging.getLogger(__name__)

NOT_FINITE = "the model gave infinities or NaN for this image; if it does for all, see its weights, mean and std"


class PassRunner:
    """Computes parts that share a key: in one pass, or each in its own where that fails."""

    def __init__(self, models: Mapping[str, Prepared], on_pass: Callable[[Key, int], None]) -> None:
        """`on_pass` gets the key and the cost of every pass as it begins, in rows with the plain gradient."""
        self._models = models
        self._on_pass = on_pass
        self._recordings = Recordings()

    def try_rules(self, key: Key, parts: list[Part]) -> None:
        """Tries the parts' rules where a size is new, so that the time of their pass is that of all later ones."""
        rules = {part.query.rule for part in parts} - {"plain"}
        if rules:
            with suppress(Exception):  # The pass itself will tell.
                refusal(self._models[key.model].at(key.precision), rules, key.height, key.width)

    def try_pass(self, key: Key, parts: list[Part]) -> list[Answer | Exception] | OutOfMemory:
        """Answers or errors, one for each part, or OutOfMemory where the pass is too large for the device."""
        try:
            return self._compute(key, parts)
        except OutOfMemory as error:
            return error.with_traceback(None)

    def _compute(self, key: Key, parts: list[Part]) -> list[Answer | Exception]:
        """Answers or errors, one for each part. Raises OutOfMemory.

        One part cannot harm another: when a pass fails, every part is computed by itself. So is a part with a number
        that is not finite, since a kernel may have let the NaN of another part into it.
        """
        try:
            answers = self._run_pass(key, parts)
            if len(parts) > 1:
                pairs = zip(parts, answers, strict=True)
                answers = [a if a.finite else self._run_pass(key, [part])[0] for part, a in pairs]
            return [answer if answer.finite else NotFinite(NOT_FINITE) for answer in answers]
        except torch.AcceleratorError as error:
            if not isinstance(error, torch.OutOfMemoryError):
                raise  # This process cannot use the device any more; the pool starts another one.
            raise OutOfMemory(str(error)) from None
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(str(error)) from None
            if len(parts) > 1:
                return [answer for part in parts for answer in self._compute(key, [part])]
            if isinstance(error, NotApplicable):
                return [error]
            text = f"{key.model} failed on a {key.height}x{key.width} input: {error}"
            log.warning("%s", text, exc_info=error)
            return [ModelFailed(text)]

    def _run_pass(self, key: Key, parts: list[Part]) -> list[Answer]:
        """One pass. On a GPU it replays a CUDA graph if it can, but for jobs `alone`, whose bits must not vary."""
        model = self._models[key.model].at(key.precision)
        self._on_pass(key, sum(part.cost for part in parts))
        on_gpu = model.device.type == "cuda"
        if key.alone:
            with repeatable(model.device):
                answers = differentiate(model, parts)
        else:
            answers = (self._recordings.answers(model, parts) if on_gpu else None) or differentiate(model, parts)
        if on_gpu:
            torch.cuda.synchronize(model.device)  # Without this the clock would time the launches alone.
        return answers
