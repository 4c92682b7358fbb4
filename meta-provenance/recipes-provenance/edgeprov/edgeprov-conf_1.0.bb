# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

SUMMARY = "Configuration and trust anchors of edgeprov"
DESCRIPTION = "Only what a vendor decides, so that a change here rebuilds nothing else: edgeprov.toml from the \
PROVENANCE_* variables, the folder PROVENANCE_TRUST_DIR, and the service that tells the serial number."
HOMEPAGE = "https://edgeprov.dev/"
BUGTRACKER = "https://edgeprov.dev/issues"
SECTION = "base"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COREBASE}/meta/COPYING.MIT;md5=3da9cfbcb788c80a0384361b4de20420"
CVE_PRODUCT = ""

inherit provenance_settings allarch systemd features_check

REQUIRED_DISTRO_FEATURES = "systemd tpm2"

FILESEXTRAPATHS:prepend := "${PROVENANCE_LAYERDIR}/files:"
SRC_URI = "\
    file://${PROVENANCE_TRUST_DIR};subdir=trust \
    file://edgeprov-serial.service.in \
    file://edgeprov-serial.sh \
    ${@'file://%s;subdir=ca' % d.getVar('PROVENANCE_REGISTRY_CA_FILE') if d.getVar('PROVENANCE_REGISTRY_CA_FILE') else ''} \
"
S = "${UNPACKDIR}"
B = "${WORKDIR}/conf"
INHIBIT_DEFAULT_DEPS = "1"

do_configure[noexec] = "1"

python do_compile() {
    import os
    import shutil
    import oeprov.settings

    unpackdir = d.getVar("UNPACKDIR")
    trust = oeprov.settings.unpacked(os.path.join(unpackdir, "trust"), d.getVar("PROVENANCE_TRUST_DIR"))
    line = oeprov.settings.trust_problem(trust)
    if line:
        bb.fatal(line)
    if oeprov.settings.is_example(trust):
        bb.warn("PROVENANCE_TRUST_DIR: the example trust anchors are still in place; set a folder of your own")
    folder = d.expand("${nonarch_libdir}/edgeprov")
    shutil.copytree(trust, os.path.join(d.getVar("B"), "trust.d"))
    ca = ""
    if d.getVar("PROVENANCE_REGISTRY_CA_FILE"):
        ca = folder + "/registry-ca.pem"
        source = oeprov.settings.unpacked(os.path.join(unpackdir, "ca"), d.getVar("PROVENANCE_REGISTRY_CA_FILE"))
        shutil.copyfile(source, os.path.join(d.getVar("B"), "registry-ca.pem"))
    text = oeprov.settings.config_toml(provenance_values(d), folder + "/trust.d", ca)
    with open(os.path.join(d.getVar("B"), "edgeprov.toml"), "w", encoding="utf-8") as file:
        file.write(text)
}
do_compile[doc] = "Writes edgeprov.toml from the PROVENANCE variables and checks the trust folder"
do_compile[cleandirs] = "${B}"
do_compile[vardeps] += "${@' '.join(sorted(oeprov.settings.SETTINGS))}"

do_install() {
    install -d ${D}${nonarch_libdir}/edgeprov/edgeprov.toml.d ${D}${nonarch_libdir}/edgeprov/trust.d
    install -m 0644 ${B}/edgeprov.toml ${D}${nonarch_libdir}/edgeprov/edgeprov.toml
    install -m 0644 ${B}/trust.d/* ${D}${nonarch_libdir}/edgeprov/trust.d
    if [ -n "${PROVENANCE_REGISTRY_CA_FILE}" ]; then
        install -m 0644 ${B}/registry-ca.pem ${D}${nonarch_libdir}/edgeprov/registry-ca.pem
    fi
    if [ "${PROVENANCE_SERIAL_SOURCE}" != "none" ]; then
        install -D -m 0755 ${UNPACKDIR}/edgeprov-serial.sh ${D}${libexecdir}/edgeprov/serial
        install -D -m 0644 ${UNPACKDIR}/edgeprov-serial.service.in ${D}${systemd_system_unitdir}/edgeprov-serial.service
        sed -i -e 's!@SOURCE@!${PROVENANCE_SERIAL_SOURCE}!' -e 's!@LIBEXECDIR@!${libexecdir}!' \
            ${D}${systemd_system_unitdir}/edgeprov-serial.service
    fi
}

SYSTEMD_SERVICE:${PN} = "${@'' if d.getVar('PROVENANCE_SERIAL_SOURCE') == 'none' else 'edgeprov-serial.service'}"
FILES:${PN} += "\
    ${libexecdir}/edgeprov \
    ${nonarch_libdir}/edgeprov \
    ${systemd_system_unitdir} \
"
CONFFILES:${PN} = "${nonarch_libdir}/edgeprov/edgeprov.toml"
RPROVIDES:${PN} += "virtual-edgeprov-conf"
