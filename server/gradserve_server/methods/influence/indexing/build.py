"""Building an index: bases, curvature, then a row for each example, batch by batch; a killed build is continued."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ....engine.batch_limits import default_rows
from ....models.prepared import Prepared
from ....models.preprocess import to_batch
from ...indexes.folder import Array, IndexFault
from ...indexes.sources import Examples, IndexOrigin, Report, no_report
from ...indexes.writer import SaveClock, Writer
from .. import neighbours, regression
from ..coverage import covered, last_linear
from ..gradients import Pass, losses
from ..index import COLUMNS, HEAD, PROJECTION, VERSION, EstimateName, Manifest, softened
from ..layers import IndexedLayer, joined, parameters
from ..projected import Bases, Projected, read_projected
from .curvature import Curvature
from .plan import IndexPlan, check_head

MAX_DIRECTIONS = 4096  # The most projected numbers of an example before the PCA, over all layers.
RANK_RANGE = (4, 16)  # The fewest and the most directions of a layer's side.
MAX_BATCH_ROWS = 128  # The most examples of a batch.
BASES_EXAMPLES = 1000  # Bases are computed from so many examples, drawn at random.
EXAMPLES_PER_DIRECTION = 20  # The curvature is computed from so many examples for each projected number.
MIN_COVERAGE = 0.5
# A larger stationarity gives the warning NOT_STATIONARY; its measure depends on whether there is weight decay.
MAX_STATIONARITY, MAX_STATIONARITY_WITHOUT_DECAY = 5.0, 0.15
CURVATURE, ROOT = "curvature.safetensors", "root.safetensors"


class Builder:
    """The passes over the training set and what they share. `run` does everything."""

    def __init__(
        self, model: Prepared, examples: Examples, origin: IndexOrigin, plan: IndexPlan, report: Report = no_report
    ) -> None:
        """The model must be unfolded. Raises IndexFault where it has no layers that an index can be made of."""
        self.model, self.examples, self.origin, self.plan, self.report = model, examples, origin, plan, report
        check_head(model.card)
        card, (layers, self.coverage) = model.card, covered(model)
        self.classes = len(card.classes)
        head = last_linear(layers)
        if not layers or (head is None and (plan.last_layer_only or self.coverage < MIN_COVERAGE)):
            few = f", and only {self.coverage:.0%} of its parameters are in layers that can be indexed"
            why, way = (few, "") if self.coverage < MIN_COVERAGE else ("", "leave --last-layer-only out, or ")
            raise IndexFault(f"the logits of {card.name} are not what an nn.Linear gives{why}; {way}let them be that")
        whole = not plan.last_layer_only and self.coverage >= MIN_COVERAGE
        self.layers: list[IndexedLayer] = layers if whole else layers[-1:]
        self.regresses = head is not None and regression.fits(self.classes, head.inputs)
        self.projects = whole or not self.regresses
        self.rank = plan.rank or max(RANK_RANGE[0], min(RANK_RANGE[1], isqrt(MAX_DIRECTIONS // len(self.layers))))
        self.directions = sum(min(self.rank, la.columns) * min(self.rank, la.outputs) for la in self.layers)
        self.size = min(plan.size, self.directions)
        rows = default_rows(model.device, card.height, card.width, most=MAX_BATCH_ROWS)
        self.batch = 1 if card.unbatched else rows
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.order = torch.randperm(len(examples), generator=self.generator).tolist()
        self._clock = SaveClock()

    def run(self, out: Path) -> None:
        """Builds the index in the folder `out`, which is there when it is complete."""
        with Writer(out, self._purpose(), self._columns()) as writer:
            projected = self._prepare_projection(writer.folder) if self.projects else None
            self._encode(writer, projected)
            fitted = self._fit_last_layer(writer) if self.regresses else None
            self._add_suspicions(writer)
            if fitted is not None:
                fitted.save(writer.folder / HEAD)
            files = [PROJECTION] * self.projects + [HEAD] * self.regresses
            writer.finish(self._manifest(writer, projected, fitted), files)

    @property
    def bytes_per_example(self) -> int:
        """Bytes of an example on disk, without its name and picture."""
        return sum(dtype.itemsize * max(1, width) for dtype, width in self._columns().values())

    @property
    def methods(self) -> tuple[EstimateName, ...]:
        """What the index will answer by; the first is the default."""
        there: dict[EstimateName, bool] = {"projected": self.projects, "last_layer": self.regresses, "neighbours": True}
        return tuple(method for method, is_there in there.items() if is_there)

    def _purpose(self) -> dict[str, Any]:
        return {"version": VERSION, "weights": self.model.card.digest, **asdict(self.origin), **asdict(self.plan)}

    def _columns(self) -> dict[str, tuple[np.dtype[Any], int]]:
        columns: dict[str, tuple[np.dtype[Any], int]] = {"columns.bin": (COLUMNS, 0)}
        columns["features.bin"] = (np.dtype("<f2"), self.layers[-1].channels)
        if self.projects:
            columns["vectors.bin"] = (np.dtype("<f2"), self.size)
        if self.regresses:
            columns["residuals.bin"] = (np.dtype("<f4"), self.classes)
        return columns

    def _forward(self, rows: Sequence[int]) -> tuple[Pass, Tensor]:
        """A forward of these examples, and their labels."""
        images = to_batch(self.examples.images(rows), self.model.device, self.model.dtype)
        labels = torch.from_numpy(self.examples.labels(rows)).long().to(self.model.device)
        return Pass(self.model, images, self.layers), labels

    def _batches(self, what: str, order: Sequence[int], done: int = 0) -> Iterator[tuple[int, Sequence[int]]]:
        """The rows of each batch, with how many are done after it; reports progress."""
        self.report(what, done, len(order))
        for start in range(done, len(order), self.batch):
            rows = order[start : start + self.batch]
            yield start + len(rows), rows
            self.report(what, start + len(rows), len(order))

    def _prepare_projection(self, folder: Path) -> Projected:
        """Computes bases and curvature, or reads those of an earlier run."""
        like = torch.empty(0, device=self.model.device, dtype=self.model.dtype)
        if not (folder / PROJECTION).is_file():
            bases = Bases(self.layers, self.rank, self.generator)
            for _, rows in self._batches("bases", self.order[:BASES_EXAMPLES]):
                bases.add(self._forward(rows)[0])
            Projected(tuple(bases.projections(like)), like.view(0, 0), 0.0).save(folder / PROJECTION)
        projected = read_projected(folder / PROJECTION).to(like.device, like.dtype)
        if (folder / ROOT).is_file():
            return projected
        curvature, count = self._curvature(folder / CURVATURE, projected)
        root, whitening, damping = curvature.whitened(count, self.size, self.plan.weight_decay or 0.0)
        projected = Projected(projected.projections, whitening.to(like), damping)
        projected.save(folder / PROJECTION)
        save_file({"root": root, "stationarity": torch.tensor(curvature.stationarity())}, folder / ROOT)
        return projected

    def _curvature(self, state: Path, projected: Projected) -> tuple[Curvature, int]:
        """The curvature by enough examples, drawn at random, and their number."""
        order = self.order[: max(EXAMPLES_PER_DIRECTION * self.directions, BASES_EXAMPLES)]
        curvature, done = Curvature(self.directions), 0
        if state.is_file():
            curvature.sums = load_file(state)
            done = int(curvature.sums.pop("done"))
        for end, rows in self._batches("curvature", order, done):
            forward, labels = self._forward(rows)
            inputs = [p.of_inputs(x) for p, x in zip(projected.projections, forward.inputs, strict=True)]
            for weights, gradients in forward.class_expectation(self.generator):
                curvature.add_expectation(weights, directions(projected, inputs, gradients))
            loss = losses(forward.scores, labels, self.plan.label_smoothing)
            curvature.add_gradients(directions(projected, inputs, forward.gradients(loss)))
            if self._clock.due():
                curvature.flush()
                save_file({**curvature.sums, "done": torch.tensor(end)}, state)
        curvature.flush()
        return curvature, len(order)

    def _encode(self, writer: Writer, projected: Projected | None) -> None:
        """Writes a row of every example, in their own order."""
        root = load_file(writer.folder / ROOT)["root"].to(self.model.device) if projected else None
        sums = self._gradient_sums(writer)
        for end, rows in self._batches("examples", range(len(self.examples)), writer.done):
            forward, labels = self._forward(rows)
            loss = losses(forward.scores, labels, self.plan.label_smoothing)
            record, columns = self._facts(forward, labels, loss)
            if projected is not None and root is not None:
                inputs = [p.of_inputs(x) for p, x in zip(projected.projections, forward.inputs, strict=True)]
                gradients = forward.gradients(loss)
                own = directions(projected, inputs, gradients)
                half = own.double() @ root
                record["self_influence"] = array(half.square().sum(1))
                record["parameter_change"] = array((half @ root).norm(dim=1) / len(self.examples))
                columns["vectors.bin"] = array(own @ projected.whitening.T)
                for layer, x, gradient in zip(self.layers, forward.inputs, gradients, strict=True):
                    if sums:
                        sums[layer.name] += layer.gradient(x, gradient).double().cpu()
            writer.append({"columns.bin": record, **columns}, self.examples.names(rows), self.examples.thumbnails(rows))
            if self._clock.due() or end == len(self.examples):
                if sums:
                    save_file(sums, gradient_file(writer))
                writer.save()

    def _facts(self, forward: Pass, labels: Tensor, loss: Tensor) -> tuple[Array, dict[str, Array]]:
        """What one forward tells: a record of COLUMNS for each example, and the last layer's files."""
        scores = forward.scores.detach()
        others = scores.scatter(1, labels[:, None], -torch.inf)
        record = np.zeros(len(labels), COLUMNS)
        record["label"], record["predicted"] = array(labels), array(scores.argmax(1))
        record["loss"] = array(loss)
        record["margin"] = array(scores.gather(1, labels[:, None])[:, 0] - others.logsumexp(1))
        columns = {"features.bin": array(self.layers[-1].features(forward.inputs[-1]))}
        if self.regresses:
            soft = softened(record["label"], self.classes, self.plan.label_smoothing)
            columns["residuals.bin"] = array(scores.double().softmax(1)) - soft
        return record, columns

    def _gradient_sums(self, writer: Writer) -> dict[str, Tensor]:
        """The sum of the gradients so far by layer; empty without weight decay, where stationarity needs none."""
        if not self.projects or not self.plan.weight_decay:
            return {}
        if writer.done:
            return load_file(gradient_file(writer))
        return {layer.name: torch.zeros(layer.outputs, layer.columns, dtype=torch.float64) for layer in self.layers}

    def _fit_last_layer(self, writer: Writer) -> regression.Regression:
        """The last layer's Hessian; its own self-influences, where no other method gives them."""
        features, residuals, record = (writer.read(f"{name}.bin") for name in ("features", "residuals", "columns"))
        soft = softened(record["label"], self.classes, self.plan.label_smoothing)
        alone = not self.projects
        self.report("last layer", 0, 1)
        fitted = regression.fit(
            features,
            residuals,
            soft,
            self.plan.weight_decay,
            alone=alone,
            scale=self.plan.feature_scale,
            basis=regression.one_score() if self.model.card.head == "binary" else None,
        )
        if alone:
            record["self_influence"], record["parameter_change"] = fitted.norms(features, residuals)
            writer.replace("columns.bin", record)
        self.report("last layer", 1, 1)
        return fitted

    def _add_suspicions(self, writer: Writer) -> None:
        self.report("neighbours", 0, 1)
        record = writer.read("columns.bin")
        record["disagreement"] = neighbours.disagreement(writer.read("features.bin"), record["label"])
        record["suspicion"] = neighbours.suspicion(record["self_influence"], record["disagreement"])
        writer.replace("columns.bin", record)
        self.report("neighbours", 1, 1)

    def _share(self, layer: IndexedLayer) -> float:
        return layer.outputs * layer.columns / sum(p.numel() for p in self.model.network.parameters())

    def _stationarity(self, writer: Writer) -> tuple[float, list[str]]:
        """How far the weights are from where the training would have ended, and the warning about it."""
        decay = self.plan.weight_decay
        if not self.projects:
            return 0.0, []
        if not decay:
            stationarity = float(load_file(writer.folder / ROOT)["stationarity"])
            limit, what = MAX_STATIONARITY_WITHOUT_DECAY, "mean gradient / mean size of single ones"
        else:
            mean = {name: total / len(self.examples) for name, total in load_file(gradient_file(writer)).items()}
            pull = {name: decay * parameters(self.model.network.get_submodule(name)).double().cpu() for name in mean}
            rest = sum(float((mean[name] + pull[name]).square().sum()) for name in mean)
            stationarity = (rest / sum(float(each.square().sum()) for each in pull.values())) ** 0.5
            limit, what = MAX_STATIONARITY, "|mean gradient + weight decay| / |weight decay|"
        text = f"NOT_STATIONARY: trained too little to be trusted: {what} is {stationarity:.2g} (good: below {limit:g})"
        return stationarity, [text] if stationarity > limit else []

    def _manifest(self, writer: Writer, projected: Projected | None, fitted: regression.Regression | None) -> Manifest:
        stationarity, warnings = self._stationarity(writer)
        if self.plan.weight_decay == 0:
            warnings.append("NO_WEIGHT_DECAY: estimates are about half as good without weight decay; train with some")
        return Manifest(
            version=VERSION,
            model=self.model.card.name,
            weights_digest=self.model.card.digest,
            **asdict(self.origin),
            count=len(self.examples),
            classes=self.classes,
            features=self.layers[-1].channels,
            feature_layer=self.layers[-1].name,
            methods=self.methods,
            weight_decay=self.plan.weight_decay,
            label_smoothing=self.plan.label_smoothing,
            size=self.size if self.projects else 0,
            damping=projected.damping if projected else 0.0,
            coverage=self.coverage if len(self.layers) > 1 else self._share(self.layers[-1]),
            head_coverage=self._share(self.layers[-1]) if fitted else 0.0,
            head_damping=fitted.damping if fitted else 0.0,
            head_exact=fitted.exact if fitted else False,
            stationarity=stationarity,
            warnings=tuple(warnings),
        )


def directions(projected: Projected, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """All layers' projected gradients side by side: [N, k0]; `inputs` are projected already."""
    pairs = zip(projected.projections, inputs, gradients, strict=True)
    return torch.cat([joined(x, p.of_outputs(gradient)) for p, x, gradient in pairs], 1)


def gradient_file(writer: Writer) -> Path:
    """The file of the gradients' sum over the examples so far; its name has their number, so that no other fits."""
    return writer.folder / f"gradient-{writer.done}.safetensors"


def array(values: Tensor) -> Array:
    """As numpy."""
    return values.detach().cpu().numpy()
