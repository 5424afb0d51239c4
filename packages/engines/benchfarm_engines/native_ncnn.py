"""ncnn for the native runner: compiled from its sources without its own build, with the layers that artifacts use.

Left out are layers that `ncnn_convert` never writes and that no other layer makes inside, half precision (which the
engine never turns on), weight-only quantisation, Vulkan, pixels, and plain SSE2: every x86 board has AVX. What stays
is chosen at run time by what the processor has, as in ncnn's Python package.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchfarm_engines.native_compilers import Compiler, compile_all
from benchfarm_engines.native_packages import NCNN, NCNN_VERSION

LAYERS: Final = frozenset(
    """
    BatchNorm BinaryOp Cast Clip Concat Convolution ConvolutionDepthWise Crop Deconvolution DeconvolutionDepthWise
    Dequantize ELU Embed Erf Flatten GELU Gemm HardSigmoid HardSwish InnerProduct Input InstanceNorm Interp LayerNorm
    MatMul MemoryData Mish Noop PReLU Packing Padding Permute PixelShuffle Pooling Quantize ReLU Reduction Requantize
    Reshape SDPA ShuffleChannel Sigmoid Slice Softmax Softplus Split Swish UnaryOp
    """.split()
)
_CORE: Final = "allocator benchmark blob cpu datareader expression layer mat modelbin net option paramdict".split()
_ON: Final = "STDIO STRING VALIDATION SIMPLEOMP THREADS BATCH RUNTIME_CPU GNU_INLINE_ASM INT8 FORCE_INLINE".split()
"""SIMPLEOMP: its header alone, which declares what `native/pool.cpp` has."""
_ON_FOR: Final = {
    "x86": "AVX FMA AVX2 AVXVNNI AVX512 AVX512VNNI".split(),
    "arm": "ARM82DOT ARM84I8MM".split(),
}
_WHOLE_LAYERS: Final = {"x86": ("avx512", "avx"), "arm": ()}
"""Instruction sets for which every layer is compiled again, from copies with names of their own."""
_PARTS: Final = {"x86": ("avx512vnni", "avxvnni", "avx2", "fma"), "arm": ("asimddp", "i8mm")}
"""Instruction sets for which ncnn has single functions in files of their own."""
_FLAGS: Final = (
    "-O3 -DNDEBUG -DNCNN_STATIC_DEFINE -fopenmp -fvisibility=hidden -fvisibility-inlines-hidden -ffunction-sections"
    " -fdata-sections -w"
).split()


@dataclass(frozen=True)
class NcnnBuild:
    """Compiled ncnn. includes: folders of its headers."""

    objects: tuple[Path, ...]
    includes: tuple[Path, ...]


def ncnn_key(target: str, compiler_identity: str) -> str:
    """Changes with everything that the objects depend on."""
    parts = [NCNN.sha256, target, compiler_identity]
    parts += [Path(__file__).with_name(f"native_{name}.py").read_text() for name in ("ncnn", "compilers")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def build_ncnn(sources: Path, folder: Path, target: str, compiler: Compiler) -> NcnnBuild:
    """Compiles what is missing in `folder`. Raises CannotBuild, OSError."""
    plan = _Plan(sources / "src", folder, "x86" if target == "x86_64" else "arm")
    plan.write_headers()
    (folder / "objects").mkdir(exist_ok=True)
    includes = (folder, plan.source, plan.source / "layer", plan.source / "layer" / plan.arch)
    flags = [*_FLAGS, *compiler.fast, *compiler.heap, *(f"-I{each}" for each in includes)]
    units = sorted(plan.units(), key=lambda unit: -_work(unit[0]))  # long ones first: the processors end together
    commands = {
        folder / "objects" / f"{path.stem}.o": [str(path), *flags, *compiler.instruction_sets.get(isa, ())]
        for path, isa in units
    }
    compile_all(compiler, commands)
    return NcnnBuild(tuple(sorted(commands)), includes)


def _work(unit: Path) -> int:
    """A guess at how long a file takes: headers of these two are most of ncnn."""
    return unit.stat().st_size + 300_000 * sum(word in unit.name for word in ("convolution_", "gemm_"))


@dataclass(frozen=True)
class _Plan:
    """source: ncnn's `src`. folder: takes what is generated. arch: ncnn's name of the processor's family."""

    source: Path
    folder: Path
    arch: str

    def units(self) -> Iterator[tuple[Path, str]]:
        """Files to compile, each with its instruction set; empty for the least that every such processor has."""
        yield from ((self.source / f"{name}.cpp", "") for name in _CORE)
        for name in sorted(LAYERS):
            low = name.lower()
            yield self.source / "layer" / f"{low}.cpp", ""
            own = self._own(name)
            if own is None:
                continue
            if not _WHOLE_LAYERS[self.arch]:
                yield own, ""
            yield from ((self._copied(name, isa, ".cpp"), isa) for isa in _WHOLE_LAYERS[self.arch])
            parts = ((own.with_name(f"{own.stem}_{isa}.cpp"), isa) for isa in _PARTS[self.arch])
            yield from (part for part in parts if part[0].exists())

    def write_headers(self) -> None:
        """What ncnn's own build would generate, and the copies of layers."""
        self._write(
            "ncnn_export.h", "#pragma once\n#define NCNN_EXPORT\n#define NCNN_NO_EXPORT\n#define NCNN_DEPRECATED\n"
        )
        self._write("layer_shader_type_enum.h", "")
        self._write("platform.h", self._platform())
        for name in sorted(LAYERS):
            if self._own(name) is not None:
                for isa in _WHOLE_LAYERS[self.arch]:
                    for suffix in (".h", ".cpp"):
                        self._write_copy(name, isa, suffix)
        classes = re.findall(r"^ncnn_add_layer\((\w+)", (self.source / "CMakeLists.txt").read_text(), re.MULTILINE)
        unknown = LAYERS - set(classes)
        assert not unknown, unknown
        self._write("layer_type_enum.h", "".join(f"{name} = {number},\n" for number, name in enumerate(classes)))
        self._write_filled("layer_declaration.h", {"layer_declaration": "".join(map(self._declared, sorted(LAYERS)))})
        self._write_filled(
            "layer_registry.h", {name: _registry(all_) for name, all_ in self._creators(classes).items()}
        )

    def _own(self, name: str) -> Path | None:
        """A layer's source for this family of processors, if it has one."""
        path = self.source / "layer" / self.arch / f"{name.lower()}_{self.arch}.cpp"
        return path if path.exists() else None

    def _copied(self, name: str, isa: str, suffix: str) -> Path:
        return self.folder / "layer" / self.arch / f"{name.lower()}_{self.arch}_{isa}{suffix}"

    def _write_copy(self, name: str, isa: str, suffix: str) -> None:
        own = self._own(name)
        assert own is not None
        text = own.with_suffix(suffix).read_text()
        guard, low = f"LAYER_{name.upper()}_{self.arch.upper()}", name.lower()
        text = text.replace(f"{guard}_H", f"{guard}_{isa.upper()}_H")
        text = text.replace(f"{name}_{self.arch}", f"{name}_{self.arch}_{isa}")
        text = text.replace(f'"{low}_{self.arch}.h"', f'"{low}_{self.arch}_{isa}.h"')
        self._write(f"layer/{self.arch}/{low}_{self.arch}_{isa}{suffix}", text)

    def _platform(self) -> str:
        on = {*_ON, *_ON_FOR[self.arch]}
        text = (self.source / "platform.h.in").read_text()
        text = re.sub(r"#cmakedefine01 NCNN_(\w+)", lambda each: f"#define {each[0][15:]} {int(each[1] in on)}", text)
        number = NCNN_VERSION.rsplit(".", 1)[-1]
        text = re.sub(r"#cmakedefine NCNN_VERSION_STRING.*", f'#define NCNN_VERSION_STRING "{NCNN_VERSION}"', text)
        return re.sub(r"#cmakedefine NCNN_VERSION_NUMBER.*", f"#define NCNN_VERSION_NUMBER {number}", text)

    def _declared(self, name: str) -> str:
        headers = {name: f"layer/{name.lower()}.h"}
        if self._own(name) is not None:
            low, whole = name.lower(), _WHOLE_LAYERS[self.arch]
            kinds = [f"_{self.arch}_{isa}" for isa in whole] or [f"_{self.arch}"]
            headers |= {f"{name}{kind}": f"layer/{self.arch}/{low}{kind}.h" for kind in kinds}
        return "".join(
            f'#include "{header}"\nnamespace ncnn {{ DEFINE_LAYER_CREATOR({made}) }}\n'
            for made, header in headers.items()
        )

    def _creators(self, classes: list[str]) -> dict[str, dict[str, str]]:
        """By registry: which class stands behind each of ncnn's layers, empty for none."""
        plain = {name: name if name in LAYERS else "" for name in classes}
        own = {name: name in LAYERS and self._own(name) is not None for name in classes}
        whole = {
            f"layer_registry_{isa}": {
                name: f"{name}_{self.arch}_{isa}" if own[name] else plain[name] for name in classes
            }
            for isa in _WHOLE_LAYERS[self.arch]
        }
        of_arch = {name: f"{name}_{self.arch}" if own[name] and not whole else "" for name in classes}
        return {"layer_registry": plain, "layer_registry_arch": of_arch, **whole}

    def _write_filled(self, name: str, parts: Mapping[str, str]) -> None:
        text = (self.source / f"{name}.in").read_text()
        self._write(name, re.sub(r"@(\w+)@", lambda each: parts.get(each[1], ""), text))

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _registry(creators: Mapping[str, str]) -> str:
    return "".join(f'{{"{name}", {f"{made}_layer_creator" if made else 0}}},\n' for name, made in creators.items())
