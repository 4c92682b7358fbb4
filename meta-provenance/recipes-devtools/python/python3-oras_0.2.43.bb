# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

SUMMARY = "OCI Registry as Storage, Python SDK"
DESCRIPTION = "Talks to OCI registries; edgeprov uses its HTTP and authentication plumbing."
HOMEPAGE = "https://oras-project.github.io/oras-py/"
BUGTRACKER = "https://github.com/oras-project/oras-py/issues"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=019fcb726ce54798fc2e56a02520dae8"

SRC_URI[sha256sum] = "761f2b518fce50e5e9482975363ff0230f63fc65f84c09510fbcc301782a047c"

inherit pypi setuptools3

RDEPENDS:${PN} += "\
    python3-compression \
    python3-core \
    python3-crypt \
    python3-datetime \
    python3-io \
    python3-json \
    python3-jsonschema \
    python3-logging \
    python3-netclient \
    python3-requests \
"

BBCLASSEXTEND = "native nativesdk"
