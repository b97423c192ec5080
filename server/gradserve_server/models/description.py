"""Puts together a model's card."""

from .behaviour import Behaviour
from .card import ModelCard
from .catalogue import ModelSpec
from .contents import parameter_count, with_contents
from .loading import Source, class_names
from .outputs import Head
from .positions import NO_RELEVANCE, NOTE, has_positions
from .probe import Probe

PROBABILITIES = (
    "SOFTMAX_OUTPUTS: it gives probabilities whose softmax cannot be found; their logarithms are taken for the logits, "
    "which says nothing of classes below 1e-37; let it return its logits"
)


def describe(
    spec: ModelSpec,
    source: Source,
    probe: Probe,
    folded: dict[str, str],
    behaviour: Behaviour,
    head: Head,
    sizes: tuple[bool, int],
) -> ModelCard:
    """The card of a model, from its entry, its weights and what test passes show. Raises LoadError.

    `folded`: {convolution: BatchNorm}. `sizes`: whether it takes other sizes than its own, and its smallest side.
    """
    positions = has_positions(source.network)
    layers = with_contents(probe.layers, source.network)
    labels = class_names(spec, source, probe.classes, single=head.single)
    return ModelCard(
        name=spec.name,
        builder="embedded" if spec.is_embedded else _builder(spec),
        digest=source.digest,
        classes=labels,
        height=source.height,
        width=source.width,
        resize=source.resize,
        interpolation=source.interpolation,
        mean=source.mean,
        std=source.std,
        any_size=sizes[0],
        min_size=sizes[1],
        default_eps=spec.default_eps,
        layers=tuple(layer for layer in layers if layer.name not in folded),
        folded=folded,
        grad_cam_layer=probe.grad_cam_layer,
        relus=probe.relus,
        other_activations=probe.other_activations,
        rules_refused=probe.rules_refused,
        relevance_refused=NO_RELEVANCE if positions else probe.relevance.refused,
        input_rules_refused=probe.relevance.input_refused,
        gflop=probe.gflop,
        channels=source.channels,
        head=head.kind,
        no_gradient=behaviour.no_gradient,
        unbatched=bool(behaviour.unbatched),
        auto=spec.auto,
        rows=spec.rows,
        notes=tuple(_notes(spec, source, probe, behaviour, head)),
        aliases=probe.aliases,
        upstream=probe.upstream,
        tokens=probe.tokens,
        parameters=parameter_count(source.network),
        folded_layers=tuple(layer for layer in layers if layer.name in folded),
        positions=positions,
    )


def _builder(spec: ModelSpec) -> str:
    """The builder as callers see it: of a folder the name alone, since where it lies is the server's own affair."""
    return f"hf:{spec.hub.folder.name}" if spec.hub and spec.hub.is_folder else spec.source


def _notes(spec: ModelSpec, source: Source, probe: Probe, behaviour: Behaviour, head: Head) -> list[str]:
    notes = [*spec.notes, *source.notes, *probe.notes, *([NOTE] if has_positions(source.network) else [])]
    if behaviour.no_gradient:
        notes = [note for note in notes if not note.startswith("GRAD_CAM")]  # NO_GRADIENT says more.
        notes.append(f"NO_GRADIENT: {behaviour.no_gradient}")
    if behaviour.half:
        notes.append(f"HALF_INSIDE: {behaviour.half}")
    if behaviour.unbatched:
        notes.append(f"images are not batched, which is slower: {behaviour.unbatched}")
    if behaviour.output and spec.hub is None:  # Those of a hub are as their library makes them.
        notes.append(f"it returns {behaviour.output} for one image; the scores of its classes are taken for the logits")
    if head.ending:
        notes.append(f"it ends in a {head.ending}: its logits are what goes into that")
    if head.from_probabilities:
        notes.append(PROBABILITIES)
    if head.doubt:
        notes.append(head.doubt)
    if probe.relus and probe.other_activations:
        others = ", ".join(probe.other_activations)
        notes.append(f"PARTIALLY_GUIDED: guided rules change the gradient of ReLUs alone, and it also has {others}")
    return notes
