"""Run a command as it would run on a CPU with fewer instructions than this one, at full speed.

    python tests/cpu_class/run.py avx2 -- python -m pytest tests/components/convert_to_onnx

ONNX Runtime has no switch for its CPU kernels: it chooses them by `cpuid` (MLAS, core/mlas/lib/platform.cpp).
So the command gets a copy of the package in which each `cpuid` is a breakpoint, and a library in front of it
(`answer_cpuid.c`) that answers it, and /proc/cpuinfo, without the instructions that the class lacks. PyTorch
has switches, which are set. All processes that the command starts are of the class too.

On a CPU that lacks them anyway this changes nothing. It needs Linux on x86-64, gcc and binutils. It was
compared with `qemu-x86_64 -cpu Haswell` and `-cpu EPYC-Rome` (QEMU 7.2): same answers to the last bit.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CPU_FILE = Path("/proc/cpuinfo")
CPUID, BREAKPOINT = b"\x0f\xa2", b"\xcc\x90"  # the latter is int3 and a nop
TOOLS = ("gcc", "objdump", "readelf")
LEAVES = ("7.ebx", "7.ecx", "7.edx", "7.1.eax", "7.1.edx")

# Name in /proc/cpuinfo, then register and bit in `cpuid`.
AVX512 = {
    "avx512f": ("7.ebx", 16), "avx512dq": ("7.ebx", 17), "avx512ifma": ("7.ebx", 21),
    "avx512cd": ("7.ebx", 28), "avx512bw": ("7.ebx", 30), "avx512vl": ("7.ebx", 31),
    "avx512vbmi": ("7.ecx", 1), "avx512_vbmi2": ("7.ecx", 6), "avx512_bitalg": ("7.ecx", 12),
    "avx512_vpopcntdq": ("7.ecx", 14), "avx512_vp2intersect": ("7.edx", 8), "avx512_fp16": ("7.edx", 23),
    "avx512_bf16": ("7.1.eax", 5),
}  # fmt: skip
DOT_PRODUCTS = {
    "avx512_vnni": ("7.ecx", 11), "amx_bf16": ("7.edx", 22), "amx_tile": ("7.edx", 24),
    "amx_int8": ("7.edx", 25), "avx_vnni": ("7.1.eax", 4), "avx_vnni_int8": ("7.1.edx", 4),
    "avx_vnni_int16": ("7.1.edx", 10), "avx10": ("7.1.edx", 19),
}  # fmt: skip


@dataclass(frozen=True)
class CpuClass:
    """What a class of CPU lacks, and how PyTorch is told so."""

    hidden: Mapping[str, tuple[str, int]]
    pytorch: Mapping[str, str]


CLASSES: Mapping[str, CpuClass] = {
    "avx2": CpuClass(
        AVX512 | DOT_PRODUCTS,
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    ),
    "avx512": CpuClass(
        DOT_PRODUCTS, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512"}
    ),
}


def missing() -> str | None:
    """Why this machine cannot run anything as another class; None where it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"needs Linux on x86-64, found {platform.system()} on {platform.machine()}"
    absent = [tool for tool in TOOLS if not shutil.which(tool)]
    return f"needs {', '.join(absent)} on the PATH" if absent else None


def environment(name: str) -> dict[str, str]:
    """The variables with which a command runs as a CPU of the class `name`, one of `CLASSES`."""
    cpu = CLASSES[name]
    folder = _prepared()
    bits = dict.fromkeys(LEAVES, 0)
    for register, bit in cpu.hidden.values():
        bits[register] |= 1 << bit
    cpu_file = folder / f"cpuinfo.{name}"
    _write(cpu_file, _without(cpu.hidden, CPU_FILE.read_text(encoding="utf-8")))
    return {
        "CPU_CLASS_HIDDEN": " ".join(f"{value:x}" for value in bits.values()),
        "CPU_CLASS_CPUINFO": str(cpu_file),
        "LD_PRELOAD": _first(folder / "answer.so", "LD_PRELOAD"),
        "PYTHONPATH": _first(folder / "site", "PYTHONPATH"),
        **cpu.pytorch,
    }


def _first(path: Path, variable: str) -> str:
    return os.pathsep.join(filter(None, (str(path), os.environ.get(variable))))


def _without(hidden: Mapping[str, object], text: str) -> str:
    lines = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        flags = " ".join(flag for flag in value.split() if flag not in hidden)
        lines.append(f"{key}{colon} {flags}" if key.strip() == "flags" else line)
    return "\n".join(lines) + "\n"


def _prepared() -> Path:
    """The folder with the library and the copy of ONNX Runtime; made once for each version of both."""
    source = HERE / "answer_cpuid.c"
    version = importlib.metadata.version("onnxruntime") + platform.python_version()
    key = hashlib.sha256(source.read_bytes() + Path(__file__).read_bytes() + version.encode()).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"gauntlet-cpu-class-{os.getuid()}-{key[:16]}"
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir(mode=0o700)
        library = made / "answer.so"
        subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        _copy_with_breakpoints(made / "site/onnxruntime")
        try:
            made.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return folder


def _copy_with_breakpoints(target: Path) -> None:
    specification = importlib.util.find_spec("onnxruntime")
    assert specification and specification.origin, "onnxruntime is not installed"
    package = Path(specification.origin).parent
    shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__"))
    [library] = (target / "capi").glob("onnxruntime_pybind11_state*.so")
    code = bytearray(library.read_bytes())
    places = _places_of_cpuid(library)
    assert places, f"{library}: no cpuid found, so it chooses its kernels by other means"
    for at in places:
        assert code[at : at + 2] == CPUID
        code[at : at + 2] = BREAKPOINT
    library.write_bytes(code)


def _places_of_cpuid(library: Path) -> list[int]:
    """Where in the file each `cpuid` is."""
    code = _output("objdump", "-d", "--no-show-raw-insn", library)
    addresses = [int(found, 16) for found in re.findall(r"^\s*([0-9a-f]+):\s+cpuid\s*$", code, re.MULTILINE)]
    segments = [
        tuple(int(number, 16) for number in found)
        for found in re.findall(r"LOAD\s+(0x\w+) (0x\w+) 0x\w+ (0x\w+)", _output("readelf", "-lW", library))
    ]
    return [
        address - start + offset
        for address in addresses
        for offset, start, size in segments
        if start <= address < start + size
    ]


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def main(arguments: Sequence[str]) -> None:
    """Replace this process by the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cpu_class", choices=CLASSES)
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="after --")
    options = parser.parse_args(arguments)
    if reason := missing():
        parser.error(reason)
    os.execvpe(options.command[0], options.command, os.environ | environment(options.cpu_class))


if __name__ == "__main__":
    main(sys.argv[1:])
