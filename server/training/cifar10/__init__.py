"""Training `cifar10` and `cifar10-robust`."""
