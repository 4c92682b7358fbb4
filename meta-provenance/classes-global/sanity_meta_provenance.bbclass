# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

# One warning, at parse time, for who adds the layer and forgets to switch it on.
# SKIP_META_PROVENANCE_SANITY_CHECK = "1" silences it.

addhandler provenance_sanity_handler
provenance_sanity_handler[eventmask] = "bb.event.SanityCheck"
python provenance_sanity_handler() {
    if bb.utils.to_boolean(d.getVar("SKIP_META_PROVENANCE_SANITY_CHECK")):
        return
    if "provenance" not in (d.getVar("DISTRO_FEATURES") or "").split():
        bb.warn("DISTRO_FEATURES has no 'provenance': meta-provenance is in BBLAYERS, but the kernel gets no "
                "options from it. Add 'provenance tpm2', or set SKIP_META_PROVENANCE_SANITY_CHECK = \"1\".")
}
