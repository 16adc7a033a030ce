"""CUDA's compiler from PyPI, and import libraries that load CUDA's own when a program starts.

A program linked with them starts on a machine without CUDA too, where the first call of the driver
answers that there is no device.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from string import Template

BENCH = Path(__file__).resolve().parent
# Of CUDA 13.0: PTX must not be newer than the driver that compiles it (580 is of 13.0).
WHEELS = {
    "nvidia-cuda-nvcc": "13.0.88",
    "nvidia-nvvm": "13.0.88",
    "nvidia-cuda-crt": "13.0.88",
    "nvidia-cuda-runtime": "13.0.96",
    "nvidia-cuda-cccl": "13.0.85",
}


@dataclass
class Library:
    """A library that cudarc links, with the status its functions return where it is missing."""

    module: str
    name: str
    file: str
    prefix: str
    missing: int


LIBRARIES = [
    Library("driver", "cuda", "libcuda.so.1", "cu", 100),
    Library("cublas", "cublas", "libcublas.so.13", "cublas", 1),
    Library("cublaslt", "cublasLt", "libcublasLt.so.13", "cublasLt", 1),
    Library("curand", "curand", "libcurand.so.10", "curand", 101),
    Library("nvrtc", "nvrtc", "libnvrtc.so.13", "nvrtc", 7),
]

SOURCE = Template("""
#define _GNU_SOURCE
#include <dlfcn.h>
__attribute__((visibility("hidden"), used)) void *lyceum_$name[$count];
static const char *const names[$count] = { $names };
static int missing(void) { return $missing; }
__attribute__((constructor)) static void load(void) {
    void *library = dlopen("$file", RTLD_NOW | RTLD_LOCAL);
    for (int i = 0; i < $count; i++) {
        void *found = library ? dlsym(library, names[i]) : 0;
        lyceum_$name[i] = found ? found : (void *)missing;
    }
}
""")
JUMP = (
    '__asm__(".pushsection .text\\n.globl {name}\\n.hidden {name}\\n.type {name}, @function\\n'
    '{name}: jmp *lyceum_{library}+{offset}(%rip)\\n.popsection");\n'
)


def import_library(library, cudarc, to):
    """Writes `to/libNAME.so`, a linker script that takes in one object: a jump per function that
    cudarc declares, through a table that is filled at the start."""
    declared = (cudarc / "src" / library.module / "sys/mod.rs").read_text()
    names = sorted(set(re.findall(rf"pub unsafe fn ({library.prefix}\w+)\(", declared)))
    quoted = ", ".join(f'"{name}"' for name in names)
    text = SOURCE.substitute(vars(library), names=quoted, count=len(names))
    for i, name in enumerate(names):
        text += JUMP.format(name=name, library=library.name, offset=8 * i)
    object_file, archive = to / f"{library.name}.o", to / f"lib{library.name}_loaded.a"
    command = ["cc", "-x", "c", "-O2", "-fPIC", "-c", "-o", object_file, "-"]
    subprocess.run(command, input=text, text=True, check=True)
    archive.unlink(missing_ok=True)
    subprocess.run(["ar", "rcs", archive, object_file], check=True)
    (to / f"lib{library.name}.so").write_text(f"INPUT(-l:{archive.name} -ldl)\n")


def crate(name, root):
    """The folder of the sources of a locked crate."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    given = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    found = re.search(rf'"manifest_path":"([^"]*/{name}-[0-9.]+)/Cargo.toml"', given)
    return Path(found[1])


def install(prefix, root):
    """Puts the compiler at `prefix`: 105 MB of wheels, 270 MB there."""
    if platform.machine() != "x86_64":
        sys.exit("bench/gpu build: CUDA's compiler from PyPI is used on x86-64 only; install CUDA")
    with tempfile.TemporaryDirectory(dir=prefix.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        wanted = [f"{name}=={version}" for name, version in WHEELS.items()]
        pip += ["--no-deps", "--only-binary=:all:", "-d", folder]
        subprocess.run([*pip, *wanted], check=True)
        for wheel in Path(folder).glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
        made = Path(folder) / "nvidia/cu13"
        for program in [*made.glob("bin/*"), *made.glob("nvvm/bin/*")]:
            program.chmod(0o755)
        (made / "lib64").symlink_to("lib")
        # candle-kernels' runtime, linked statically.
        script = "INPUT(-l:libcudart_static.a -lrt -lpthread -ldl)\n"
        (made / "lib/libcudart.so").write_text(script)
        (made / "lib/stubs").mkdir()
        for library in LIBRARIES:
            import_library(library, crate("cudarc", root), made / "lib/stubs")
        made.rename(prefix)


def environment(cache, root, capability):
    """The environment in which cargo builds with CUDA: this machine's compiler, or PyPI's."""
    found = shutil.which("nvcc")
    env = dict(os.environ)
    if found is None:
        prefix = cache / "cuda-13.0"
        if not prefix.exists():
            cache.mkdir(parents=True, exist_ok=True)
            install(prefix, root)
        found = prefix / "bin/nvcc"
        env |= {"CUDA_HOME": str(prefix), "PATH": f"{prefix / 'bin'}:{env['PATH']}"}
    env |= {"NVCC": str(BENCH / "nvcc"), "NVCC_REAL": str(found)}
    return env | {"CUDA_COMPUTE_CAP": capability, "CUDAFORGE_THREADS": str(os.cpu_count())}
