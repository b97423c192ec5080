"""What is wrong with the entries of a catalogue, as far as it can be known without building a network."""

import pkgutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from .catalogue import EMBEDDED, ModelSpec, classifiers, names_file, weights_names
from .hubs.faults import hub_fault
from .hubs.names import hub_name
from .tables import nearest

MIN_SIMILARITY = 0.8  # Smallest similarity of a module's name to be proposed, as there are many modules.
SAME_NAME = "two models have the same name; rename one in a configuration file, [models.NAME]"


def check_builders(specs: Sequence[ModelSpec]) -> None:
    """Raises ValueError for the first model that certainly cannot be loaded, before any worker is started."""
    for name, fault in faults_of(specs).items():
        raise ValueError(f"model {name}: {fault}")


def faults_of(specs: Sequence[ModelSpec]) -> dict[str, str]:
    """Why models certainly cannot be loaded, by name."""
    names = [spec.name for spec in specs]
    faults = {name: SAME_NAME for name in names if names.count(name) > 1}
    for spec in specs:
        if spec.name not in faults and (fault := _builder_fault(spec) or _file_fault(spec)):
            faults[spec.name] = fault
    return faults


def _builder_fault(spec: ModelSpec) -> str:
    if spec.hub is not None:
        return hub_fault(spec, spec.hub)
    if spec.is_own:
        return _own_fault(spec.source)
    if spec.source in classifiers():
        return ""
    if "." in spec.builder:
        example = ":".join(spec.builder.rsplit(".", 1))
        return f"for a builder of your own write package.module:function, such as {example}"
    near = nearest(spec.source, [*EMBEDDED, *classifiers()])
    own = "; for a builder of your own write package.module:function"
    return f"torchvision has no classifier {spec.source!r}{near or own}"


def _own_fault(source: str) -> str:
    module, _, function = source.partition(":")
    package = module.partition(".")[0]
    if not package or not function:
        return f"a builder of your own is package.module:function, and {source!r} is not"
    try:
        there = find_spec(package) is not None
    except (ImportError, ValueError):
        there = False
    if there:
        return ""
    near = nearest(package, {found.name for found in pkgutil.iter_modules()}, MIN_SIMILARITY)
    hint = near or f"; install it, or start with PYTHONPATH=FOLDER, the folder that {package} is in"
    return f"there is no module {package}{hint}"


def _file_fault(spec: ModelSpec) -> str:
    """What is wrong with the paths of the entry, or nothing."""
    if names_file(spec) and not Path(spec.weights).is_file():
        return no_weights(spec)
    if isinstance(spec.labels, Path) and not spec.labels.is_file():
        return f"no file of labels {spec.labels}; correct labels, which is relative to the configuration file"
    return ""


def no_weights(spec: ModelSpec) -> str:
    """What to say where the weights of an entry are neither a known name nor a file."""
    path = Path(spec.weights)
    what = f"{path} is a folder, not a file of weights" if path.is_dir() else f"no file of weights {path}"
    known = ", ".join(f'"{name}"' for name in dict.fromkeys(weights_names(spec.source)))
    alone = ":" in spec.source and hub_name(spec.source) is None
    names = f"its builder knows no names but {known}" if alone else f"names that it may be: {known}"
    return f"{what}; correct weights, which in a configuration file is relative to that file; {names}"
