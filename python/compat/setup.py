"""Builds the wheel. Nothing is left in the source tree but what is in build/."""

import pathlib

from setuptools import setup

work = pathlib.Path(__file__).resolve().parents[2] / "build" / "compat"
work.mkdir(parents=True, exist_ok=True)

setup(options={"build": {"build_base": str(work)}, "egg_info": {"egg_base": str(work)}})
