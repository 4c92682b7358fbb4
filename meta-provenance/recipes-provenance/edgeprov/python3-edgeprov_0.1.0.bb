# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

SUMMARY = "Proof of which model version produced which data"
SUMMARY:${PN}-fleet = "Publish models, collect and audit data kits"
SUMMARY:edgeprov-network-hook = "Uploads start when a link comes up, by NetworkManager or networkd-dispatcher"
SUMMARY:edgeprov-services = "Units, user and folders of edgeprov on a device"
SUMMARY:edgeprov-update-guard = "An updated slot is good only after the models passed the boot check"
DESCRIPTION = "Verifies and measures models at boot, records inferences, seals them with the TPM and sends them \
to an OCI registry. The fleet's side, edgeprov-fleet, is a package of its own."
HOMEPAGE = "https://edgeprov.dev/"
BUGTRACKER = "https://edgeprov.dev/issues"
SECTION = "devel/python"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"
CVE_PRODUCT = "edgeprov"

# Layer and program are one repository and one commit: the sources lie beside the layer.
PROVENANCE_SOURCE_DIR ?= "${PROVENANCE_LAYERDIR}/.."
FILESEXTRAPATHS:prepend := "${PROVENANCE_SOURCE_DIR}:"
SRC_URI = "\
    file://edgeprov;subdir=${BP} \
    file://pyproject.toml;subdir=${BP} \
    file://README.md;subdir=${BP} \
    file://LICENSE;subdir=${BP} \
"

inherit provenance_settings python_setuptools_build_meta systemd useradd features_check

REQUIRED_DISTRO_FEATURES:class-target = "systemd tpm2"
REQUIRED_DISTRO_FEATURES = ""

python () {
    import os
    if not os.path.isfile(os.path.join(d.getVar("PROVENANCE_SOURCE_DIR"), "pyproject.toml")):
        raise bb.parse.SkipRecipe("PROVENANCE_SOURCE_DIR: holds no pyproject.toml; it must be edgeprov's repository")
}

# The guard before the services: a file goes to the first package that wants it.
PACKAGES =+ "${PN}-fleet edgeprov-network-hook edgeprov-update-guard edgeprov-services"

# scarthgap's setuptools (69) takes a licence as a table only.
do_configure:prepend() {
    case " ${LAYERSERIES_CORENAMES} " in
    *" scarthgap "*)
        sed -i -e 's/"setuptools>=77"/"setuptools"/' -e 's/^license = \("[^"]*"\)/license = { text = \1 }/' -e '/^license-files/d' ${S}/pyproject.toml
        ;;
    esac
}

