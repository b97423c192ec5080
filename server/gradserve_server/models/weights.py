"""A file's weights put into a network: everything must fit, but for a last layer of another number of classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from .checkpoints import Checkpoint, CheckpointError, as_state_dict, fitted, read_checkpoints, shown
from .plain import is_plain

COUNTER = "num_batches_tracked"  # A buffer of BatchNorm, on which nothing depends in eval mode.


class _Misfit(NamedTuple):
    """A tensor of the file that is something else than the network's of that name."""

    kind: Literal["shape", "dtype", "torn"]
    text: str


class Loaded(NamedTuple):
    """What is to be said of a file that was loaded, and the size of the last layer where the file decided it."""

    notes: tuple[str, ...] = ()
    classes: int | None = None


def load_weights(network: nn.Module, path: Path, source: str) -> Loaded:
    """Puts a file's weights into the network that `source` built.

    Raises CheckpointError, and then the network is of no use any more.
    """
    own = network.state_dict()
    checkpoints = [fitted(each, own) for each in read_checkpoints(path)]
    checkpoint = next((each for each in checkpoints if _fits(each, own)), checkpoints[0])
    tensors = checkpoint.tensors
    loaded = _fit_head(network, checkpoint, own)
    if loaded.classes is not None:
        own = network.state_dict()
    misfits = _misfits(checkpoint, own)
    if misfits:
        missing = _drop_harmless([name for name in own if name not in tensors], own, tensors)
        unexpected = [name for name in tensors if name not in own]
        raise CheckpointError(_report(path, source, checkpoint, own, missing, unexpected, misfits))
    try:
        missing, unexpected = network.load_state_dict(as_state_dict(checkpoint, own), strict=False)
    except Exception as error:
        raise CheckpointError(f"{path.name} does not fit {source}: {type(error).__name__}: {error}") from error
    missing = _drop_harmless(missing, own, tensors)
    if missing or unexpected:
        raise CheckpointError(_report(path, source, checkpoint, own, missing, unexpected, []))
    return Loaded((*loaded.notes, *_other_state_dicts(path, checkpoint, checkpoints)), loaded.classes)


def _fits(checkpoint: Checkpoint, own: Mapping[str, Any]) -> bool:
    """Whether names and shapes are those of the network."""
    return checkpoint.tensors.keys() == own.keys() and not _misfits(checkpoint, own)


def _misfits(checkpoint: Checkpoint, own: Mapping[str, Any]) -> list[_Misfit]:
    """Tensors of the file that have a name of the network's, but another shape, type or value than it can have."""
    misfits = []
    pairs = [(name, tensor, own[name]) for name, tensor in checkpoint.tensors.items() if name in own]
    for name, theirs, ours in pairs:
        if not isinstance(theirs, Tensor) or not isinstance(ours, Tensor) or _is_lazy(ours):
            continue
        if theirs.shape != ours.shape:
            text = f"{name} is {_shape(theirs)} in the file and {_shape(ours)} in the network"
            misfits.append(_Misfit("shape", text))
        elif name.endswith(COUNTER):
            continue  # In a network that was cast to half precision the counter is a half too.
        elif (theirs.is_floating_point(), theirs.is_complex()) != (ours.is_floating_point(), ours.is_complex()):
            text = f"{name} is {theirs.dtype} in the file and {ours.dtype} in the network"
            misfits.append(_Misfit("dtype", text))
    return misfits + _torn(checkpoint, own)


def _torn(checkpoint: Checkpoint, own: Mapping[str, Any]) -> list[_Misfit]:
    """Misfits of tensors that the network has under several names, for which the file has different values."""
    misfits = []
    first: dict[Any, str] = {}
    for name, ours in own.items():
        theirs = checkpoint.tensors.get(name)
        if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor) or not ours.numel() or _is_lazy(ours):
            continue
        other = first.setdefault(_place(ours), name)
        known = checkpoint.tensors[other]
        if other != name and known.shape == theirs.shape and not known.equal(theirs):
            text = f"{other} and {name} are one tensor in the network, but differ in the file"
            misfits.append(_Misfit("torn", text))
    return misfits


