#!/bin/sh
# Is all there that the build needs? Quiet when it is. When not: on Debian and its kin prints the apt-get line and runs
# it, elsewhere names the packages and stops. CC, BACKEND and MPI come from make.
set -eu
: "${CC:=gcc}" "${BACKEND:=onednn}" "${MPI:=0}"

# header package
needs='stdio.h libc6-dev
zlib.h zlib1g-dev
zstd.h libzstd-dev
jansson.h libjansson-dev
xxhash.h libxxhash-dev
zip.h libzip-dev
libdeflate.h libdeflate-dev
curl/curl.h libcurl4-openssl-dev
openssl/evp.h libssl-dev'
[ "$BACKEND" = onednn ] && needs="$needs
oneapi/dnnl/dnnl.h libdnnl-dev"
case $CC in *clang*) needs="$needs
omp.h libomp-dev" ;; esac

has() { printf '#include <%s>\n' "$1" | $CC -E -xc -o /dev/null - 2> /dev/null; }

all_headers=$(printf '%s\n' "$needs" | sed 's/ .*//; s/.*/#include <&>/')
missing=
command -v zstd > /dev/null || missing=zstd
if [ "$MPI" = 1 ]; then
    command -v mpicc > /dev/null || missing="$missing libopenmpi-dev"
    command -v mpirun > /dev/null || missing="$missing openmpi-bin"
fi
command -v "${CC%% *}" > /dev/null || missing="$missing ${CC%% *}"
if ! printf '%s\n' "$all_headers" | $CC -E -xc -o /dev/null - 2> /dev/null; then
    while read -r header package; do
        has "$header" || missing="$missing $package"
    done << EOF
$needs
EOF
fi
[ -z "$missing" ] && exit 0

missing=$(echo $missing)
if ! command -v apt-get > /dev/null; then
    echo "Missing, by their names in Debian: $missing. Install them, then run make again." >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo > /dev/null; then
    as_root='sudo '
else
    echo "Missing: $missing. As root: apt-get update && apt-get install -y $missing" >&2
    exit 1
fi
echo "${as_root}apt-get update && ${as_root}apt-get install -y $missing" >&2
${as_root}apt-get -q update >&2 && ${as_root}env DEBIAN_FRONTEND=noninteractive apt-get install -q -y $missing >&2