do_install:append:class-target() {
    data=${S}/edgeprov/data
    install -d ${D}${systemd_system_unitdir}
    install -m 0644 $data/*.service $data/*.socket $data/*.mount $data/*.timer $data/*.path $data/*.target ${D}${systemd_system_unitdir}
    install -D -m 0644 $data/tpm-timeout.conf ${D}${systemd_system_unitdir}/dev-tpmrm0.device.d/edgeprov.conf
    install -D -m 0644 $data/tmpfiles-edgeprov.conf ${D}${nonarch_libdir}/tmpfiles.d/edgeprov.conf
    install -D -m 0644 $data/sysusers-edgeprov.conf ${D}${nonarch_libdir}/sysusers.d/edgeprov.conf
    install -D -m 0644 $data/edgeprov_ring.h ${D}${includedir}/edgeprov_ring.h
    install -D -m 0644 $data/edgeprov.catalog ${D}${nonarch_libdir}/systemd/catalog/edgeprov.catalog
    install -D -m 0644 $data/60-edgeprov.rules ${D}${nonarch_base_libdir}/udev/rules.d/60-edgeprov.rules
    install -D -m 0755 $data/network-hook.sh ${D}${nonarch_libdir}/NetworkManager/dispatcher.d/50-edgeprov
    install -D -m 0755 $data/network-hook.sh ${D}${nonarch_libdir}/networkd-dispatcher/routable.d/50-edgeprov

    # RAUC, swupdate and systemd-boot keep a new slot only after boot-complete.target.
    install -d ${D}${systemd_system_unitdir}/boot-complete.target.requires
    ln -s ../edgeprov-boot-check.service ${D}${systemd_system_unitdir}/boot-complete.target.requires/edgeprov-boot-check.service

    # A device gets one file of byte code, half a megabyte. The fleet's package brings the folder, which goes before it.
    ${PYTHON} ${PROVENANCE_LAYERDIR}/lib/oeprov/pack.py ${D}${PYTHON_SITEPACKAGES_DIR}/edgeprov ${D}${PYTHON_SITEPACKAGES_DIR}/edgeprov.pyc
}
do_install[file-checksums] += "\
    ${PROVENANCE_LAYERDIR}/lib/oeprov/pack.py:True \
    ${PROVENANCE_LAYERDIR}/lib/oeprov/packed.py:True \
"

SYSTEMD_PACKAGES = "edgeprov-services"
SYSTEMD_SERVICE:edgeprov-services = "\
    edgeprov-boot-check.service \
    edgeprov-models.target \
    edgeprov-seal.timer \
    edgeprov-upload.path \
    edgeprov-upload.service \
    edgeprov-upload.timer \
"

USERADD_PACKAGES = "edgeprov-services"
GROUPADD_PARAM:edgeprov-services = "--system tss; --system edgeprov; --system edgeprov-app"
USERADD_PARAM:edgeprov-services = "--system --no-create-home --home-dir ${localstatedir}/lib/edgeprov --shell /sbin/nologin --gid edgeprov --groups tss edgeprov"

FILES:${PN}-fleet += "\
    ${bindir}/edgeprov-fleet \
    ${PYTHON_SITEPACKAGES_DIR}/edgeprov \
"
FILES:edgeprov-network-hook += "\
    ${nonarch_libdir}/NetworkManager \
    ${nonarch_libdir}/networkd-dispatcher \
"
FILES:edgeprov-update-guard += "${systemd_system_unitdir}/boot-complete.target.requires"
FILES:edgeprov-services += "\
    ${nonarch_base_libdir}/udev/rules.d/60-edgeprov.rules \
    ${nonarch_libdir}/systemd/catalog \
    ${nonarch_libdir}/sysusers.d \
    ${nonarch_libdir}/tmpfiles.d \
    ${systemd_system_unitdir} \
"

# What edgeprov imports, the split standard library included; tests/layer compares this with its
# imports. tpm2-pytss names neither what it imports itself nor its TCTI, which it loads by dlopen.
RDEPENDS:${PN} += "\
    python3-core \
    python3-cryptography \
    python3-msgpack \
"
RDEPENDS:${PN}:append:class-target = " \
    libtss2 \
    libtss2-mu \
    libtss2-tcti-device \
    python3-asn1crypto \
    python3-cffi \
    python3-compression \
    python3-crypt \
    python3-ctypes \
    python3-datetime \
    python3-email \
    python3-fcntl \
    python3-io \
    python3-json \
    python3-logging \
    python3-math \
    python3-mmap \
    python3-netclient \
    python3-oras \
    python3-packaging \
    python3-requests \
    python3-resource \
    python3-shell \
    python3-threading \
    python3-tomllib \
    python3-tpm2-pytss \
    python3-urllib3 \
    python3-zstandard \
"
RDEPENDS:${PN}-fleet += "\
    python3-asyncio \
    python3-edgeprov \
    python3-html \
    python3-multiprocessing \
    python3-pyyaml \
    python3-sqlite3 \
"
# Only `edgeprov-fleet collect` needs tables, and no standard layer has Arrow for Python.
RDEPENDS:edgeprov-services += "\
    edgeprov-conf \
    python3-edgeprov \
    tpm2-tss \
"
RDEPENDS:edgeprov-network-hook += "edgeprov-services"
RDEPENDS:edgeprov-update-guard += "edgeprov-services"

BBCLASSEXTEND = "native"
