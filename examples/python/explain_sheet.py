"""Several methods for several photos on one sheet.

    python explain_sheet.py chelsea.png coffee.png --out sheet.jpg --server 127.0.0.1:50051

The picture at the head of the project's README is made like this, from these two photos of scikit-image.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

import gradserve
from gradserve.images import sheet
from gradserve.parameters.explain import ExplainName

METHODS: list[ExplainName] = [
    "gradient",
    "smooth_grad",
    "guided_backprop",
    "grad_cam",
    "guided_grad_cam",
    "occlusion",
]
SIDE = 200  # Pixels of a picture's side on the sheet.


def row(client: gradserve.Client, photo: Path, model: str) -> dict[str, Image.Image]:
    """The part of the photo that the model saw, then the map of each method over it, by their names."""
    predicted = client.predict(photo, model=model)
    maps = client.explain(photo, METHODS, model=model)
    pictures = {f"{predicted[0].class_name} {predicted[0].probability:.0%}": maps[0].original()}
    pictures |= {each.method: each.overlay(scale=1) for each in maps}
    seen = predicted.region.box()
    return {name: picture.crop(seen).resize((SIDE, SIDE)) for name, picture in pictures.items()}


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("sheet.jpg"))
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--model", default="", help="left out: the server's default")
    arguments = parser.parse_args()
    try:
        with gradserve.Client(arguments.server) as client:
            rows = [row(client, photo, arguments.model) for photo in arguments.photos]
    except (gradserve.GradserveError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    pictures = [picture for each in rows for picture in each.values()]
    names = [name for each in rows for name in each]
    sheet(pictures, names, columns=1 + len(METHODS), gap=8).save(arguments.out, quality=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
