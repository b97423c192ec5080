"""The network of `digits`."""

from torch import nn


def digits() -> nn.Module:
    """[N, 3, 8, 8] -> [N, 10]; three equal channels, so that any picture can be sent to it. 38 thousand parameters."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    features = nn.Sequential(
        *block(3, 24), *block(24, 32), nn.MaxPool2d(2), *block(32, 48), *block(48, 32), nn.AdaptiveAvgPool2d(2)
    )
    return nn.Sequential(features, nn.Flatten(), nn.Linear(128, 10))
