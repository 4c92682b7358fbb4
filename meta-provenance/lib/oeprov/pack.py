# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT
"""The device's side of edgeprov as one file of byte code: a third of what files of byte code take.

    python3 pack.py .../site-packages/edgeprov .../site-packages/edgeprov.pyc

``import edgeprov`` finds the file as any other; it brings its modules along (packed.py): those of a boot as one,
which costs it less than files do, each of the others for itself. It holds no docstrings
(but those of the verbs, which --help shows), no types of parameters and results, which nothing reads but each
import would build, no columns of traces (lines stay), nothing of the fleet's side, and no sources: a root that
is read-only would otherwise compile at each boot. Beside a folder ``edgeprov``, as the fleet's package brings
it, Python takes the folder. Byte code belongs to the Python that wrote it: run this with the version of the
device. Same sources, same bytes.
"""

import ast
import importlib.util
import marshal
import subprocess
import sys
import zlib
from pathlib import Path

_FLEET = ("fleet", "cli/fleet", "cli/fleet_main.py")
_BOOT = ("edgeprov.cli.device_main", "edgeprov.cli.output", "edgeprov.cli.device.boot_check", "edgeprov._lazyimport")
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


class _Untyped(ast.NodeTransformer):
    """Takes the annotations of functions away; those of classes are the fields of value classes."""

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node):
        node.annotation = None
        return node


def _boot_path(trees):
    """What a boot check imports: its modules and, of each, what is imported where the module begins."""
    found, ahead = set(), [name for name in _BOOT if name in trees]
    while ahead:
        name = ahead.pop()
        if name in trees and name not in found:
            found.add(name)
            ahead.append(name.rpartition(".")[0])
            for node in trees[name].body:
                if isinstance(node, ast.ImportFrom):
                    ahead += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return sorted(found)


def _write(package, target):
    trees, packages, codes = {}, set(), {}
    for path in device_sources(package):
        place = path.relative_to(package.parent)
        parts = place.with_suffix("").parts
        if place.stem == "__init__":
            parts = parts[:-1]
            packages.add(".".join(parts))
        name = ".".join(parts)
        trees[name] = _Untyped().visit(ast.parse(path.read_bytes(), place))
        optimize = 1 if "cli" in parts else 2
        codes[name] = compile(trees[name], str(place), "exec", dont_inherit=True, optimize=optimize)
    boot = {name: codes[name] for name in _boot_path(trees)}
    modules = {
        name: (name in packages, None if name in boot else zlib.compress(marshal.dumps(code), 9))
        for name, code in codes.items()
    }
    if package.name not in modules:
        sys.exit(f"pack.py: {package} holds no package: is it the folder of the installed wheel?")
    loader = Path(__file__).with_name("packed.py").read_text(encoding="utf-8")
    loader = loader.replace('\nBOOT = b""\n', f"\nBOOT = {zlib.compress(marshal.dumps(boot), 9)!r}\n")
    loader = loader.replace("\nMODULES = {}\n", f"\nMODULES = {modules!r}\n")
    code = compile(loader, str(Path(package.name) / "packed.py"), "exec", dont_inherit=True, optimize=2)
    header = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little") + bytes(8)
    target.write_bytes(header + marshal.dumps(code))


if __name__ == "__main__":
    if "no_debug_ranges" in sys._xoptions:
        _write(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        pack(*sys.argv[1:])
