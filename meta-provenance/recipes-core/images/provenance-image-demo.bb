# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

SUMMARY = "Demonstration: read-only root, A/B slots, state on a data partition"
DESCRIPTION = "A console image whose model is verified and measured at boot. Boots in QEMU with swtpm and on boards \
with a TPM 2.0; what a product image needs beyond core-image-minimal is these lines."
HOMEPAGE = "https://edgeprov.dev/"
BUGTRACKER = "https://edgeprov.dev/issues"
SECTION = "base"
LICENSE = "MIT"
CVE_PRODUCT = ""

IMAGE_FEATURES += "read-only-rootfs ssh-server-openssh"
IMAGE_CLASSES += "provenance_image"

inherit core-image features_check

REQUIRED_DISTRO_FEATURES = "systemd tpm2"
REQUIRED_MACHINE_FEATURES = "tpm2"

IMAGE_INSTALL = "\
    packagegroup-core-boot \
    packagegroup-provenance \
    ${CORE_IMAGE_EXTRA_INSTALL} \
"
IMAGE_LINGUAS = ""
