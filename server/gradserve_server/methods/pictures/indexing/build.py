"""Building an index of pictures; a build that was killed goes on."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....engine.batch_limits import default_rows
from ....engine.differentiate import differentiate
from ....engine.query import Part, Query, Tap
from ....models.prepared import Prepared
from ....models.preprocess import to_batch
from ...embed import pooled
from ...indexes.folder import Array, IndexFault
from ...indexes.sources import Examples, IndexOrigin, Report, no_report
from ...indexes.writer import SaveClock, Writer
from ..index import VERSION, PictureLayer, PictureManifest
from ..separability import asked_rows, is_separable
from .fields import reach_of
from .patches import PatchFile, number_patches
from .plan import PicturesPlan, layers_of
from .projections import add_projections, check_tsne
from .selection import MAXIMUM, select, spectrum_places

MAX_BATCH_ROWS = 128  # The most pictures of a pass.


class PicturesBuilder:
    """The passes over the pictures and what they share. `run` does everything."""

    def __init__(
        self,
        model: Prepared,
        examples: Examples,
        classes: Sequence[str] | None,
        origin: IndexOrigin,
        plan: PicturesPlan,
        report: Report = no_report,
    ) -> None:
        """`classes`: the names of the labels. Raises IndexFault for layers that cannot be indexed."""
        self.model, self.examples, self.origin, self.report = model, examples, origin, report
        self.classes = None if classes is None else tuple(classes)
        self.layers = layers_of(model.card, plan.layers)
        self.tsne = [model.card.listed(name) or name for name in plan.tsne]
        check_tsne(self.tsne, [layer.name for layer in self.layers], len(examples))
        self.top, self.spectrum = min(plan.top, len(examples)), min(plan.spectrum, len(examples))
        rows = default_rows(model.device, model.card.height, model.card.width, most=MAX_BATCH_ROWS)
        self.batch = 1 if model.card.unbatched else rows
        self._clock = SaveClock()

    @property
    def bytes_per_picture(self) -> int:
        """Bytes of a picture on disk, without its name and small copies of it."""
        return sum(dtype.itemsize * max(1, width) for dtype, width in self._kept().values())

    @property
    def scratch_per_picture(self) -> int:
        """Bytes of a picture that are on disk until the index is complete."""
        return sum(dtype.itemsize * width for dtype, width in self._scratch().values())

    def run(self, out: Path) -> None:
        """Builds the index in the folder `out`, which is there when it is complete."""
        with Writer(out, self._purpose(), self._kept() | self._scratch()) as writer:
            self._encode(writer)
            layers, patches, files = [], [], list[str]()
            for i in self._counted("layers", len(self.layers)):
                layers.append(self._described(i))
                tables = self._tables(writer, i)
                parts = number_patches(tuple(tables.values()), layers[i].field, self._input)
                for name, table in tables.items():
                    writer.replace(name, table)
                patches.append(PatchFile(writer.folder, i, parts))
                files += [*tables, *patches[i].names]
            self._cut(patches)
            labels = writer.read("labels.bin")
            features = [writer.read(f"features-{i}.bin") for i in range(len(layers))]
            layers, more = add_projections(writer.folder, layers, features, labels, self.tsne, self.report)
            asked = len(asked_rows(labels)) if is_separable(labels) else 0
            writer.finish(self._manifest(layers, asked), [*files, *more], scratch=self._scratch())

    @property
    def _input(self) -> tuple[int, int]:
        return self.model.card.height, self.model.card.width

    def _purpose(self) -> dict[str, Any]:
        """What the index will be. An unfinished folder is continued only if it has the same purpose."""
        kept = {"layers": [layer.name for layer in self.layers], "top": self.top, "spectrum": self.spectrum}
        classes = None if self.classes is None else list(self.classes)
        facts = {"kind": "pictures", "version": VERSION, "weights": self.model.card.digest, "batch": self.batch}
        return {**facts, **asdict(self.origin), **kept, "classes": classes}

    def _kept(self) -> dict[str, tuple[np.dtype[Any], int]]:
        """The files that have a record of each picture."""
        features = {f"features-{i}.bin": (np.dtype("<f4"), la.channels) for i, la in enumerate(self.layers)}
        return {"labels.bin": (np.dtype("<i4"), 0), **features}

    def _scratch(self) -> dict[str, tuple[np.dtype[Any], int]]:
        """The files of the pictures' maxima, of which the tables are made."""
        return {f"maxima-{i}.bin": (MAXIMUM, layer.channels) for i, layer in enumerate(self.layers)}

    def _counted(self, what: str, total: int) -> Iterator[int]:
        """The numbers below `total`; reports progress."""
        for i in range(total):
            self.report(what, i, total)
            yield i
        self.report(what, total, total)

    def _encode(self, writer: Writer) -> None:
        """Writes a row of every picture, in their own order."""
        total = len(self.examples)
        self.report("pictures", writer.done, total)
        while writer.done < total:
            rows = range(writer.done, min(writer.done + self.batch, total))
            names = self.examples.names(rows)
            columns = self._passed(rows, names)
            writer.append({"labels.bin": self.examples.labels(rows), **columns}, names, self.examples.thumbnails(rows))
            if self._clock.due() or writer.done == total:
                writer.save()
                self.report("pictures", writer.done, total)

    def _passed(self, rows: Sequence[int], names: Sequence[str]) -> dict[str, Array]:
        """What one pass tells of these pictures. Raises IndexFault for values that are not finite."""
        images = to_batch(self.examples.images(rows), self.model.device, self.model.dtype)
        query = Query(images, taps=tuple(Tap(layer.name, reduce=_figures) for layer in self.layers))
        (answer,) = differentiate(self.model, [Part(query, range(len(rows)))])
        columns = dict[str, Array]()
        for i, (layer, figures) in enumerate(zip(self.layers, answer.acts, strict=True)):
            means, values, places = figures.float().cpu().numpy().reshape(len(rows), 3, layer.channels).swapaxes(0, 1)
            finite = np.isfinite(means).all(1) & np.isfinite(values).all(1)
            if not finite.all():
                raise IndexFault(
                    f"the picture {names[finite.argmin()]} gives values in {layer.name} that are not finite"
                )
            maxima = np.zeros(values.shape, MAXIMUM)
            maxima["value"] = values
            maxima["y"], maxima["x"] = np.divmod(places.astype(np.int64), max(1, layer.width))
            columns |= {f"features-{i}.bin": means, f"maxima-{i}.bin": maxima.T}
        return columns

    def _described(self, i: int) -> PictureLayer:
        layer = self.layers[i]
        height, width = (0, 0) if layer.layout == "vector" else (layer.height, layer.width)
        field = reach_of(self.model, layer)
        return PictureLayer(name=layer.name, channels=layer.channels, height=height, width=width, field=field)

    def _tables(self, writer: Writer, i: int) -> dict[str, Array]:
        """The exemplars and the spectrum of layer i, by the names of their files."""
        count, channels = len(self.examples), self.layers[i].channels
        maxima = writer.read(f"maxima-{i}.bin").reshape(-1)
        places = (np.arange(self.top), spectrum_places(count, self.spectrum))
        exemplars, spectrum = zip(*select(maxima, count, channels, self.batch, places), strict=True)
        return {f"exemplars-{i}.bin": np.concatenate(exemplars), f"spectrum-{i}.bin": np.concatenate(spectrum)}

    def _cut(self, patches: Sequence[PatchFile]) -> None:
        """Writes what units see of the pictures that won, picture by picture."""
        pictures = sorted(set[int]().union(*(each.pictures for each in patches)))
        for i in self._counted("patches", len(pictures)):
            pixels = self.examples.images([pictures[i]])[0]
            for each in patches:
                each.cut(pictures[i], pixels)
        for each in patches:
            each.close()

    def _manifest(self, layers: Sequence[PictureLayer], separability_pictures: int) -> PictureManifest:
        return PictureManifest(
            version=VERSION,
            model=self.model.card.name,
            weights_digest=self.model.card.digest,
            **asdict(self.origin),
            count=len(self.examples),
            classes=self.classes,
            layers=tuple(layers),
            height=self.model.card.height,
            width=self.model.card.width,
            top=self.top,
            spectrum=self.spectrum,
            separability_pictures=separability_pictures,
        )


def _figures(act: Tensor, _: Tensor) -> Tensor:
    """Activations [n, C, h, w] or [n, C] -> [n, 3C]: means, largest values, and where these are, counted by rows."""
    flat = act.flatten(2) if act.dim() > 2 else act[:, :, None]
    values, places = flat.max(2)
    return torch.cat([pooled(act, "mean"), values, places.to(act.dtype)], 1)
