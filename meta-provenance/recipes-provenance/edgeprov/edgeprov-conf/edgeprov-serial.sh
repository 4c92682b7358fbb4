#!/bin/sh
# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT
#
# Writes this device's serial number where edgeprov's configuration looks for it. The number names the
# device in every kit and certificate, so a wrong one must not be made up: no number, no file, exit 1.
#   serial auto|dmi|devicetree|machine-id|file:/path
# auto: the device tree, else DMI. Not machine-id: an image with a read-only root makes a new one at each boot.
# SERIAL_ROOT stands before every path, for tests. The fillers and the grammar are those of edgeprov/formats/names.py.
set -eu
LC_ALL=C
export LC_ALL

source=${1:?which source}
root=${SERIAL_ROOT:-}
target=$root/run/edgeprov/edgeprov.toml.d

read_number() {
    case $1 in
    dmi) tr -d '\0' <"$root/sys/class/dmi/id/product_serial" ;;
    devicetree) tr -d '\0' <"$root/proc/device-tree/serial-number" ;;
    machine-id) cat "$root/etc/machine-id" ;;
    file:*) cat "$root${1#file:}" ;;
    *) echo "serial: unknown source $1" >&2 && return 1 ;;
    esac
}

# What makers leave where a serial number should be: compared by letters and digits, in lower case.
filler() {
    letters=$(printf '%s' "$1" | tr 'A-Z' 'a-z' | tr -cd 'a-z0-9')
    case $letters in
    "" | tobefilledbyoem | tobefilled | filledbyoem | defaultstring | default | systemserialnumber | serialnumber) return 0 ;;
    systemserial | chassisserialnumber | baseboardserialnumber | notspecified | notapplicable | notavailable) return 0 ;;
    notset | notdefined | unspecified | undefined | unknown | invalid | none | null | na | nil | empty) return 0 ;;
    oem | sn | serial | test | 0123456789 | 123456789 | 1234567890 | 12345678 | 01234567 | 012345678 | 1234567) return 0 ;;
    0123456789abcdef | 123456789abcdef) return 0 ;;
    esac
    first=$(printf '%.1s' "$letters")
    [ -z "$(printf '%s' "$letters" | tr -d "$first")" ]
}

valid() {
    case $1 in
    "" | [!A-Za-z0-9]* | *[!A-Za-z0-9_-]*) return 1 ;;
    esac
    [ ${#1} -le 48 ]
}

refuse() {
    echo "serial: $1; write [device] serial into /etc/edgeprov/edgeprov.toml.d/10-serial.toml" >&2
    exit 1
}

case $source in
auto) sources="devicetree dmi" ;;
*) sources=$source ;;
esac
for one in $sources; do
    number=$(read_number "$one" 2>/dev/null | head -n 1 | sed 's/^[[:space:]]*//; s/[[:space:]]*$//') || continue
    if filler "$number"; then
        continue
    fi
    # A number that does not fit is this device's own: to change it, or to take another source, would make one up.
    valid "$number" ||
        refuse "$one gives a number that is not 1 to 48 letters, digits, _ or -, the first a letter or digit"
    mkdir -p "$target"
    printf '[device]\nserial = "%s"\n' "$number" >"$target/.10-serial.toml.new"
    chmod 0644 "$target/.10-serial.toml.new"
    mv "$target/.10-serial.toml.new" "$target/10-serial.toml"
    exit 0
done
refuse "$source gives no serial number, or one that makers leave as a filler"
