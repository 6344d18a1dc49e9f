# To be sourced: makes build/venv, with what the tests in Python need, when it is not there or its requirements changed.
venv=build/venv
wanted=tests/oracle/requirements.txt
if ! cmp -s "$wanted" "$venv/requirements.txt"; then
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv" || {
        echo 'python3 -m venv failed: in Debian it is the package python3-venv' >&2
        exit 1
    }
    echo "installing $(tr '\n' ' ' < $wanted)to $venv"
    "$venv/bin/pip" install --disable-pip-version-check -r "$wanted" > build/pip.log 2>&1 || {
        tail -n 5 build/pip.log >&2
        exit 1
    }
    cp "$wanted" "$venv/requirements.txt"
fi
