"""ncnn's options, told without ncnn: its files are written on hosts that do not have it, for boards that do."""

from typing import Final

from benchfarm_engines.engine_options import INT8_OPTIONS, Option

OPTIONS: Final = (
    Option("winograd", "switch", True, "3x3 convolutions by Winograd's algorithm"),
    Option("packing", "switch", True, "channels interleaved by 4, 8 or 16 inside"),
    *INT8_OPTIONS,
)
