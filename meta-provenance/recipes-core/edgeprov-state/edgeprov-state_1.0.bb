# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

SUMMARY = "Keeps edgeprov's state on the data partition"
DESCRIPTION = "Mounts PROVENANCE_DATA_DIR/edgeprov on /var/lib/edgeprov. Without it a read-only root with volatile \
/var/lib would forget records, keys and models at every reboot, and an A/B update with every slot."
HOMEPAGE = "https://edgeprov.dev/"
BUGTRACKER = "https://edgeprov.dev/issues"
SECTION = "base"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COREBASE}/meta/COPYING.MIT;md5=3da9cfbcb788c80a0384361b4de20420"
CVE_PRODUCT = ""

inherit provenance_settings allarch systemd features_check

REQUIRED_DISTRO_FEATURES = "systemd tpm2"

SRC_URI = "file://var-lib-edgeprov.mount.in"
S = "${UNPACKDIR}"
INHIBIT_DEFAULT_DEPS = "1"
do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -D -m 0644 ${UNPACKDIR}/var-lib-edgeprov.mount.in ${D}${systemd_system_unitdir}/var-lib-edgeprov.mount
    sed -i -e 's!@DATA_DIR@!${PROVENANCE_DATA_DIR}!' -e 's!@STATE_DIR@!${localstatedir}/lib/edgeprov!' \
        ${D}${systemd_system_unitdir}/var-lib-edgeprov.mount
    # Mount points, which a read-only root cannot make at run time.
    install -d ${D}${PROVENANCE_DATA_DIR} ${D}${localstatedir}/lib/edgeprov
}

SYSTEMD_SERVICE:${PN} = "var-lib-edgeprov.mount"
FILES:${PN} += "\
    ${PROVENANCE_DATA_DIR} \
    ${localstatedir}/lib/edgeprov \
    ${systemd_system_unitdir} \
"
