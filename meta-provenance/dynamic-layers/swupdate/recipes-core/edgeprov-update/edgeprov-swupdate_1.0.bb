# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

SUMMARY = "swupdate's trial boot ends well only after the models passed the boot check"
DESCRIPTION = "Clears the boot loader's upgrade_available and bootcount, as swupdate's handbook asks, but only after \
edgeprov-models.target. Otherwise the boot loader goes back to the old slot by its boot limit."
HOMEPAGE = "https://edgeprov.dev/"
BUGTRACKER = "https://edgeprov.dev/issues"
SECTION = "base"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COREBASE}/meta/COPYING.MIT;md5=3da9cfbcb788c80a0384361b4de20420"
CVE_PRODUCT = ""

inherit allarch systemd features_check

REQUIRED_DISTRO_FEATURES = "systemd tpm2"

SRC_URI = "file://edgeprov-swupdate-confirm.service.in"
S = "${UNPACKDIR}"
INHIBIT_DEFAULT_DEPS = "1"
do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -D -m 0644 ${UNPACKDIR}/edgeprov-swupdate-confirm.service.in ${D}${systemd_system_unitdir}/edgeprov-swupdate-confirm.service
    sed -i -e 's!@BINDIR@!${bindir}!' ${D}${systemd_system_unitdir}/edgeprov-swupdate-confirm.service
}

SYSTEMD_SERVICE:${PN} = "edgeprov-swupdate-confirm.service"
FILES:${PN} += "${systemd_system_unitdir}"
RDEPENDS:${PN} += "\
    edgeprov-services \
    libubootenv-bin \
"
