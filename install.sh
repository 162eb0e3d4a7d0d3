#!/bin/sh
# Sets up Style Studio in this folder: ./install.sh [--wheels DIR] [--torch BACKEND] [--uninstall]
#
#   --wheels DIR     take every package from a folder of wheels; nothing is fetched
#   --torch BACKEND  auto (default: what this machine's card needs), cpu, cu130, rocm6.4, xpu, ...
#   --update         fetch the newest version first (in a git checkout), then the same
#   --uninstall      remove what this script made; workspace, runs and styles stay
#
# Needs no administrator and no compiler. Everything lies in this folder, in .venv and .uv. After a
# failed step run it again: what is there is used.
set -u

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd -- "$here" || exit 1
log=$here/.install.log
wheels=
torch=auto
least_free=3000000 # KB: torch for CPUs, the other packages, and room to unpack them

say() { printf '%s\n' "$*"; }

fail() {
    say ""
    say "Not installed: $1"
    say "$2"
    exit 1
}

# step WHAT ADVICE COMMAND...: runs it quietly; what it said is in the log
step() {
    what=$1
    advice=$2
    shift 2
    say "$what ..."
    printf '\n== %s: %s\n' "$what" "$*" >>"$log"
    if ! "$@" >>"$log" 2>&1; then
        tail -n 15 -- "$log"
        fail "$what failed." "$advice All of its output is in $log. Then run ./install.sh again."
    fi
}

while [ $# -gt 0 ]; do
    case $1 in
    --wheels)
        [ $# -ge 2 ] || fail "--wheels needs a folder." "For instance: ./install.sh --wheels /media/usb/wheels"
        [ -d "$2" ] || fail "$2 is no folder." "Give --wheels the folder that holds the .whl files."
        wheels=$(CDPATH='' cd -- "$2" && pwd)
        shift 2
        ;;
    --torch)
        [ $# -ge 2 ] || fail "--torch needs a backend." "For instance: ./install.sh --torch cpu"
        torch=$2
        shift 2
        ;;
    --update)
        command -v git >/dev/null 2>&1 && [ -d .git ] ||
            fail "this folder is no git checkout, so there is nothing to update from." \
                "Download the newest version, unpack it over this folder, and run ./install.sh"
        : >"$log"
        step "Fetching the newest version" "Look whether files of the program were changed (git status)." \
            git pull --ff-only
        shift
        ;;
    --uninstall)
        rm -rf -- .venv .uv .install.log style_studio.egg-info
        say "Removed .venv and .uv. Your workspace, runs and styles are still here; delete this folder"
        say "to remove everything. uv keeps what it fetched for other programs: uv cache clean."
        exit 0
        ;;
    -h | --help)
        sed -n '2,10p' -- "$0" | sed 's/^# \{0,1\}//'
        exit 0
        ;;
    *) fail "$1 is not known." "./install.sh --help lists what is." ;;
    esac
done

[ -f pyproject.toml ] && [ -f constraints.txt ] ||
    fail "pyproject.toml or constraints.txt is missing beside install.sh." \
        "Unpack the whole download, and run the install.sh inside it."
[ -w . ] || fail "$here cannot be written to." "Move the folder to where you may write, for instance your home folder."
case "$(uname -s) $(uname -m)" in
'Darwin x86_64')
    fail "there is no torch for Macs with an Intel processor." \
        "On a Mac with an Apple chip, open a terminal that does not run under Rosetta; otherwise take another machine."
    ;;
*x86_64 | *amd64 | *arm64 | *aarch64) ;;
*) fail "there is no torch for a $(uname -m) processor." "A 64-bit Intel, AMD or ARM processor and system are needed." ;;
esac
# Where the system does not say, the installation finds out
case $(uname -s) in
Darwin)
    mac=$(sw_vers -productVersion 2>/dev/null || echo 14)
    [ "${mac%%.*}" -ge 14 ] || fail "this is macOS $mac, and torch needs 14 or newer." "Update macOS."
    ;;
