"""Checks of the repository's tree: checks.py NAME ROOT BUILD_FOLDER.

A check takes a Tree and returns what is wrong, one line each. Exit code: 0 nothing, 1 something, 77
a tool is not installed.
"""
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

MIB = 1 << 20
CODE = (".cc", ".cu", ".h", ".cuh")
TEXT = CODE + (".py", ".sh", ".md", ".proto", ".txt", ".cmake", ".yaml", ".yml", ".toml")
TOP_LEVEL = {".ci", ".clang-format", ".clang-tidy", ".gitignore", "CHANGELOG.md", "CMakeLists.txt",
             "CMakePresets.json", "CONTRIBUTING.md", "LICENSE", "README.md", "clients", "deploy",
             "engine", "kernels", "models", "proto", "server", "tests"}
LINES = {".cc": 400, ".cu": 400, ".h": 250, ".cuh": 250}


class MissingTool(Exception):
    pass


class Tree:
    """The files that belong to the repository, as paths relative to its root."""

    def __init__(self, root, build="build"):
        self.root, self.build = pathlib.Path(root), pathlib.Path(build)
        git = shutil.which("git") and (self.root / ".git").exists()
        listed = git and subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=self.root, capture_output=True, text=True)
        if listed and listed.returncode == 0:
            names = [name for name in listed.stdout.split("\0") if name]
        else:
            names = [str((pathlib.Path(folder) / name).relative_to(self.root))
                     for folder, _, files in os.walk(self.root) for name in files]
            ignored = re.compile(r"^(build|\.git)(/|$)|(^|/)__pycache__/|\.pyc$")
            names = [name for name in names if not ignored.search(name)]
        self.files = sorted(name for name in names if (self.root / name).is_file())

    def read(self, name):
        return (self.root / name).read_text(encoding="utf-8", errors="replace")

    def code(self, *folders):
        return [name for name in self.files
                if name.endswith(CODE) and (not folders or name.split("/")[0] in folders)]

    def includes(self, name):
        return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', self.read(name), re.MULTILINE)


# Of each folder: the project's headers that it may include, and other headers that it may not.
GRPC = r"grpc|google/protobuf|evenflow/v1|prometheus|civetweb|Civet"
LAYERS = {
    "kernels": (r"kernels/", GRPC + "|absl/"),
    "engine": (r"engine/|kernels/([^/]+|memories/registry)\.h$", GRPC),
    "server": (r"server/|engine/|kernels/[^/]+\.h$|evenflow/v1/", r"$^"),
    "clients": (r"clients/|evenflow/v1/", r"prometheus|civetweb|Civet"),
}
FOLDERS = r"(proto|kernels|engine|server|clients|tests|models|deploy)/"


def layering(tree):
    wrong = []
    for name in tree.code(*LAYERS):
        allowed, forbidden = LAYERS[name.split("/")[0]]
        for header in tree.includes(name):
            if name == "server/main.cc" and header == "clients/cli/commands.h":
                continue
            if (re.match(FOLDERS, header) and not re.match(allowed, header)) or \
                    re.match(forbidden, header):
                wrong.append(f"{name} includes {header}; its folder may not")
    return wrong


def file_sizes(tree):
    sizes = ((name, tree.read(name).count("\n")) for name in tree.code())
    return [f"{name}: {lines} lines, at most {LINES[pathlib.Path(name).suffix]}"
            for name, lines in sizes if lines > LINES[pathlib.Path(name).suffix]]


def document_paths(tree):
    """Paths in code spans, code blocks and links. `a/b` also stands for a/b.h, a/b.cc, a/b.proto."""
    wrong = []
    known = set(tree.files)
    known |= {str(parent) for name in known for parent in pathlib.Path(name).parents}
    own = re.compile(r"(?<![\w./<-])(\./)?((?:" + "|".join(
        re.escape(entry) for entry in sorted(TOP_LEVEL) if "." not in entry or entry == ".ci") +
        r")/[\w./*{},-]*\w|[A-Z]+\.md|CMakeLists\.txt|CMakePresets\.json)")
    for document in (name for name in tree.files if name.endswith(".md")):
        text = tree.read(document)
        spans = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
        named = {match[1] for span in spans for match in own.findall(span)}
        beside = pathlib.Path(document).parent
        links = {os.path.normpath(beside / link.split("#")[0])
                 for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)\s]+)\)", text)}
        for path in sorted(named | links):
            exists = path in known or str(beside / path) in known or \
                any(path + suffix in known for suffix in (".h", ".cc", ".cu", ".proto")) or \
                ("*" in path and any(tree.root.glob(path)))
            if not exists:
                wrong.append(f"{document} names {path}, which does not exist")
    return wrong


