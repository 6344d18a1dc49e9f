"""The declarations of diffusionlm.h as cffi reads them: the header itself, preprocessed.

There is no second list of functions to keep. The compiler holds every declaration against the header once more when
the module is built.
"""

import os
import pathlib
import re
import shlex
import subprocess
import tempfile

import cffi


def preprocessed(header, *more):
    """What the compiler's preprocessor makes of the files, without the system headers that they include."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory() as empty:
        for name in ("stdbool.h", "stddef.h", "stdint.h"):
            pathlib.Path(empty, name).touch()
        text = "".join(f'#include "{path}"\n' for path in (header, *more))
        command = [*compiler, "-E", "-P", "-U__GNUC__", "-nostdinc", "-I", empty, "-x", "c", "-"]
        done = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def version(header):
    """DLM_VERSION."""
    return re.search(r'^#define DLM_VERSION "(.+)"$', header.read_text(), re.MULTILINE).group(1)


def builder(header, callbacks):
    """The module diffusionlm._native: all of the header, and the Python functions that it calls back."""
    ffi = cffi.FFI()
    ffi.cdef(preprocessed(header))
    ffi.cdef(f'extern "Python" {{ {preprocessed(callbacks)} }}')
    constants = re.findall(r"^#define (DLM_[A-Z_]+) +\d+$", header.read_text(), re.MULTILINE)
    ffi.cdef("".join(f"#define {name} ...\n" for name in constants))
    ffi.set_source(
        "diffusionlm._native",
        '#include "diffusionlm.h"',
        include_dirs=[str(header.parent)],
        py_limited_api=True,
    )
    return ffi
