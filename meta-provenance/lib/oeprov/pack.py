# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT
"""The device's side of edgeprov as one file of byte code: a third of what files of byte code take.

    python3 pack.py .../site-packages/edgeprov .../site-packages/edgeprov.pyc

``import edgeprov`` finds the file as any other; it brings its modules along (packed.py). It holds no docstrings
(but those of the verbs, which --help shows), no annotations (but those of classes, which make dataclasses), no columns
of traces (lines stay), no module that no verb and no application of the device imports, and no sources: a root that is
read-only would otherwise compile at each boot. Beside a folder ``edgeprov``, as the fleet's package brings it, Python
takes the folder. Byte code belongs to the Python that wrote it: run this with the version
of the device. Same sources, same bytes.
"""

import ast
import importlib.util
import marshal
import subprocess
import sys
import zlib
from pathlib import Path

_FLEET = ("fleet", "cli/fleet", "cli/fleet_main.py")
_STARTS = ("__init__.py", "cli/device_main.py", "cli/device", "device")
_UNCHECKED_HASH = 1
# The dictionary of the compression: the beginnings of some modules, which are like those of the others.
_EVERY = 25
_BEGINNING_BYTES = 4000
_DICTIONARY_BYTES = 32768


class _Plain(ast.NodeTransformer):
    """Takes out what only type checkers need: annotations outside of classes, and the imports for them."""

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        named = node.args
        for item in (*named.posonlyargs, *named.args, *named.kwonlyargs, named.vararg, named.kwarg):
            if item is not None:
                item.annotation = None
        node.returns = None
        return node

    def visit_If(self, node):
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse or ast.copy_location(ast.Pass(), node)
        return node

    def visit_Module(self, node):
        self.generic_visit(node)
        node.body = [_assign(item) if isinstance(item, ast.AnnAssign) else item for item in node.body]
        return node


def _assign(node):
    if node.value is None:
        return ast.copy_location(ast.Pass(), node)
    return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)


def pack(package, target):
    """Write the file; ``package`` is the folder ``edgeprov`` of a wheel or of the sources."""
    # How traces are stored is an option of the interpreter, not of its compiler.
    subprocess.run([sys.executable, "-I", "-X", "no_debug_ranges", __file__, package, target], check=True)


def device_sources(package):
    """The modules that a device needs, in a fixed order: all that its verbs and ``import edgeprov`` lead to."""
    known = {_name(package, path): path for path in sorted(package.rglob("*.py"))}
    fleet = [package / name for name in _FLEET]
    waiting = [name for name, path in known.items() if any(path.is_relative_to(package / start) for start in _STARTS)]
    found = set()
    while waiting:
        name = waiting.pop()
        if name not in found and not any(known[name].is_relative_to(folder) for folder in fleet):
            found.add(name)
            waiting += [item for item in _imported(name, known[name]) if item in known]
    for name, path in known.items():
        if name in found:
            yield path


def _name(package, path):
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(name, path):
    """Names that a module imports, within functions as well, and the packages around it."""
    yield name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _compress(code, dictionary):
    compressor = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_DEFAULT_STRATEGY, dictionary)
    return compressor.compress(code) + compressor.flush()


def _write(package, target):
    modules = {}
    for path in device_sources(package):
        place = path.relative_to(package.parent)
        parts = place.with_suffix("").parts
        is_package = place.stem == "__init__"
        if is_package:
            parts = parts[:-1]
        optimize = 1 if "cli" in parts else 2
        plain = _Plain().visit(ast.parse(path.read_bytes()))
        code = compile(plain, str(place), "exec", dont_inherit=True, optimize=optimize)
        modules[".".join(parts)] = (is_package, marshal.dumps(code))
    if package.name not in modules:
        sys.exit(f"pack.py: {package} holds no package: is it the folder of the installed wheel?")
    loader = Path(__file__).with_name("packed.py").read_text(encoding="utf-8")
    samples = [code[:_BEGINNING_BYTES] for _, code in modules.values()][::_EVERY]
    dictionary = b"".join(samples)[-_DICTIONARY_BYTES:]
    packed = {name: (is_package, _compress(code, dictionary)) for name, (is_package, code) in modules.items()}
    loader = loader.replace("\nMODULES = {}\n", f"\nMODULES = {packed!r}\n")
    loader = loader.replace('\nDICTIONARY = b""\n', f"\nDICTIONARY = {zlib.compress(dictionary, 9)!r}\n")
    code = compile(loader, str(Path(package.name) / "packed.py"), "exec", dont_inherit=True, optimize=2)
    header = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little") + bytes(8)
    target.write_bytes(header + marshal.dumps(code))


if __name__ == "__main__":
    if "no_debug_ranges" in sys._xoptions:
        _write(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        pack(*sys.argv[1:])
