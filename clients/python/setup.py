"""Builds the package: its own modules and, made at build time, the gRPC stubs."""
import pathlib
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from generate_stubs import generate  # noqa: E402


class BuildWithStubs(build_py):

    def run(self):
        super().run()
        generate(pathlib.Path(self.build_lib))


setup(cmdclass={"build_py": BuildWithStubs})
