# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

# meta-python has this recipe from a later series on; layer.conf shows it to scarthgap only.
SUMMARY = "Zstandard bindings for Python"
DESCRIPTION = "Compression of data kits. Wraps the zstd sources that its archive brings along."
HOMEPAGE = "https://github.com/indygreg/python-zstandard"
BUGTRACKER = "https://github.com/indygreg/python-zstandard/issues"
LICENSE = "BSD-3-Clause"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3ae87c50fd64b6f0942823686871e758"

SRC_URI[sha256sum] = "b2d8c62d08e7255f68f7a740bae85b3c9b8e5466baa9cbf7f57f1cde0ac6bc09"

inherit pypi setuptools3

# Its pyproject.toml asks for a setuptools older than the series has; the classic build does not need it.
# nooelint: oelint.vars.insaneskip
INSANE_SKIP += "pep517-backend"

RDEPENDS:${PN}:append:class-target = " \
    python3-core \
    python3-io \
"

BBCLASSEXTEND = "native nativesdk"
