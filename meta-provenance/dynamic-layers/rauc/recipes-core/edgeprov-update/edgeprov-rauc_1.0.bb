# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

SUMMARY = "RAUC marks a slot good only after the models passed the boot check"
DESCRIPTION = "Orders rauc-mark-good after edgeprov-models.target. RAUC falls back to the other slot when the new one \
does not pass within the boot attempts that its boot loader allows."
HOMEPAGE = "https://edgeprov.dev/"
BUGTRACKER = "https://edgeprov.dev/issues"
SECTION = "base"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COREBASE}/meta/COPYING.MIT;md5=3da9cfbcb788c80a0384361b4de20420"
CVE_PRODUCT = ""

inherit allarch features_check

REQUIRED_DISTRO_FEATURES = "rauc systemd tpm2"

SRC_URI = "file://edgeprov.conf"
S = "${UNPACKDIR}"
INHIBIT_DEFAULT_DEPS = "1"
do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -D -m 0644 ${UNPACKDIR}/edgeprov.conf ${D}${systemd_system_unitdir}/rauc-mark-good.service.d/edgeprov.conf
}

FILES:${PN} += "${systemd_system_unitdir}"
RDEPENDS:${PN} += "\
    edgeprov-services \
    rauc-mark-good \
"
