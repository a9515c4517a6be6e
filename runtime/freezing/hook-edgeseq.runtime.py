"""PyInstaller's hook of the runtime: demo models, graphs, templates, native kernels, metadata.

``hooksconfig={"edgeseq.runtime": {"demos": False}}`` in a spec file leaves out the demo models.
"""

from __future__ import annotations

from typing import Any

from PyInstaller.utils.hooks import (
    collect_data_files,
    collect_dynamic_libs,
    collect_submodules,
    copy_metadata,
    get_hook_config,
)

PACKAGE = "edgeseq.runtime"
DATA = ["ort/graphs/*.onnx", "tasks/*.toml"]
DEMOS = ["bundle/demos/*/*"]
KERNELS = "edgeseq_kernels.*"
UNFROZEN = (f"{PACKAGE}.bench", f"{PACKAGE}.freezing", f"{PACKAGE}.bundle.initializers")

# Names of the runtime are imported at their first use, by strings.
hiddenimports = [
    name
    for name in collect_submodules(PACKAGE, filter=lambda name: not name.startswith(UNFROZEN))
    if name != PACKAGE
]


def hook(api: Any) -> None:
    """Add the data files and the kernels; ``api`` has the app's settings of this hook."""
    demos = get_hook_config(api, PACKAGE, "demos")
    api.add_datas(collect_data_files(PACKAGE, includes=DATA if demos is False else DATA + DEMOS))
    api.add_datas(copy_metadata("edgeseq"))  # the version and the licence
    api.add_binaries(collect_dynamic_libs(f"{PACKAGE}.native", search_patterns=[KERNELS]))
