# Sourced by the set-up scripts: installs Debian packages as root or by sudo, else prints the line to type.

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

install_packages() {
    local install="apt-get install -y --no-install-recommends $*"
    local line="apt-get update && $install"
    command -v apt-get >/dev/null || fail "please install: $*"
    local -a as_root=()
    if [[ $(id -u) != 0 ]]; then
        sudo -n true 2>/dev/null || fail "this needs root once. Please type:
    sudo sh -c '$line'
and run the same command again."
        as_root=(sudo -n)
    fi
    printf '%s: installing %s\n' "${0##*/}" "$*"
    # Without an update first: it is slow, and one broken source of the machine's would stop us.
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c "$install 2>/dev/null || { $line; }" >/dev/null ||
        fail "could not install: $*. The line was: $line"
}
