"""`gradserve certify`: the classes that photos have under noise, and how far that is proven."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gradserve.cli import options, output
from gradserve.results.certify import CertifiedClass


@dataclass(frozen=True)
class Noise:
    """The noise and the numbers of samples."""

    sigma: Annotated[
        float, typer.Option("--sigma", help="Standard deviation of the noise, of pixels in [0, 1], above 0 to 2.")
    ] = 0.25
    selection_samples: Annotated[
        int, typer.Option("--selection-samples", min=1, max=100_000, help="Samples that choose the class.")
    ] = 100
    samples: Annotated[
        int, typer.Option("--samples", min=1, max=100_000, help="Further samples, in which it is counted.")
    ] = 1000
    alpha: Annotated[
        float, typer.Option("--alpha", help="The probability of failure that is allowed, above 0 to below 0.5.")
    ] = 0.001


@dataclass(frozen=True)
class CertifyRequest(options.PhotosRequest):
    """What requests carry; the seed gives the noise."""

    seed: options.Seed = None


@options.grouped
def certify(
    photos: options.Photos,
    *,
    noise: Noise,
    model: options.Model = "",
    request: CertifyRequest,
    connection: options.Connection,
    timeout: options.Timeout = 300.0,
    as_json: options.Json = False,
) -> None:
    """The classes that photos have under Gaussian noise, and the radius in L2 within which that is proven.

    It is proven of the smoothed classifier (Cohen et al. 2019), which gives the most frequent class under the noise,
    and not of the network without noise. Most networks that were not trained with noise abstain.

    Example: `gradserve certify photo.jpg --sigma 0.25`

    Example: `gradserve certify photo.jpg --sigma 0.5 --samples 10000 --json`
    """
    arguments: dict[str, Any] = {"model": model, **vars(noise), **vars(request)}
    results: list[CertifiedClass] = []
    with connection.client(timeout) as client:
        try:
            for each in output.progress(client.certify_many(photos, **arguments), len(photos), "certify"):
                results.append(each)
        finally:
            if results:  # After an error, these are the answers before it.
                _print(photos, results, as_json)


def _print(photos: list[Path], results: list[CertifiedClass], as_json: bool) -> None:
    output.warn(text for each in results for text in (*each.provenance.warnings, *each.warnings))
    pairs = list(zip(photos, results, strict=False))
    if as_json:
        output.print_json({"certified": [{"image": str(photo), **each.to_dict()} for photo, each in pairs]})
        return
    table = Table(box=None)
    table.add_column("photo")
    table.add_column("smoothed class")
    for column in ("radius", "lower bound", "samples"):
        table.add_column(column, justify="right")
    table.add_column("without noise")
    for photo, each in pairs:
        name = "abstains" if each.predicted is None else each.predicted.class_name
        counted = f"{each.candidate.count} of {each.samples}"
        plain = f"{each.plain.class_name} ({each.plain.probability:.1%})"
        table.add_row(photo.name, name, f"{each.radius:.3f}", f"{each.lower_bound:.4f}", counted, plain)
    output.out().print(table)
    first = results[0]
    output.out().print(
        f"radius in L2, of pixels in [0, 1]; noise of sigma {first.sigma:g}; each wrong with a probability of at most "
        f"{first.alpha:g}"
    )
