# Generated from the contract by protos/parameter_types.py: `make protos` writes it.
"""A method with its parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, Unpack, overload

from gradserve.parameters import attack, explain, influence

ParameterValue = bool | int | float | str


@dataclass(frozen=True, init=False)
class Method:
    """A method with parameters that are not the defaults: `Method("smooth_grad", samples=25)`.

    `Method.named` takes a name that is known only when the program runs.
    """

    name: str
    parameters: Mapping[str, ParameterValue]

    @overload
    def __init__(self, name: Literal["gradient"], /, **parameters: Unpack[explain.GradientParameters]) -> None: ...
    @overload
    def __init__(
        self, name: Literal["gradient_x_input"], /, **parameters: Unpack[explain.GradientXInputParameters]
    ) -> None: ...
    @overload
    def __init__(self, name: Literal["smooth_grad"], /, **parameters: Unpack[explain.SmoothGradParameters]) -> None: ...
    @overload
    def __init__(
        self, name: Literal["integrated_gradients"], /, **parameters: Unpack[explain.IntegratedGradientsParameters]
    ) -> None: ...
    @overload
    def __init__(
        self, name: Literal["guided_backprop"], /, **parameters: Unpack[explain.GuidedBackpropParameters]
    ) -> None: ...
    @overload
    def __init__(self, name: Literal["deconvnet"], /, **parameters: Unpack[explain.DeconvnetParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["grad_cam"], /, **parameters: Unpack[explain.GradCamParameters]) -> None: ...
    @overload
    def __init__(
        self, name: Literal["guided_grad_cam"], /, **parameters: Unpack[explain.GuidedGradCamParameters]
    ) -> None: ...
    @overload
    def __init__(self, name: Literal["occlusion"], /, **parameters: Unpack[explain.OcclusionParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["layer_cam"], /, **parameters: Unpack[explain.LayerCamParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["lrp"], /, **parameters: Unpack[explain.LrpParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["rise"], /, **parameters: Unpack[explain.RiseParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["lime"], /, **parameters: Unpack[explain.LimeParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["kernel_shap"], /, **parameters: Unpack[explain.KernelShapParameters]) -> None: ...
    @overload
    def __init__(
        self, name: Literal["gradient_shap"], /, **parameters: Unpack[explain.GradientShapParameters]
    ) -> None: ...
    @overload
    def __init__(
        self, name: Literal["gradient_ascent"], /, **parameters: Unpack[attack.GradientAscentParameters]
    ) -> None: ...
    @overload
    def __init__(self, name: Literal["pgd"], /, **parameters: Unpack[attack.PgdParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["apgd"], /, **parameters: Unpack[attack.ApgdParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["one_pixel"], /, **parameters: Unpack[attack.OnePixelParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["square"], /, **parameters: Unpack[attack.SquareParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["transfer"], /, **parameters: Unpack[attack.TransferParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["fooling"], /, **parameters: Unpack[attack.FoolingParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["sphere"], /, **parameters: Unpack[attack.SphereParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["corruption"], /, **parameters: Unpack[attack.CorruptionParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["patch"], /, **parameters: Unpack[attack.PatchParameters]) -> None: ...
    @overload
    def __init__(
        self, name: Literal["apgd_targeted"], /, **parameters: Unpack[attack.ApgdTargetedParameters]
    ) -> None: ...
    @overload
    def __init__(
        self, name: Literal["fab_targeted"], /, **parameters: Unpack[attack.FabTargetedParameters]
    ) -> None: ...
    @overload
    def __init__(self, name: Literal["ensemble"], /, **parameters: Unpack[attack.EnsembleParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["malt"], /, **parameters: Unpack[attack.MaltParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["jpeg"], /, **parameters: Unpack[attack.DefenceJpegParameters]) -> None: ...
    @overload
    def __init__(
        self, name: Literal["bit_depth"], /, **parameters: Unpack[attack.DefenceBitDepthParameters]
    ) -> None: ...
    @overload
    def __init__(self, name: Literal["blur"], /, **parameters: Unpack[attack.DefenceBlurParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["noise"], /, **parameters: Unpack[attack.DefenceNoiseParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["last_layer"], /, **parameters: Unpack[influence.LastLayerParameters]) -> None: ...
    @overload
    def __init__(self, name: Literal["fgsm", "projected", "neighbours"], /) -> None: ...

    def __init__(self, name: str, /, **parameters: Any) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "parameters", parameters)

    @classmethod
    def named(cls, name: str, /, **parameters: ParameterValue) -> Self:
        """A method by any name, which no type is held against: a wrong one is found by the call that gets it."""
        return cls(name, **parameters)  # type: ignore[call-overload,no-any-return]

    def __repr__(self) -> str:
        parameters = (f"{name}={value!r}" for name, value in self.parameters.items())
        return f"Method({', '.join([repr(self.name), *parameters])})"

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.parameters.items())))
