# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

SUMMARY = "Model kits of this image, pinned by digest"
DESCRIPTION = "The kits that PROVENANCE_MODEL_DIGEST and PROVENANCE_MODEL_LAYOUT name, verified at build time; \
the layer's example as long as nothing else is set."
HOMEPAGE = "https://edgeprov.dev/"
BUGTRACKER = "https://edgeprov.dev/issues"
SECTION = "misc"
# The licence of the models, not of the recipe; the example's is Apache-2.0.
PROVENANCE_MODEL_LICENSE ?= "Apache-2.0"
LICENSE = "${PROVENANCE_MODEL_LICENSE}"
LIC_FILES_CHKSUM ?= "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"
CVE_PRODUCT = ""

PROVENANCE_MODEL_DIGEST ?= "sha256:b46c509d1a7f4a4881658ca41365119bf0542142d813b81acea535efa84e4c0a"
PROVENANCE_MODEL_LAYOUT ?= "example-kit"

inherit provenance_model features_check

REQUIRED_DISTRO_FEATURES = "systemd tpm2"
