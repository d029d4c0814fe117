"""The reporter: folds what the others said into what people and programs read. Memory is its task, nothing else."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("chargehand")
except PackageNotFoundError:  # a source tree on the path without an installation
    __version__ = "0"
