# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Shared by the scripts of this tree, which source it in the top folder with `me` set to their name in messages:
# help, messages, Ctrl-C, packages, environments of Python, and the environment in which tests run.

# The comment at the head of the script, which ends at its first empty line.
usage() { sed -n '5,/^$/s/^#$\|^# //p' "$0"; }
say() { clear_line; if [ -t 2 ]; then printf '\033[2m%s: %s\033[0m\n' "$me" "$*" >&2; else printf '%s: %s\n' "$me" "$*" >&2; fi; }
die() { clear_line; printf '%s: %s\n' "$me" "$*" >&2; exit 1; }
wrong() { printf '%s: %s; see --help\n' "$me" "$*" >&2; exit 2; }
clear_line() { [ ! -t 2 ] || printf '\r\033[K' >&2; }

# Logs, and the temporary folder of all that is started here: gone when the script ends, however that comes. Beside that
# of a script which called this one, not in it: a path to a socket has 107 bytes.
scratch=${TMPDIR:-/tmp}
scratch=$(mktemp -d "${scratch%/ep-??????/t}/ep-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch/t
mkdir "$TMPDIR"
exec {never}<> <(:) # nothing ever comes from here, so a read with a time limit is a sleep that a signal ends

# Ctrl-C reaches this shell alone: what takes time runs in a session of its own (`attended`), where it gets SIGTERM.
child=
stop() { # exit code [word]
    trap '' INT TERM
    if [ -n "$child" ]; then
        kill -TERM -- "-$child" 2>/dev/null || kill -TERM "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    clear_line
    [ -z "${2-}" ] || printf '%s: %s\n' "$me" "$2" >&2
    exit "$1"
}
trap 'stop 130 interrupted' INT
trap 'stop 143' TERM # from the script that called this one, which says it

attended() { # command...
    local code=0
    setsid -- "$@" </dev/null &
    child=$!
    wait "$child" || code=$?
    child=
    return "$code"
}

# As attended, with the output in a log, and the time and the log's last line shown: on a terminal each second,
# elsewhere now and then.
watched() { # title log command...
    local title=$1 log=$2 code=0 start=$SECONDS last
    shift 2
    say "$title"
    setsid -- "$@" </dev/null >"$log" 2>&1 &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        read -rt 1 <&"$never" || true
        last=$(tail -n 1 "$log" | tr -cd '[:print:]' | sed 's/^ *//' | cut -c 1-50)
        if [ -t 2 ]; then
            printf '\r\033[K\033[2m%4d s  %s\033[0m' $((SECONDS - start)) "$last" >&2
        elif (((SECONDS - start) % 20 == 19)); then
            printf '%s: %d s  %s\n' "$me" $((SECONDS - start)) "$last" >&2
        fi
    done
    wait "$child" || code=$?
    child=
    clear_line
    return "$code"
}

# The end of a log whose command failed, and in one line the reason where the log names a known one.
failed() { # log message
    local no_network
    clear_line
    no_network=$(grep -m 1 -iE 'resolv|Name or service not known|unreachable|timed out|refused|NewConnection|Could not connect' "$1" || true)
    [ -z "$no_network" ] || die "$2, for the network does not lead there: ${no_network:0:200}"
    tail -n 15 "$1" | sed 's/^/    /' >&2
    die "$2"
}

# Tests see nothing of the caller's environment but this, and LG_*, by which hil/run tells the bench what it tests:
# LANG, PYTHON*, PIP_* and SSL_* once decided whether they pass.
kept=(
    PATH                                                # where programs are
    HOME XDG_CACHE_HOME                                 # where tests/peers/install built the peers
    CI                                                  # true: a missing peer is a failure, not a skip
    EDGEPROV_CRASH EDGEPROV_SCREENSHOTS HYPOTHESIS_PROFILE # switches of the tests themselves
    OPENBLAS_CORETYPE OPENBLAS_L2_SIZE                  # some processors need them for right results of numpy's BLAS
)
scrubbed() { # command...
    local name values=("TMPDIR=$TMPDIR")
    for name in "${kept[@]}" "${!LG_@}"; do [ -z "${!name+set}" ] || values+=("$name=${!name}"); done
    # A plain user's PATH lacks the folders of nginx and mkfs.
    attended env -i "${values[@]}" PATH="$PATH:/usr/sbin:/sbin" "$@"
}

# --- system packages

# Names of packages that are not here; one that another package provides is (libtss2-tcti-device0 since Debian 13).
missing_packages() { # names...
    dpkg-query -W -f '${db:Status-Status} ${Package} ${Provides}\n' 2>/dev/null |
        sed -n 's/^installed //; t keep; d; :keep; s/ *([^)]*)//g; s/, */ /g; p' | tr ' ' '\n' | sort -u >"$scratch/installed"
    printf '%s\n' "$@" | grep -vxFf "$scratch/installed" || true
}

# apt-get as root; through sudo in the foreground, where it can ask for a password and gets Ctrl-C itself.
apt_get() { # title log arguments...
    local title=$1 log=$2
    shift 2
    # RUNLEVEL=1 keeps Debian from starting docker-registry and nginx as services of their own.
    local command=(env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive "$@")
    if [ "$(id -u)" -eq 0 ]; then
        watched "$title" "$log" "${command[@]}"
        return
    fi
    say "$title"
    local code=0
    sudo "${command[@]}" >"$log" 2>&1 || code=$?
    # sudo has a terminal of its own for the command: then this shell sees Ctrl-C only by what it did.
    if [ "$code" -eq 130 ] || grep -q 'Operation was interrupted' "$log"; then stop 130 interrupted; fi
    return "$code"
}

may_install() { # names...
    command -v apt-get >/dev/null || die "needs $*, and this is not a Debian system: install them and run again"
    [ "$(id -u)" -ne 0 ] || return 0
    local as_root="run 'apt-get install $*' as root, then this again"
    command -v sudo >/dev/null || die "needs packages, and there is no sudo: $as_root"
    sudo -n true 2>/dev/null && return
    # Only a person at a terminal can be asked for the password.
    { : </dev/tty; } 2>/dev/null || die "needs packages, and there is no terminal where sudo could ask for a password: $as_root"
    sudo -v || die "needs packages, and sudo refused: $as_root"
}

install_packages() { # names...
    local missing options=(-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -q)
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    may_install "${missing[@]}"
    # A mirror that cannot be reached is a warning to apt: only where it reached none, there is no use in going on.
    apt_get "reading the lists of packages" "$scratch/apt" env LC_ALL=C apt-get "${options[@]}" update &&
        grep -qE '^(Get|Hit):' "$scratch/apt" || failed "$scratch/apt" "apt-get update failed"
    cp "$scratch/apt" "$scratch/lists"
    # Where no Python is here yet, the one that would come is looked at before anything is installed.
    [ -n "$python" ] || python_would_fit || failed "$scratch/apt" "needs $python_wanted, and apt would install $(apt_python)"
    apt_get "installing ${missing[*]}" "$scratch/apt" sh -c 'dpkg --configure -a && exec apt-get "$@"' \
        apt-get "${options[@]}" install -y --no-install-recommends "${missing[@]}" || {
        cat "$scratch/apt" >>"$scratch/lists"
        failed "$scratch/lists" "apt-get could not install ${missing[*]}"
    }
}

# --- Python

# Only of /usr/bin: tpm2-pytss is compiled against the headers of Debian's Python. The lock files serve these versions.
python_wanted='Python 3.11, 3.12 or 3.13 in /usr/bin'
python=
fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if /usr/bin/"$candidate" -I -c "$fits" 2>/dev/null; then
            python=/usr/bin/$candidate
            return
        fi
    done
    [ ! -x /usr/bin/python3 ] || die "needs $python_wanted, not $(/usr/bin/python3 -V); one elsewhere (pyenv, conda) is not used"
}
apt_python() { LC_ALL=C apt-cache policy python3 2>/dev/null | sed -n 's/^ *Candidate: /Python /p' | grep . || echo none; }
python_would_fit() { [[ $(apt_python) =~ ^Python\ 3\.1[123]\. ]]; }

