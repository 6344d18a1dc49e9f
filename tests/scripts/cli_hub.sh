#!/bin/sh
# download, without a network: from a cache made by hand, and what it refuses. tests/oracle/test_hub.py has a server.
. tests/script.sh
unset HF_HOME HF_HUB_CACHE HUGGINGFACE_HUB_CACHE XDG_CACHE_HOME HF_TOKEN HF_TOKEN_PATH HF_ENDPOINT
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1
commit=0123456789abcdef0123456789abcdef01234567

# A repository models--org--name in the cache, with the file $2 of content $3.
cached() {
    storage=$HF_HOME/hub/$1
    mkdir -p "$storage/blobs" "$storage/refs" "$storage/snapshots/$commit"
    printf '%s' "$3" > "$storage/blobs/1234"
    printf %s "$commit" > "$storage/refs/main"
    ln -s ../../blobs/1234 "$storage/snapshots/$commit/$2"
}
cached models--org--name a.txt content
cached datasets--org--data b.txt content

succeeds 'a file' download org/name a.txt
check 'its path' test "$(cat "$(cat "$work/out")")" = content
succeeds 'a repository' download org/name --revision main
check 'its file' wrote "/models--org--name/snapshots/$commit/a.txt"
succeeds 'a data set as JSON' download --dataset org/data b.txt --json --quiet
check 'keys' keys file path commit
succeeds 'a commit' download "org/name@$commit" a.txt --seed 1 --threads 1 --verbose

refuses 1 'HF_HUB_OFFLINE is set' download org/name c.txt
refuses 1 'HF_HUB_OFFLINE is set' download org/name@v2
refuses 1 'HF_HUB_OFFLINE is set' download org/data b.txt
refuses 2 "'a/b/c' is no id of the Hub" download a/b/c
refuses 2 "'../a' is no name of a file" download org/name ../a
refuses 2 'names one revision' download org/name@a --revision b
refuses 2 "'' is no revision" download org/name --revision ''
refuses 1 'org/name@main in the cache holds no model' info org/name
refuses 1 'org/other: no such file or folder, and as a model of the Hub:' generate -m org/other
HF_ENDPOINT=ftp://x
export HF_ENDPOINT
refuses 2 'HF_ENDPOINT' download org/name
unset HF_HUB_OFFLINE
HF_ENDPOINT=http://127.0.0.1:9 no_proxy='*'
export no_proxy
refuses 1 '127.0.0.1:9 cannot be reached' download org/other a.txt


# ---- without libcurl --------------------------------------------------------------------------------------------------
# Files by its names that are no libraries are found before it.
mkdir "$work/none"
: > "$work/none/libcurl.so.4"
: > "$work/none/libcurl-gnutls.so.4"
not_linked() { ! readelf -d "$PROGRAM" "$OUT/libdiffusionlm.so" | grep -i 'NEEDED.*curl'; }
check 'nothing is linked with it' not_linked
LD_LIBRARY_PATH="$work/none"
export LD_LIBRARY_PATH
refuses 1 'downloads need libcurl, which cannot be loaded: ' download org/other a.txt
check 'what to install' said 'the package is libcurl4 on Debian'
refuses 1 'as a model of the Hub: downloads need libcurl' generate -m org/other
succeeds 'a file of the cache' download org/name a.txt
unset LD_LIBRARY_PATH

check 'every option' covered download
finish
