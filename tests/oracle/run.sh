#!/bin/sh
# Runs the tests that need Python, in build/venv.
set -eu
. tests/venv.sh
status=0
"$venv/bin/python" -m pytest -q --tb=short -p no:cacheprovider tests/oracle < /dev/null || status=$?
[ $status = 5 ] && exit 0 # no tests were collected
exit $status
