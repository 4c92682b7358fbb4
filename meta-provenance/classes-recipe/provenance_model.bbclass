# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

# Bakes model kits into the image: one read-only OCI layout in ${datadir}/edgeprov/models, each slot's
# model pinned by digest, everything verified at build time with edgeprov itself against the very trust
# anchors that go into the image. One recipe per image bakes all slots. Example:
#
#   PROVENANCE_MODEL_DIGEST = "sha256:<64 hex digits>"       # of the kit's manifest; the pin
#   PROVENANCE_MODEL_LAYOUT = "/srv/models/defects"          # an OCI layout with the kit and its
#                                                            # signatures: oras copy -r --to-oci-layout
# Several slots:
#
#   PROVENANCE_SLOTS = "camera audio"
#   PROVENANCE_MODEL_DIGEST[camera] = "sha256:..."
#   PROVENANCE_MODEL_LAYOUT[camera] = "/srv/models/defects"
#   PROVENANCE_MODEL_DIGEST[audio] = "sha256:..."
#   PROVENANCE_MODEL_LAYOUT[audio] = "/srv/models/bearings"
#
# A layout is a folder or a tar archive of one: an absolute path, or a name that the recipe's
# FILESEXTRAPATHS finds. Optional: PROVENANCE_MODEL_URI, the registry path (no tag) that goes into the
# SBOM; PROVENANCE_BAKE_AT, the time (seconds since 1970) at which certificates are judged, default now.

inherit provenance_settings python3native allarch

PROVENANCE_MODEL_DIGEST ?= ""
PROVENANCE_MODEL_LAYOUT ?= ""
PROVENANCE_MODEL_URI ?= ""
PROVENANCE_BAKE_AT ?= ""
PROVENANCE_BAKE_PYTHON ?= "${PYTHON}"

DEPENDS += "python3-edgeprov-native"

FILESEXTRAPATHS:prepend := "${PROVENANCE_LAYERDIR}/files:"
SRC_URI += "${@provenance_model_uris(d)} file://${PROVENANCE_TRUST_DIR};subdir=trust"

INHIBIT_DEFAULT_DEPS = "1"

S = "${UNPACKDIR}"
B = "${WORKDIR}/baked"

# Read by SPDX 3.0 (wrynose); scarthgap's SPDX 2.2 takes version and licence.
# nooelint: oelint.vars.mispell.unknown
SPDX_PACKAGE_ADDITIONAL_PURPOSE = "model"
# New in wrynose as well.
# nooelint: oelint.vars.mispell.unknown
SPDX_PACKAGE_URLS =+ "${@provenance_model_purls(d)}"

def provenance_model_flags(d):
    """Slot to (digest, layout), as set by varflags."""
    digests = d.getVarFlags("PROVENANCE_MODEL_DIGEST") or {}
    layouts = d.getVarFlags("PROVENANCE_MODEL_LAYOUT") or {}
    own = ("doc", "type", "vardeps", "vardepsexclude", "vardepvalue", "vardepvalueexclude", "export", "unexport")
    names = {name for name in (*digests, *layouts) if name not in own and not name.startswith("_")}
    return {
        name: tuple(
            d.getVarFlag(variable, name) for variable in ("PROVENANCE_MODEL_DIGEST", "PROVENANCE_MODEL_LAYOUT")
        )
        for name in names
    }

def provenance_models(d):
    """Slot to (digest, layout), whichever way it was set."""
    import oeprov.settings
    flags = provenance_model_flags(d)
    digest, layout = d.getVar("PROVENANCE_MODEL_DIGEST"), d.getVar("PROVENANCE_MODEL_LAYOUT")
    slots = (d.getVar("PROVENANCE_SLOTS") or "").split()
    return {slot: oeprov.settings.model_of(slot, flags, digest, layout) for slot in slots}

def provenance_model_uris(d):
    return " ".join("file://%s;subdir=kits/%s" % (layout, slot) for slot, (_, layout) in provenance_models(d).items() if layout)

def provenance_model_purls(d):
    uri = d.getVar("PROVENANCE_MODEL_URI")
    name = uri.rsplit("/", 1)[-1] or d.getVar("BPN")
    where = "?repository_url=" + uri if uri else ""
    return "".join("pkg:oci/%s@%s%s " % (name, digest.replace(":", "%3A"), where) for digest, _ in provenance_models(d).values())

python () {
    import oeprov.settings
    lines = oeprov.settings.model_problems(
        d.getVar("PROVENANCE_SLOTS"),
        provenance_model_flags(d),
        d.getVar("PROVENANCE_MODEL_DIGEST"),
        d.getVar("PROVENANCE_MODEL_LAYOUT"),
    )
    for line in lines:
        raise bb.parse.SkipRecipe(line)
}

do_configure[noexec] = "1"

python do_compile() {
    import json
    import os
    import subprocess
    import time
    import oeprov.settings

    trust = oeprov.settings.unpacked(os.path.join(d.getVar("UNPACKDIR"), "trust"), d.getVar("PROVENANCE_TRUST_DIR"))
    line = oeprov.settings.trust_problem(trust)
    if line:
        bb.fatal(line)
    library = os.path.join(d.getVar("PROVENANCE_LAYERDIR"), "lib")
    command = [
        d.getVar("PROVENANCE_BAKE_PYTHON"), "-m", "oeprov.bake", "--trust", trust,
        "--at", d.getVar("PROVENANCE_BAKE_AT") or str(int(time.time())), "--out", os.path.join(d.getVar("B"), "models"),
    ]
    for slot, (digest, _) in provenance_models(d).items():
        command.append("%s=%s@%s" % (slot, os.path.join(d.getVar("UNPACKDIR"), "kits", slot), digest))
    run = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": library, "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True
    )
    if run.returncode != 0:
        bb.fatal((run.stderr.strip() or "the bake ended with status %d" % run.returncode).splitlines()[-1])
    report = json.loads(run.stdout.splitlines()[-1])
    with open(os.path.join(d.getVar("B"), "models.json"), "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2, sort_keys=True)
        file.write("\n")
    for slot, model in report["models"].items():
        bb.note("slot %s: %s, signed by %s" % (slot, model["digest"], model["signer"]))
    with open(os.path.join(d.getVar("B"), "20-models.toml"), "w", encoding="utf-8") as file:
        file.write("[device]\nslots = %s\n" % json.dumps(list(report["models"])))
}
do_compile[doc] = "Verifies the pinned model kits and writes them to one OCI layout"
do_compile[cleandirs] = "${B}"
do_compile[vardeps] += "PROVENANCE_MODEL_DIGEST PROVENANCE_MODEL_LAYOUT"
do_compile[file-checksums] += "${PROVENANCE_LAYERDIR}/lib/oeprov/bake.py:True"

do_install() {
    install -d ${D}${datadir}/edgeprov ${D}${nonarch_libdir}/edgeprov/edgeprov.toml.d
    cp -R --no-dereference --preserve=mode,timestamps ${B}/models ${D}${datadir}/edgeprov/models
    chown -R root:root ${D}${datadir}/edgeprov/models
    install -m 0444 ${B}/models.json ${D}${datadir}/edgeprov/models.json
    install -m 0644 ${B}/20-models.toml ${D}${nonarch_libdir}/edgeprov/edgeprov.toml.d/20-models.toml
}

FILES:${PN} += "${datadir}/edgeprov ${nonarch_libdir}/edgeprov"
RDEPENDS:${PN} += "edgeprov-conf"
