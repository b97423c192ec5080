"""The embedded photo models `cifar10` and `cifar10-robust`: one network, two sets of weights."""