Linux)
    libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || ls /lib/ld-musl-* 2>/dev/null || echo glibc 2.28)
    case $libc in
    glibc\ 2.?|glibc\ 2.[01]?|glibc\ 2.2[0-7]) fail "this system has $libc, and torch needs 2.28 or newer." "Update the system." ;;
    glibc*) ;;
    *) fail "this system has no glibc (Alpine has not), and there is no torch without." "Take another Linux, or a container: docs/containers.md" ;;
    esac
    ;;
esac
[ "$(getconf LONG_BIT 2>/dev/null || echo 64)" != 32 ] ||
    fail "there is no torch for a 32-bit system." "Install a 64-bit system on this machine."
free=$(df -Pk . | awk 'NR == 2 { print $4 }')
if [ ! -f .venv/.installed ] && [ "${free:-$least_free}" -lt "$least_free" ]; then
    fail "only $((free / 1000)) MB are free on this disk." \
        "Free $((least_free / 1000)) MB for a CPU, or about 12000 MB for a graphics card."
fi
: >"$log"

# uv: one that is there, one from the wheels, one by pip, or its own installer
uv=
for candidate in "$(command -v uv 2>/dev/null)" "$here/.uv/bin/uv" "$HOME/.local/bin/uv"; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
        uv=$candidate
        break
    fi
done
if [ -z "$uv" ]; then
    uv=$here/.uv/bin/uv
    if command -v python3 >/dev/null 2>&1 && python3 -m venv --help >/dev/null 2>&1 &&
        python3 -m venv .uv >>"$log" 2>&1; then
        if [ -n "$wheels" ]; then set -- --no-index --find-links "$wheels"; else set --; fi
        step "Fetching uv, which installs the rest" "Look at the network, or put a uv wheel into the folder of wheels." \
            .uv/bin/python -m pip install --quiet "$@" uv
    elif [ -n "$wheels" ]; then
        fail "uv is not installed, and no python3 that could unpack it." \
            "Install Python 3.11 or newer (with venv), or uv: https://docs.astral.sh/uv/"
    else
        rm -rf .uv
        command -v curl >/dev/null 2>&1 ||
            fail "neither uv, python3 with venv, nor curl is here." \
                "Install one of them; the shortest is uv: https://docs.astral.sh/uv/"
        # shellcheck disable=SC2016 # the inner shell expands it
        step "Fetching uv, which installs the rest" "Look at the network, or at the proxy (HTTPS_PROXY)." \
            sh -c 'curl -LsSf https://astral.sh/uv/install.sh | env UV_INSTALL_DIR="$1" UV_NO_MODIFY_PATH=1 sh' \
            sh "$here/.uv/bin"
    fi
fi

if [ ! -x .venv/bin/python ]; then
    rm -rf .venv
    step "Making the environment .venv" "Python 3.11 to 3.14 is needed; uv fetches one if the network lets it." \
        "$uv" venv --quiet --python '>=3.11,<3.15' .venv
fi
step "Looking at its Python" "Delete the folder .venv, and install a 64-bit Python 3.11 to 3.14." \
    .venv/bin/python -c 'import training'
rm -f .venv/.installed
if [ -n "$wheels" ]; then
    set -- --offline --no-index --find-links "$wheels"
else
    set -- --torch-backend "$torch"
fi
step "Installing Style Studio (some hundred MB for a CPU, some GB for a graphics card)" \
    "Look at the network, the proxy (HTTPS_PROXY) and the free space." \
    "$uv" pip install --python .venv/bin/python --quiet "$@" -c constraints.txt -e .
step "Trying it" "A package is missing or does not fit this machine." \
    .venv/bin/python -m studio --help
: >.venv/.installed
say ""
say "Installed. ./start.sh opens the page; .venv/bin/style-studio doctor says what works here."
