# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

# For images: IMAGE_CLASSES += "provenance_image". Looks at the finished root file system of each image
# that installs edgeprov, stops the build when it could not do its work in the field, and writes
# IMAGE.provenance.json (models, signers, trust anchors by hash) beside the image.

inherit provenance_settings

python provenance_check_rootfs() {
    import json
    import os
    import shutil
    import oeprov.settings

    root = d.getVar("IMAGE_ROOTFS")
    lines = oeprov.settings.rootfs_problems(root, provenance_values(d), (d.getVar("IMAGE_FEATURES") or "").split())
    if lines:
        bb.fatal("\n".join(lines))
    if oeprov.settings.is_example(os.path.join(root, "usr/lib/edgeprov/trust.d")):
        bb.warn("PROVENANCE_TRUST_DIR: this image trusts the layer's example publisher: a demonstration, not a product")
    target = os.path.join(d.getVar("IMGDEPLOYDIR"), d.getVar("IMAGE_NAME") + ".provenance.json")
    shutil.copyfile(os.path.join(root, "usr/share/edgeprov/models.json"), target)
}
provenance_check_rootfs[doc] = "Refuses an image without model, trust anchors or a place for state"

ROOTFS_POSTPROCESS_COMMAND += "${@bb.utils.contains_any('IMAGE_INSTALL', 'packagegroup-provenance python3-edgeprov', 'provenance_check_rootfs', '', d)}"

# For the layouts in files/wic. The plug-ins' names lost their hyphens after scarthgap.
PROVENANCE_DATA_SIZE ?= "1G"
PROVENANCE_WIC_EFI_PLUGIN ?= "${@provenance_wic_plugin('bootimg-efi', d)}"
PROVENANCE_WIC_PARTITION_PLUGIN ?= "${@provenance_wic_plugin('bootimg-partition', d)}"

def provenance_wic_plugin(name, d):
    old = "scarthgap" in (d.getVar("LAYERSERIES_CORENAMES") or "").split()
    return name if old else name.replace("-", "_")
