#!/bin/sh
# Installs the system packages that building (build), testing (tests, arm) or running what was built
# elsewhere (run) need, saying first what and why. Does nothing where they are there. On systems
# without apt it names what to install.
set -eu

list() {
    case $1 in
    build) cat <<END
gcc the C compiler
make runs the build
libc6-dev the C library's headers
libmicrohttpd-dev the HTTP server
libjansson-dev reads and writes JSON
libmsgpack-dev writes the tensors' frames
python3 the client's language
python3-venv keeps the client's packages inside this tree
curl the scripts in clients/curl
END
    ;;
    run) cat <<END
libmicrohttpd12 the HTTP server
libjansson4 reads and writes JSON
libmsgpackc2 writes the tensors' frames
END
    ;;
    tests) cat <<END
libcmocka-dev the C unit tests
g++ the CUDA backend on an emulated device
clang the fuzzers and a second compiler's opinion
libclang-rt-dev what fuzzers and sanitizers run on
git the checks of the tree
END
    ;;
    arm) cat <<END
gcc-aarch64-linux-gnu programs for 64-bit ARM
libc6-dev-arm64-cross their C library
qemu-user-static runs them
END
    ;;
    esac
}

installed() {
    dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'
}

wanted=$(for group in "$@"; do list "$group"; done)
if ! command -v apt-get >/dev/null 2>&1; then
    for tool in cc make python3 curl; do
        command -v $tool >/dev/null 2>&1 || missing="${missing:-} $tool"
    done
    for header in microhttpd.h jansson.h msgpack.h; do
        echo "#include <$header>" | cc -E -x c - >/dev/null 2>&1 || missing="${missing:-} <$header>"
    done
    [ -z "${missing:-}" ] && exit 0
    echo "Missing:$missing. This system has no apt-get; install these by its own means" >&2
    echo "(macOS: brew install libmicrohttpd jansson msgpack cmocka; Fedora: dnf install" >&2
    echo "libmicrohttpd-devel jansson-devel msgpack-devel libcmocka-devel; Arch: pacman -S" >&2
    echo "libmicrohttpd jansson msgpack-c cmocka), then run make again. What each is for:" >&2
    echo "$wanted" | sed 's/^/  /' >&2
    exit 1
fi

missing=$(echo "$wanted" | while read -r package why; do installed "$package" || echo "$package"; done)
# A Python that is not Debian's brings its own venv module.
if python3 -c 'import ensurepip, venv' 2>/dev/null; then
    missing=$(echo "$missing" | grep -vx -e python3 -e python3-venv || test $? = 1)
fi
[ -z "$missing" ] && exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
    sudo=sudo
    command -v sudo >/dev/null 2>&1 || {
        echo "Not root and no sudo: ask an administrator to run: apt-get install" $missing >&2
        exit 1
    }
fi
echo "Installing with ${sudo:+sudo }apt-get what is missing:"
echo "$wanted" | while read -r package why; do
    echo "$missing" | grep -qx "$package" && printf '  %-18s %s\n' "$package" "$why" || :
done
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
{ $sudo apt-get update -q && $sudo apt-get install -q -y --no-install-recommends $missing; } >"$log" 2>&1 || {
    cat "$log" >&2
    rm -f "$log"
    exit 1
}
rm -f "$log"
