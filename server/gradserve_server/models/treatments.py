"""What may be done to a network to make it faster, and what its card says where that cannot be done."""

from typing import NamedTuple


class Treatment(NamedTuple):
    """What is done to a network to make it faster."""

    fold: bool  # Whether BatchNorm is folded into convolutions.
    channels_last: bool  # Whether images and weights lie in memory with their channels last.


TREATMENTS = (Treatment(True, True), Treatment(True, False), Treatment(False, True), Treatment(False, False))
TREATMENT_NOTES = {  # Notes of the card where an earlier treatment failed.
    Treatment(True, False): "images lie in memory channel by channel, which is slower; otherwise",
    Treatment(False, True): "BatchNorm is not folded into convolutions, which is slower; otherwise",
    Treatment(False, False): "it is served without speed-ups; with them",
}
