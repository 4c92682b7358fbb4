# Nothing changes, not even a signature, while the feature is off.
require ${@bb.utils.contains('DISTRO_FEATURES', 'provenance', 'linux-yocto_provenance.inc', '', d)}