def _place(tensor: Tensor) -> tuple[object, ...]:
    """A key that is equal for tensors of the same memory, shape and strides."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _is_lazy(tensor: Tensor) -> bool:
    return isinstance(tensor, UninitializedParameter | UninitializedBuffer)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _drop_harmless(missing: Sequence[str], own: Mapping[str, Any], tensors: Mapping[str, Any]) -> list[str]:
    """The missing names without BatchNorm's counters, and without tensors that the file has under another name."""
    there = {_place(own[name]) for name in tensors if isinstance(own.get(name), Tensor) and not _is_lazy(own[name])}
    return [
        name
        for name in missing
        if not name.endswith(COUNTER)
        and not (isinstance(own.get(name), Tensor) and not _is_lazy(own[name]) and _place(own[name]) in there)
    ]


def _fit_head(network: nn.Module, checkpoint: Checkpoint, own: Mapping[str, Any]) -> Loaded:
    """Gives the last layer the file's number of classes, where that is all that differs; otherwise changes nothing."""
    theirs = checkpoint.tensors
    both = [(n, theirs[n], ours) for n, ours in own.items() if isinstance(theirs.get(n), Tensor) and not _is_lazy(ours)]
    names = [name for name, new, old in both if new.shape != old.shape]
    owners = {name.rpartition(".")[0] for name in names}
    heads = {id(head): head for head in (network.get_submodule(owner) for owner in owners)}
    if len(heads) != 1 or {name.rpartition(".")[2] for name in names} - {"weight", "bias"}:
        return Loaded()
    (head,) = heads.values()
    count = {len(theirs[name]) if theirs[name].ndim else 0 for name in names}
    if not _is_last_plain(network, head) or len(count) != 1 or not all(count):
        return Loaded()
    if any(theirs[name].shape[1:] != own[name].shape[1:] for name in names):
        return Loaded()
    (classes,) = count
    before = len(head.weight)  # type: ignore[arg-type]
    _resize(head, classes)
    owner = " and ".join(sorted(owners))
    return Loaded((f"its last layer, {owner}, has {classes} outputs as in the file, not {before}",), classes)


def _is_last_plain(network: nn.Module, head: nn.Module) -> bool:
    """Whether it is the last of its kind and does what its class says.

    Another module that has its parameters too disagrees with the file as well, so that it is not the only one.
    """
    if not is_plain(head, nn.Linear, nn.Conv2d) or getattr(head, "groups", 1) != 1:
        return False
    return [module for module in network.modules() if isinstance(module, type(head))][-1] is head


def _resize(head: nn.Module, classes: int) -> None:
    """Changes the layer itself, so that everything that refers to it sees the change."""
    for name, parameter in list(head._parameters.items()):
        if parameter is not None:
            setattr(head, name, nn.Parameter(parameter.detach().new_empty(classes, *parameter.shape[1:])))
    setattr(head, "out_features" if isinstance(head, nn.Linear) else "out_channels", classes)


def _report(
    path: Path,
    source: str,
    checkpoint: Checkpoint,
    own: Mapping[str, Any],
    missing: Sequence[str],
    unexpected: Sequence[str],
    misfits: Sequence[_Misfit],
) -> str:
    """Where the file and the network disagree, what matters most first."""
    under = f" under {'.'.join(checkpoint.keys)}" if checkpoint.keys else ""
    here = len(own) - len(missing)
    names = f"of {len(own)} tensors that the network wants, the file has {here}{under}" if missing or unexpected else ""
    names += f"; missing: {shown(list(missing))}" if missing else ""
    names += f"; unknown: {shown(list(unexpected))}" if unexpected else ""
    shapes = [each.text for each in misfits if each.kind == "shape"]
    others = [each.text for each in misfits if each.kind != "shape"]
    sizes = (
        f"{len(shapes)} of {len(own)} tensors {'has' if len(shapes) == 1 else 'have'} another shape: {shown(shapes)}"
        if shapes
        else ""
    )
    kinds = f"{len(others)} of another kind: {shown(others)}" if others else ""
    strange = here < len(own) / 2
    parts = [names, sizes, kinds] if strange else [sizes, kinds, names]
    hint = "is it the file of another network?"
    if not strange and ":" in source:
        hint = "let the builder make the network that was trained (see arguments)"
    return f"{path.name} does not fit {source}: {'; '.join([*filter(None, parts), hint])}"


def _other_state_dicts(path: Path, taken: Checkpoint, checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Which of a file's state dicts was taken, where it has several."""
    others = [".".join(each.keys) for each in checkpoints if each.keys != taken.keys]
    if not others:
        return []
    return [f"weights are {'.'.join(taken.keys)} of {path.name}, which also has {', '.join(others)}"]
