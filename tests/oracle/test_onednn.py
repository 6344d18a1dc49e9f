"""oneDNN 3: Debian 12 has 2.6, with which everything else is tested; Debian 13 has 3.x, whose interface differs. PyPI has
builds of it: the library is compiled against the headers of a recent one, and runs its fixtures on an older one that
takes its threads from the same OpenMP as Debian's."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def fetch(folder, *packages):
    """The folders "include" and "lib" of wheels, unpacked: (include, lib); lib None where there is none."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", folder]
    subprocess.run([*command, *packages], check=True)
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    return next(folder.glob("*.data/data/include")), next(folder.glob("*.data/data/lib"), None)


def done(command, **options):
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_compiles_against_a_recent_3(tmp_path):
    include, _ = fetch(tmp_path, "onednn-devel==2026.1.0")
    flags = ["-std=c17", "-D_XOPEN_SOURCE=700", "-D_DEFAULT_SOURCE", "-DDLM_BACKEND_ONEDNN", "-fopenmp", "-Wall", "-Wextra",
             "-Werror", "-fsyntax-only", f"-I{include}", f"-I{ROOT}/include", f"-I{ROOT}/src"]
    seen = done(["gcc", *flags, "-include", "dnnl.h", "-dM", "-E", "-x", "c", "/dev/null"])
    assert "#define DNNL_VERSION_MAJOR 3" in seen
    for name in ("product_onednn.c", "context.c"):
        done(["gcc", *flags, ROOT / "src/compute" / name])


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="PyPI's build is for x86-64")
def test_runs_on_3(tmp_path, golden):
    include, lib = fetch(tmp_path / "onednn", "onednn-devel-cpu-gomp==2023.2.0", "onednn-cpu-gomp==2023.2.0")
    tree = tmp_path / "tree"
    for name in ("src", "include", "tests/unit", "cli", "tools"):
        shutil.copytree(ROOT / name, tree / name)
    for name in ("Makefile", *(str(p.relative_to(ROOT)) for p in (ROOT / "tests").glob("*.[ch]"))):
        shutil.copy(ROOT / name, tree / name)
    tests = [f"build/gcc-onednn-release/tests/unit/test_{name}" for name in ("compute_product", "forward", "backward")]
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS")}
    environment |= {"GOLDEN": str(golden.resolve()), "OMP_WAIT_POLICY": "passive"}
    done(["make", f"-j{os.cpu_count()}", "CC=gcc", f"CFLAGS=-I{include}", f"LDFLAGS=-L{lib} -Wl,-rpath,{lib}",
          *tests], cwd=tree, env=environment)
    for test in tests:
        assert f"libdnnl.so.3 => {lib}" in done(["ldd", test], cwd=tree)
        assert done([f"./{test}"], cwd=tree, env=environment).rstrip().endswith(" 0 failed")
