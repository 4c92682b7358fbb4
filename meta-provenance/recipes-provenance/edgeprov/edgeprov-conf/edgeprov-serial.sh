#!/bin/sh
# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT
#
# Writes this device's serial number where edgeprov's configuration looks for it. The number names the
# device in every kit and certificate, so a wrong one must not be made up: no number, no file, exit 1.
#   serial auto|dmi|devicetree|machine-id|file:/path
# SERIAL_ROOT stands before every path, for tests.
set -eu

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

valid() {
    case $1 in
    "" | *[!A-Za-z0-9_-]* | 0 | None | Default* | To-be* | Not-Specified) return 1 ;;
    esac
    [ ${#1} -le 48 ]
}

case $source in
auto) sources="devicetree dmi machine-id" ;;
*) sources=$source ;;
esac
for one in $sources; do
    number=$(read_number "$one" 2>/dev/null | head -n 1 | tr -d ' \t\r\n') || continue
    if valid "$number"; then
        mkdir -p "$target"
        printf '[device]\nserial = "%s"\n' "$number" >"$target/.10-serial.toml.new"
        chmod 0644 "$target/.10-serial.toml.new"
        mv "$target/.10-serial.toml.new" "$target/10-serial.toml"
        exit 0
    fi
done
echo "serial: $source gives no serial number (1 to 48 of A-Z, a-z, 0-9, _ and -);" \
    "write [device] serial into /etc/edgeprov/edgeprov.toml.d/10-serial.toml" >&2
exit 1
