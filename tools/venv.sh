#!/bin/sh
# venv.sh DIR REQUIREMENTS: a Python environment in DIR with these packages, made when it is not there or they changed.
set -eu
venv=$1
wanted=$2
cmp -s "$wanted" "$venv/requirements.txt" && exit 0
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv" || {
    echo 'python3 -m venv failed: in Debian it is the package python3-venv' >&2
    exit 1
}
echo "installing $(tr '\n' ' ' < "$wanted")to $venv"
"$venv/bin/python" -m pip install --disable-pip-version-check -r "$wanted" > build/pip.log 2>&1 || {
    tail -n 5 build/pip.log >&2
    exit 1
}
cp "$wanted" "$venv/requirements.txt"
