"""Builds the wheel: the C library (by its Makefile), the module that calls it, and the command.

What pyproject.toml cannot say stands here. The C sources are those beside this folder, or, in a source distribution,
the copy in csource/. Nothing is left in the source tree but what make leaves in build/.
"""

import os
import pathlib
import shutil
import subprocess
import sys

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

here = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(here))
import declarations  # noqa: E402

carried = here / "csource"
tree = carried if carried.is_dir() else here.parent
work = tree / "build" / "python"
work.mkdir(parents=True, exist_ok=True)


def make(*targets):
    """Runs make in the C tree and returns what it prints."""
    command = [
        os.environ.get("MAKE", "make"),
        "--no-print-directory",
        "-j",
        str(os.cpu_count() or 1),
        *targets,
    ]
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")}
    return subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


class BuildWithLibrary(build_ext):
    """Makes library and command before the module that is linked with them."""

    def run(self):
        make("all")
        archive, program, *flags = make("--silent", "link-flags").split()
        for extension in self.extensions:
            extension.extra_objects = [str(tree / archive)]
            extension.extra_link_args = flags
            extension.depends = [str(tree / archive), str(tree / "include/diffusionlm.h")]
        super().run()
        package = here / "diffusionlm" if self.inplace else pathlib.Path(self.build_lib) / "diffusionlm"
        package.mkdir(parents=True, exist_ok=True)
        shutil.copy2(tree / program, package / "command")


class DistributionWithSources(sdist):
    """A source distribution has the C sources in it."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        for part in ("Makefile", "LICENSE", "include", "src", "cli", "tools"):
            source, target = tree / part, pathlib.Path(base_dir) / "csource" / part
            target.parent.mkdir(exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)


module = declarations.builder(tree / "include" / "diffusionlm.h", here / "callbacks.h").distutils_extension(
    str(work), verbose=False
)
module.py_limited_api = True

setup(
    version=declarations.version(tree / "include" / "diffusionlm.h"),
    ext_modules=[module],
    cmdclass={"build_ext": BuildWithLibrary, "sdist": DistributionWithSources},
    options={
        "bdist_wheel": {"py_limited_api": "cp39"},
        "build": {"build_base": str(work)},
        "egg_info": {"egg_base": str(work)},
    },
)
