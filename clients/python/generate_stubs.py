"""Writes the gRPC stubs of proto/evenflow/v1 below a folder: generate_stubs.py OUTPUT_FOLDER.

Uses protoc and grpc_python_plugin (Debian: protobuf-compiler-grpc) where they are installed, else
the package grpcio-tools.
"""
import pathlib
import shutil
import subprocess
import sys

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"


def generate(output: pathlib.Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    files = [str(path.relative_to(PROTO)) for path in sorted(PROTO.rglob("*.proto"))]
    plugin = shutil.which("grpc_python_plugin")
    if plugin and shutil.which("protoc"):
        compiler = ["protoc", f"--plugin=protoc-gen-grpc_python={plugin}"]
    else:
        compiler = [sys.executable, "-m", "grpc_tools.protoc"]
    subprocess.run(compiler + ["-I", ".", f"--python_out={output.resolve()}",
                               f"--grpc_python_out={output.resolve()}"] + files,
                   cwd=PROTO, check=True)


if __name__ == "__main__":
    generate(pathlib.Path(sys.argv[1]))
