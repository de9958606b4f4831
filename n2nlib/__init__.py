"""n2nlib: the thin package under the notebooks that rebuild "PyTorch implementation of Noise2Noise"."""

from n2nlib.files import UserError
from n2nlib.params import Params, load_params, notebook_params

__all__ = ["Denoiser", "Params", "UserError", "load_params", "notebook_params"]
__version__ = "1.0.0"


def __getattr__(name: str) -> object:
    """Import what needs torch only when it is asked for, so that the command line starts fast."""
    if name == "Denoiser":
        from n2nlib.denoiser import Denoiser

        return Denoiser
    raise AttributeError(f"module 'n2nlib' has no attribute {name!r}")
