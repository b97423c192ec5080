"""Networks of timm by name, with its published weights and the preprocessing of its pretrained_cfg."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..card import Framing
from ..catalogue import ModelSpec
from ..inputs import Colours, Geometry, Preset
from ..tables import nearest
from .download import fetched
from .names import TIMM_FUNCTION, HubName
from .preset import HubFault, HubNetwork, Transform, proven

# Names of files of weights, and those that timm takes instead of them, as it looks for them itself.
PICKLED_NAME = "pytorch_model.bin"
SAFE_NAMES = {PICKLED_NAME: "model.safetensors", "open_clip_pytorch_model.bin": "open_clip_model.safetensors"}
SAFE_ALONE = 'only safetensors files are loaded: give weights = "FILE", or "random"'
IMAGENET_CLASSES = 1000
# Arguments of timm.create_model that name weights, which it would download or unpickle by itself.
WEIGHTS_ARGUMENTS = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")
MOVING = (
    "revision is not given: its weights are those that {repository} had when they were downloaded; "
    "give the commit to pin them"
)


def _check_name(name: str) -> None:
    """Raises HubFault where timm has no network of that name."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = nearest(name, [*timm.list_models(), *timm.list_models(pretrained=True), TIMM_FUNCTION])
        own = "; a function inside it is written with its module before the colon, such as timm.models:resnet18"
        raise HubFault(f"timm has no network {name!r}{near or own}")
    tags = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and name not in tags:
        raise HubFault(f"timm has no weights {tag!r} of {architecture}{nearest(name, tags, 0.3)}")


def timm_network(spec: ModelSpec, named: HubName) -> HubNetwork:
    """Builds it. Raises HubFault, and what timm raises."""
    import timm
    from timm.models import get_pretrained_cfg

    _check_name(named.name)
    if chosen := [name for name in WEIGHTS_ARGUMENTS if name in spec.arguments]:
        instead = 'weights = "DEFAULT", "random" or the path of a safetensors file'
        raise HubFault(f"arguments must not name {' and '.join(chosen)}, which choose weights; write {instead}")
    published = get_pretrained_cfg(named.name).to_dict()
    arguments: dict[str, Any] = dict(spec.arguments)
    if spec.channels == 1 or published["input_size"][0] != spec.channels:
        arguments.setdefault("in_chans", spec.channels)
    notes: tuple[str, ...] = ()
    if spec.weights == "DEFAULT":
        _check_classes(arguments, published)
        path, notes = _weights(spec, published)
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}
    network = timm.create_model(named.name, **arguments)
    if network.num_classes == 0:
        what = f"timm's {named.name} has no classes: it gives features"
        raise HubFault(
            f'{what}; give weights of your own with arguments = {{ num_classes = ... }} and weights = "FILE"'
        )
    return HubNetwork(network, _preset(spec, network), notes)


def _check_classes(arguments: Mapping[str, Any], published: Mapping[str, Any]) -> None:
    """Raises HubFault where the published weights have no last layer for the classes asked for."""
    classes = arguments.get("num_classes", published["num_classes"])
    if classes != published["num_classes"]:
        what = f"its published weights are of {published['num_classes']} classes, and num_classes = {classes}"
        raise HubFault(f'{what} would get a last layer of random numbers; give weights = "FILE", or leave it out')


def _weights(spec: ModelSpec, published: Mapping[str, Any]) -> tuple[Path, tuple[str, ...]]:
    """The file of the published weights, and what to note of it. Raises HubFault."""
    repository = published.get("hf_hub_id")
    if not repository or published.get("custom_load"):
        file = published.get("url") or repository or "nowhere"
        what = f"its weights are published as a pickled or foreign file alone ({file})"
        raise HubFault(f"{what}; {SAFE_ALONE}")
    name = published.get("hf_hub_filename") or PICKLED_NAME
    safe = SAFE_NAMES.get(name, f"{name.removesuffix('.bin')}.safetensors" if name.endswith(".bin") else name)
    if not safe.endswith(".safetensors"):
        raise HubFault(f"{repository} has its weights as {name}; {SAFE_ALONE}")
    path = fetched(repository, spec.revision, [(safe,)]) / safe
    return path, () if spec.revision else (MOVING.format(repository=repository),)


def _preset(spec: ModelSpec, network: Any) -> Preset:
    """What timm's own transform does, as far as the entry does not say otherwise. Raises HubFault."""
    from timm.data import create_transform, resolve_data_config

    config = resolve_data_config(_sizes(spec), pretrained_cfg=network.pretrained_cfg)
    colours = _colours(spec, config)
    transform: Transform = create_transform(**config | {"mean": colours.mean, "std": colours.std}, is_training=False)
    geometry = proven(transform, _geometries(config), colours)
    if geometry is None and None in (spec.height, spec.width, spec.interpolation):
        what = f"timm prepares its pictures by crop_mode = {config['crop_mode']!r}, which this server does not"
        raise HubFault(f"{what}; give height, width, resize and interpolation for what is to be done instead")
    return Preset(geometry, colours, _labels(network))


def _sizes(spec: ModelSpec) -> dict[str, Any]:
    """What the entry says of the network's input, in timm's words."""
    size = spec.arguments.get("img_size")
    return {"in_chans": spec.channels} | ({"img_size": size} if isinstance(size, int) else {})


def _colours(spec: ModelSpec, config: Mapping[str, Any]) -> Colours:
    """timm's normalisation, or the entry's where that does not fit its channel. Raises HubFault without either."""
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if spec.channels == 1 and len(mean) == 3:
        if len(set(mean)) == len(set(std)) == 1:
            return Colours(mean[:1], std[:1])
        if spec.mean is None or spec.std is None:
            what = "timm's normalisation of it is of 3 channels, and channels = 1"
            raise HubFault(f"{what}; give mean and std, a number each, of the grey pictures that it was trained on")
        return Colours(spec.mean, spec.std)
    return Colours(mean, std)


def _geometries(config: Mapping[str, Any]) -> Iterator[Geometry]:
    """What timm's transform may come to: timm.data.transforms_factory.transforms_imagenet_eval."""
    height, width = config["input_size"][1:]
    tall, wide = (math.floor(side / config["crop_pct"]) for side in (height, width))
    for stretched in (False, True):
        yield Geometry(height, width, Framing(tall, wide, stretched), config["interpolation"])


def _labels(network: Any) -> tuple[str, ...]:
    """The names of its classes, or none: those of ImageNet are torchvision's, so that one word fits all networks."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    known = network.pretrained_cfg
    names = known.get("label_names")
    if names and len(names) == network.num_classes:
        described = known.get("label_descriptions") or {}
        return tuple(described.get(name, name) for name in names)
    if network.num_classes != known["num_classes"]:
        return ()
    if network.num_classes == IMAGENET_CLASSES:
        from torchvision.models._meta import _IMAGENET_CATEGORIES

        return tuple(_IMAGENET_CATEGORIES)
    subset = infer_imagenet_subset(network)
    return tuple(ImageNetInfo(subset).label_descriptions()) if subset else ()
