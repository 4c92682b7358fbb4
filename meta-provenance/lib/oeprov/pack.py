# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT
"""The device's side of edgeprov as one archive of byte code: a fifth of what sources and byte code take.

    python3 pack.py .../site-packages/edgeprov TARGET/edgeprov.zip

Python imports from the archive as from a folder: put it on sys.path, or name it in a .pth file. It holds
no docstrings (but those of the verbs, which --help shows), no columns of traces (lines stay), nothing of
the fleet's side, and no sources: a root that is read-only would otherwise compile at each boot. Byte code
belongs to the Python that wrote it: run this with the version of the device. Same sources, same bytes.
"""

import py_compile
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_FLEET = ("fleet", "cli/fleet", "cli/fleet_main.py")
_TIME = (1980, 1, 1, 0, 0, 0)  # the oldest that an archive can hold


def pack(package, archive):
    """Write the archive; ``package`` is the folder ``edgeprov`` of a wheel or of the sources."""
    # How traces are stored is an option of the interpreter, not of its compiler.
    subprocess.run([sys.executable, "-I", "-X", "no_debug_ranges", __file__, package, archive], check=True)


def device_sources(package):
    """The modules that a device needs, in a fixed order."""
    fleet = [package / name for name in _FLEET]
    for path in sorted(package.rglob("*.py")):
        if not any(path.is_relative_to(folder) for folder in fleet):
            yield path


def _write(package, archive):
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive, "w") as packed:
        code = str(Path(folder) / "code")
        for path in device_sources(package):
            name = path.relative_to(package.parent)
            py_compile.compile(
                path, code, dfile=str(name), doraise=True, optimize=1 if "cli" in name.parts else 2,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )  # fmt: skip
            entry = zipfile.ZipInfo(str(name.with_suffix(".pyc")), _TIME)
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, Path(code).read_bytes(), zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    if "no_debug_ranges" in sys._xoptions:
        _write(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        pack(*sys.argv[1:])
