# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT
"""The device's side of edgeprov as one file of byte code: a third of what files of byte code take.

    python3 pack.py .../site-packages/edgeprov .../site-packages/edgeprov.pyc

``import edgeprov`` finds the file as any other; it brings its modules along (packed.py). It holds no docstrings
(but those of the verbs, which --help shows), no columns of traces (lines stay), nothing of the fleet's side, and no
sources: a root that is read-only would otherwise compile at each boot. Beside a folder ``edgeprov``, as the fleet's
package brings it, Python takes the folder. Byte code belongs to the Python that wrote it: run this with the version
of the device. Same sources, same bytes.
"""

import importlib.util
import marshal
import subprocess
import sys
import zlib
from pathlib import Path

_FLEET = ("fleet", "cli/fleet", "cli/fleet_main.py")
_UNCHECKED_HASH = 1


def pack(package, target):
    """Write the file; ``package`` is the folder ``edgeprov`` of a wheel or of the sources."""
    # How traces are stored is an option of the interpreter, not of its compiler.
    subprocess.run([sys.executable, "-I", "-X", "no_debug_ranges", __file__, package, target], check=True)


def device_sources(package):
    """The modules that a device needs, in a fixed order."""
    fleet = [package / name for name in _FLEET]
    for path in sorted(package.rglob("*.py")):
        if not any(path.is_relative_to(folder) for folder in fleet):
            yield path


def _write(package, target):
    modules = {}
    for path in device_sources(package):
        place = path.relative_to(package.parent)
        parts = place.with_suffix("").parts
        is_package = place.stem == "__init__"
        if is_package:
            parts = parts[:-1]
        optimize = 1 if "cli" in parts else 2
        code = compile(path.read_bytes(), str(place), "exec", dont_inherit=True, optimize=optimize)
        modules[".".join(parts)] = (is_package, zlib.compress(marshal.dumps(code), 9))
    if package.name not in modules:
        sys.exit(f"pack.py: {package} holds no package: is it the folder of the installed wheel?")
    loader = Path(__file__).with_name("packed.py").read_text(encoding="utf-8")
    loader = loader.replace("\nMODULES = {}\n", f"\nMODULES = {modules!r}\n")
    code = compile(loader, str(Path(package.name) / "packed.py"), "exec", dont_inherit=True, optimize=2)
    header = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little") + bytes(8)
    target.write_bytes(header + marshal.dumps(code))


if __name__ == "__main__":
    if "no_debug_ranges" in sys._xoptions:
        _write(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        pack(*sys.argv[1:])
