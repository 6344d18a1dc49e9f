#!/bin/sh
# Builds the wheels as a user does, installs them in build/venv, and runs the package's tests there. From the root of
# the tree, by `make test-python`.
set -eu
. tests/venv.sh
# cffi's module is compiled: Python's headers have to be there
"$venv/bin/python" -c 'import os, sysconfig; assert os.path.exists(sysconfig.get_path("include") + "/Python.h")' \
    2> /dev/null || echo 'Python.h is not there: in Debian it is the package python3-dev' >&2
"$venv/bin/python" -m pip install --disable-pip-version-check --force-reinstall --no-deps ./python ./python/compat \
    > build/pip.log 2>&1 || {
    tail -n 20 build/pip.log >&2
    exit 1
}
(cd python && "../$venv/bin/ruff" check -q . && "../$venv/bin/ruff" format -q --check . &&
    "../$venv/bin/mypy" --python-executable "../$venv/bin/python" --cache-dir ../build/mypy) || {
    echo '0 passed, 1 failed'
    exit 1
}
"$venv/bin/python" -m pytest -q --tb=short -p no:cacheprovider python/tests < /dev/null
