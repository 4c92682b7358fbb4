# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

SUMMARY = "All that a device with provenance needs"
SUMMARY:${PN}-test = "What testimage needs on a device with provenance"
DESCRIPTION = "edgeprov with its units, configuration, models and state partition, and the interpreter that \
PROVENANCE_RUNTIME names. The -test package adds what testimage needs."
HOMEPAGE = "https://edgeprov.dev/"
BUGTRACKER = "https://edgeprov.dev/issues"
SECTION = "base"
CVE_PRODUCT = ""

PACKAGE_ARCH = "${TUNE_PKGARCH}"

inherit packagegroup provenance_settings features_check

REQUIRED_DISTRO_FEATURES = "systemd tpm2"

PACKAGES = "${PN} ${PN}-test"

def provenance_chosen(d):
    """Packages that depend on a variable: the interpreter, and the guard over updates."""
    import oeprov.settings
    guard = "edgeprov-update-guard " if d.getVar("PROVENANCE_UPDATE_GUARD") == "1" else ""
    return guard + oeprov.settings.RUNTIMES.get(d.getVar("PROVENANCE_RUNTIME"), "")

python () {
    layers = (d.getVar("BBFILE_COLLECTIONS") or "").split()
    if d.getVar("PROVENANCE_RUNTIME") == "tflite-runtime" and "meta-tensorflow-lite" not in layers:
        raise bb.parse.SkipRecipe('PROVENANCE_RUNTIME = "tflite-runtime": needs meta-tensorflow-lite in BBLAYERS')
}

RDEPENDS:${PN} = "\
    ${@provenance_chosen(d)} \
    edgeprov-conf \
    edgeprov-services \
    edgeprov-state \
    provenance-models \
    python3-edgeprov \
"
RDEPENDS:${PN}-test = "\
    ${PN} \
    libtss2-tcti-mssim \
    python3-edgeprov-fleet \
    tpm2-tools \
"
