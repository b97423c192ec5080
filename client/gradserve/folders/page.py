"""A page that shows the overlays of a folder of maps, which lie beside it."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from gradserve import pages
from gradserve.folders.files import PAGE, MapFolder, Picture


def write(folder: Path, maps: MapFolder, pictures: Sequence[Picture], failed: Sequence[tuple[str, str]]) -> Path:
    """Writes the page about the pictures that have maps, and those that failed with the reason; returns its path."""
    stories, models = [], set[str]()
    for picture, place, metadata in maps.kept(list(pictures)):
        models |= {each["provenance"]["model"] for each in metadata}
        shown = [
            {
                "file": quote((place / each["overlay"]).relative_to(maps.path).as_posix()),
                "method": each["method"],
                "target": each["target_name"],
                "value": f"{each['target_value']:.4g}",
                "trust": (each.get("trust") or {}).get("sentence", ""),
                "warnings": each["warnings"],
            }
            for each in metadata
        ]
        stories.append({"name": picture.name, "maps": shown})
    lead = f"{len(stories)} of {len(pictures)} pictures, explained by {', '.join(sorted(models)) or 'no model'}"
    values = {"title": f"Maps of {folder.resolve().name}", "lead": lead, "stories": stories, "failed": failed}
    path = maps.path / PAGE
    path.write_text(pages.rendered("folders", values), encoding="utf-8")
    return path
