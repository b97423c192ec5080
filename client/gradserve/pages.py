"""What the HTML pages share: each is one file, made from a template, with its pictures inside."""

import base64
import io
from collections.abc import Mapping
from functools import partial
from typing import Any

from PIL import Image

from gradserve.decoding import to_rgb

_MAX_CRISP_SIDE = 64  # Pictures up to this side are shown crisp and stored without loss.


def rendered(folder: str, values: Mapping[str, Any], largest_side: int = 0) -> str:
    """The page of a folder of this package: its page.html, which extends base.html, with those values, escaped.

    Its filter `embedded` is the function below, for pictures of at most `largest_side` pixels a side.
    """
    import jinja2  # Here, so that other commands need not wait for it.

    loader = jinja2.PackageLoader("gradserve", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["embedded"] = partial(embedded, largest_side=largest_side)
    return environment.get_template(f"{folder}/page.html").render(values, folder=folder)


def embedded(picture: Image.Image, largest_side: int) -> dict[str, Any]:
    """A picture as a data URL, with its look ("crisp" or "smooth") and the ratio of its width to its height."""
    picture = picture.copy()
    picture.thumbnail((largest_side, largest_side))
    crisp = max(picture.size) <= _MAX_CRISP_SIDE
    file = io.BytesIO()
    if crisp:
        picture.save(file, "PNG")
    else:
        to_rgb(picture).save(file, "JPEG", quality=85, subsampling=0)
    kind, data = "png" if crisp else "jpeg", base64.b64encode(file.getvalue()).decode()
    ratio = picture.width / picture.height
    return {"url": f"data:image/{kind};base64,{data}", "look": "crisp" if crisp else "smooth", "ratio": ratio}
