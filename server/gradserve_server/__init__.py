"""The gradserve server: gradients of vision models over gRPC."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gradserve")
except PackageNotFoundError:  # The package runs from a source tree that is not installed.
    __version__ = "0+source"
