# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT
"""How a packed program imports its own modules: pack.py compiles this text with MODULES filled in.

MODULES maps each module's name to whether it is a package, and to its marshalled and compressed byte code. The
modules share a DICTIONARY for their compression, itself compressed in the file: it saves a sixth.
"""

import marshal
import sys
import zlib

MODULES = {}
DICTIONARY = b""


DICTIONARY = zlib.decompress(DICTIONARY)


class Packed:
    """Finder and loader of what MODULES holds."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in MODULES:
            return None
        is_package, _ = MODULES[name]
        return type(__spec__)(name, Packed, origin=__file__, is_package=is_package)

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        exec(Packed.get_code(module.__name__), module.__dict__)

    @staticmethod
    def get_code(name):
        return marshal.loads(zlib.decompressobj(zdict=DICTIONARY).decompress(MODULES[name][1]))


# Before all other finders: none of them has to look through the path for what is here.
sys.meta_path.insert(0, Packed)
# A module with a path is a package.
__path__ = __spec__.submodule_search_locations = []
__package__ = __name__
exec(Packed.get_code(__name__))
