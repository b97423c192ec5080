"""Models that this project trains and ships: each folder holds network, training script, weights and card."""
