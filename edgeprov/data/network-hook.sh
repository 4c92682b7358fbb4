#!/bin/sh
# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
#
# When a link comes up: notes whether it is metered, and asks for an upload. To be installed, executable, as
#   /usr/lib/NetworkManager/dispatcher.d/50-edgeprov            (called with INTERFACE ACTION)
#   /usr/lib/networkd-dispatcher/routable.d/50-edgeprov         (called with IFACE and STATE set)
# upload.metered in the configuration decides what the note means. EDGEPROV_RUN replaces the folder in tests.
set -u

run=${EDGEPROV_RUN:-/run/edgeprov}
interface=${1:-${IFACE:-}}
action=${2:-${STATE:-}}

case $action in
up | vpn-up | connectivity-change | dhcp4-change | dhcp6-change | routable) ;;
*) exit 0 ;;
esac
[ -d "$run" ] || exit 0

# The link that carries the traffic counts, not the one that this call is about.
default=$(ip -o route show default 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)
interface=${default:-$interface}

metered=$(nmcli -g GENERAL.METERED device show "$interface" 2>/dev/null) || metered=
case $metered in
yes*) metered=yes ;; # also "yes (guessed)"
no*) metered=no ;;
*)
  # Nobody says: mobile radio costs money as a rule, a cable does not.
  case $interface in
  wwan* | wwp* | ppp* | rmnet*) metered=yes ;;
  *) metered=no ;;
  esac
  ;;
esac

umask 022
echo "$metered" >"$run/metered.new" && mv -f "$run/metered.new" "$run/metered"
[ -d "$run/trigger" ] && touch "$run/trigger/upload"
exit 0
