"""Files for PyTorch on a GPU: the same as for the processor."""

from typing import Final

from benchfarm_engines.conversion import Converter
from benchfarm_engines.torch_convert import TorchConverter

CONVERTER: Final[Converter] = TorchConverter()
