"""Models that this project trains and ships: each folder holds network, weights and card; server/training the rest."""
