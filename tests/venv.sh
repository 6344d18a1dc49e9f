# To be sourced: makes build/venv, with what the tests in Python need, when it is not there or its requirements changed.
venv=build/venv
tools/venv.sh "$venv" tests/oracle/requirements.txt