# .venv/NAME from a lock file with hashes; `editable` adds this tree, without build isolation: every byte is in the lock.
make_environment() { # name lock [editable]
    local name=$1 lock=$2 home=.venv/$1 wanted tree stamped
    wanted="$(sha256sum <"$lock") $("$python" -V)"
    tree=$(sha256sum <pyproject.toml)
    stamped=$(cat "$home/stamp" 2>/dev/null || true)
    [ "$stamped" != "$wanted $tree" ] || return 0
    if [ "${stamped#"$wanted"}" = "$stamped" ]; then
        if [[ $stamped != *"$("$python" -V)"* || ! -x $home/bin/pip ]]; then
            attended "$python" -I -m venv --clear "$home" || die "no Python environment in $home"
        fi
        watched "making the $name environment in $home ($(grep -c '^[a-z].*==' "$lock") packages, once)" "$scratch/pip" \
            "$home/bin/pip" install --disable-pip-version-check --progress-bar off --require-hashes -r "$lock" ||
            failed "$scratch/pip" "pip could not install $lock"
    fi
    if [ "${3-}" = editable ]; then
        attended "$home/bin/pip" install -q --disable-pip-version-check --no-deps --no-build-isolation -e . \
            >"$scratch/pip" 2>&1 || failed "$scratch/pip" "pip could not install this tree"
    fi
    echo "$wanted $tree" >"$home/stamp"
}

# --- all of it

set_up() { # demo | tests | readers | hil
    find_python
    local version=${python##*/}
    # tpm2-pytss has no wheel: it is compiled against libtss2. swtpm stands in for a TPM.
    local packages=("${version:-python3}" "${version:-python3}-venv" "${version:-python3}-dev" gcc pkg-config
        libtss2-dev libtss2-tcti-device0 swtpm openssl ca-certificates docker-registry)
    case $1 in
    tests)
        packages+=(g++ git iproute2 procps swtpm-tools tpm2-tools softhsm2 opensc nginx-light strace e2fsprogs skopeo
            systemd chromium fonts-dejavu-core)
        ;;
    bench) packages=("${version:-python3}" "${version:-python3}-venv") ;;
    hil)
        packages+=(systemd qemu-system-x86 qemu-utils mmdebstrap e2fsprogs cpio kmod swtpm-tools tpm2-tools openssh-client)
        [ "${2-amd64}" = amd64 ] || packages+=(qemu-system-arm gcc-aarch64-linux-gnu)
        ;;
    esac
    install_packages "${packages[@]}"
    find_python
    case $1 in
    bench) make_environment hil hil/requirements.lock ;;
    readers) make_environment readers tests/fleet/readers/requirements.lock editable ;;
    *)
        make_environment device requirements-device.lock editable
        make_environment fleet requirements-fleet.lock editable
        # Each environment keeps its own program only: with both on the PATH, neither hides the one with its packages.
        rm -f .venv/device/bin/edgeprov-fleet .venv/fleet/bin/edgeprov
        ;;
    esac
}
