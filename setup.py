"""Build the library of native kernels, which edgeseq can do without.

All other settings are in ``pyproject.toml``. If there is no C++ compiler, or it fails, the package
is built without the library and says so.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = sorted(Path("runtime/native/src").glob("*.cpp"))
HEADERS = sorted(Path("runtime/native/src").glob("*.h"))
# Floating-point operations as they are written: the results are the same bits on every processor.
FLAGS = ["-std=c++17", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden"]
HAS_KERNELS = platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64")
SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


class BuildKernels(build_ext):
    """Builds a plain shared library, without Python's name and functions."""

    def get_ext_filename(self, name: str) -> str:
        return str(Path(*name.split("."))) + SUFFIX

    def build_extension(self, extension: Extension) -> None:
        """Compile several sources at a time: each takes some ten seconds."""
        compile_one = self.compiler.compile

        def compile_all(sources: Sequence[str], **settings: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda source: compile_one([source], **settings), sources)
                return [path for paths in objects for path in paths]

        self.compiler.compile = compile_all
        super().build_extension(extension)

    def get_export_symbols(self, extension: Extension) -> list[str]:
        return extension.export_symbols


class Wheel(bdist_wheel):
    """Names the wheel after the platform: the library is for it, and for any version of Python."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = not self.distribution.ext_modules

    def get_tag(self) -> tuple[str, str, str]:
        _, _, tag = super().get_tag()
        return "py3", "none", tag

    def write_wheelfile(self, *arguments: Any, **settings: Any) -> None:
        """Write the last file before the archive is made, and set equal permissions of all.

        They would depend on the user's umask, and two builds would differ.
        """
        super().write_wheelfile(*arguments, **settings)
        for path in Path(self.bdist_dir).rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


kernels = Extension(
    "edgeseq.runtime.native.edgeseq_kernels",
    [str(path) for path in SOURCES],
    depends=[str(path) for path in HEADERS],
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread", "-s"] if sys.platform == "linux" else [],
    optional=True,
)
is_wanted = HAS_KERNELS and os.environ.get("EDGESEQ_WITHOUT_KERNELS", "") == ""
setup(
    ext_modules=[kernels] if is_wanted else [],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
)