def tool(*names):
    for name in names:
        if shutil.which(name):
            return name
    raise MissingTool(names[0])


def formatting(tree):
    names = tree.code()
    if not names:
        return []
    result = subprocess.run([tool("clang-format-14", "clang-format"), "--dry-run", "-Werror", *names],
                            cwd=tree.root, capture_output=True, text=True)
    places = re.findall(r"^([^:\n]+):(\d+):\d+: error:", result.stderr, re.MULTILINE)
    first = {name: line for name, line in reversed(places)}
    return [f"{name}:{line}: run clang-format -i {name}" for name, line in sorted(first.items())]


def thread_safety(tree):
    """Clang's analysis of ABSL_GUARDED_BY and the like, where a file sees such annotations."""
    compiler = tool("clang++-14", "clang++")
    closures = {}

    def annotated(name):
        if name not in closures:
            closures[name] = False  # ends cycles
            closures[name] = "ABSL_GUARDED_BY" in tree.read(name) or \
                any(annotated(header) for header in tree.includes(name) if header in tree.files)
        return closures[name]

    def analyse(name):
        command = [compiler, "-std=c++20", "-fsyntax-only", "-Wno-everything",
                   "-Werror=thread-safety", f"-I{tree.root}", "-isystem",
                   str(tree.build / "generated"), '-DEVENFLOW_VERSION=""', name]
        result = subprocess.run(command, cwd=tree.root, capture_output=True, text=True)
        errors = [line for line in result.stderr.splitlines() if "error:" in line]
        return errors if result.returncode == 0 or errors else [f"{name}: {result.stderr[-300:]}"]

    names = [name for name in tree.code("engine", "server", "clients")
             if name.endswith(".cc") and annotated(name)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [error for errors in pool.map(analyse, names) for error in errors]


def markers(tree):
    # Put together here, so that this file does not hold them.
    words = "|".join(("TO" "DO", "FIX" "ME", "X" "XX", "HA" "CK"))
    pattern = re.compile(rf"\b({words})\b|#\s*if\s+0\b|\bDIS" r"ABLED_")
    return [f"{name}:{number}: {line.strip()}"
            for name in tree.files if name.endswith(TEXT) or "." not in pathlib.Path(name).name
            for number, line in enumerate(tree.read(name).splitlines(), 1) if pattern.search(line)]


def binaries(tree):
    """Small checkpoints in models/demo and test goldens, 16 MiB each in all; nothing else."""
    wrong, total = [], {"models/demo/": 0, "tests/": 0}
    for name in tree.files:
        path = tree.root / name
        home = next((folder for folder in total if name.startswith(folder)), None)
        with path.open("rb") as file:
            binary = b"\0" in file.read(1 << 16)
        if home and (binary or path.stat().st_size > MIB):
            total[home] += path.stat().st_size
        elif binary or path.stat().st_size > MIB:
            wrong.append(f"{name}: binary or over 1 MiB, outside of {' and '.join(total)}")
    return wrong + [f"{folder} holds {size / MIB:.1f} MiB of binaries, at most 16"
                    for folder, size in total.items() if size > 16 * MIB]


def top_level(tree):
    return [f"{entry}: not one of the repository's top-level entries"
            for entry in sorted({name.split("/")[0] for name in tree.files} - TOP_LEVEL)]


def presets(tree):
    result = subprocess.run(["cmake", "--list-presets=all"], cwd=tree.root, capture_output=True,
                            text=True)
    if result.returncode != 0:
        return [result.stderr.strip() or result.stdout.strip()]
    return [f"CMakePresets.json has no preset {preset}"
            for preset in ("cpu", "cuda", "release", "asan", "tsan")
            if f'"{preset}"' not in result.stdout]


CHECKS = {check.__name__: check for check in (layering, file_sizes, document_paths, formatting,
                                              thread_safety, markers, binaries, top_level, presets)}


def main():
    name, root, build = sys.argv[1:]
    try:
        wrong = CHECKS[name](Tree(root, build))
    except MissingTool as missing:
        print(f"skipped: {missing} is not installed")
        return 77
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
