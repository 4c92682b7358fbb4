# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

SUMMARY = "LiteRT interpreter for Python (formerly TensorFlow Lite)"
DESCRIPTION = "The published wheel, reduced to the interpreter. Building LiteRT from source downloads at configure \
time, which a reproducible build must not."
HOMEPAGE = "https://ai.google.dev/edge/litert"
BUGTRACKER = "https://github.com/google-ai-edge/LiteRT/issues"
SECTION = "devel/python"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${PYPI_PACKAGE}-${PV}.dist-info/licenses/LICENSE;md5=86d3f3a95c324c9479bd8986968f4327"

PYPI_PACKAGE = "ai_edge_litert"
S = "${UNPACKDIR}/${BP}"

inherit pypi python3-dir

# One wheel for each Python of a supported series and each architecture that has one.
LITERT_TAG = "cp${@d.getVar('PYTHON_BASEVERSION').replace('.', '')}"
LITERT_WHEEL = "${PYPI_PACKAGE}-${PV}-${LITERT_TAG}-${LITERT_TAG}-manylinux_2_27_${TARGET_ARCH}.whl"
# The index's predictable address, with the wheel's tag in the place of "source".
PYPI_SRC_URI = "${@pypi_src_uri(d).split('/source/')[0]}/${LITERT_TAG}/a/${PYPI_PACKAGE}/${LITERT_WHEEL};name=${LITERT_TAG}-${TARGET_ARCH};subdir=${BP};downloadfilename=${LITERT_WHEEL}.zip"

SRC_URI[cp312-aarch64.sha256sum] = "9891611b23a87cc2ace60e4b5ee9a2ee6f0fb7f395f009470961ae6e6310e1b8"
SRC_URI[cp312-x86_64.sha256sum] = "dc9f56c23e0dcf182b6c35f23fbb102ed048296588882b806d5eff7654c04c88"
SRC_URI[cp314-aarch64.sha256sum] = "899b41423b30f3cef1ce8a361443092fdeefc4d536132511634fa21548347b0a"
SRC_URI[cp314-x86_64.sha256sum] = "695f5164b66ebdb0a3bbb4edc4d7024e87c65a0e417d48d0a2db2503bc01b78d"

COMPATIBLE_HOST = "(x86_64|aarch64).*-linux"
COMPATIBLE_HOST:libc-musl = "null"

python () {
    name = d.expand("${LITERT_TAG}-${TARGET_ARCH}")
    if not d.getVarFlag("SRC_URI", name + ".sha256sum"):
        raise bb.parse.SkipRecipe('PROVENANCE_RUNTIME = "ai-edge-litert": there is no wheel for %s' % name)
}

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${PYTHON_SITEPACKAGES_DIR}
    cp -R --no-dereference --preserve=mode,timestamps ${S}/* ${D}${PYTHON_SITEPACKAGES_DIR}
    # Neither the GPU nor the converters are for a device: 17 MB of 42.
    rm -rf ${D}${PYTHON_SITEPACKAGES_DIR}/${PYPI_PACKAGE}/libLiteRtWebGpuAccelerator.so \
        ${D}${PYTHON_SITEPACKAGES_DIR}/${PYPI_PACKAGE}/tools \
        ${D}${PYTHON_SITEPACKAGES_DIR}/${PYPI_PACKAGE}/vendors
    find ${D} -path '*.dist-info/RECORD' -delete
    chown -R root:root ${D}${PYTHON_SITEPACKAGES_DIR}
}

FILES:${PN} += "${PYTHON_SITEPACKAGES_DIR}"
# Built by others: stripped already, and linked without this distro's flags.
# nooelint: oelint.vars.insaneskip
INSANE_SKIP:${PN} += "already-stripped ldflags"

RDEPENDS:${PN} += "\
    python3-core \
    python3-numpy \
"
