"""Each check of checks.py passes a good tree and finds what is planted in a bad one."""
import pathlib
import shutil
import tempfile
import unittest

import checks

GOOD = {"engine/engine.h": '#include "kernels/backend.h"\n#include "kernels/memories/registry.h"\n',
        "kernels/backend.h": "#include <cstdint>\n",
        "server/main.cc": '#include "clients/cli/commands.h"\n',
        "proto/evenflow/v1/generation.proto": "",
        "README.md": "See `engine/engine` and `kernels/*.h`, run `build/cpu/evenflow`.\n"}


class ChecksTest(unittest.TestCase):

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        for name, text in GOOD.items():
            self.write(name, text)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def check(self, check, planted):
        """The findings about `planted`, which must not be there before it is planted."""
        run = lambda: check(checks.Tree(self.root, self.root / "build"))
        self.assertEqual(run(), [])
        for name, text in planted.items():
            self.write(name, text)
        return run()

    def test_layering(self):
        for name, header in [("engine/a.cc", "kernels/cpu/step.h"),
                             ("engine/b.cc", "server/options.h"),
                             ("engine/c.cc", "grpcpp/grpcpp.h"),
                             ("engine/d.cc", "kernels/memories/retention.h"),
                             ("kernels/cpu/e.cc", "absl/status/status.h"),
                             ("kernels/f.cc", "engine/engine.h"),
                             ("server/g.cc", "clients/cli/commands.h"),
                             ("server/main.cc", "clients/cli/chat.h"),
                             ("clients/cli/h.cc", "server/options.h"),
                             ("clients/cli/i.cc", "engine/engine.h")]:
            with self.subTest(name):
                before = (self.root / name).read_text() if (self.root / name).exists() else ""
                found = self.check(checks.layering, {name: f'#include "{header}"\n'})
                self.assertEqual(found, [f"{name} includes {header}; its folder may not"])
                self.write(name, before)

    def test_file_sizes(self):
        found = self.check(checks.file_sizes, {"engine/a.cc": "\n" * 401, "engine/b.h": "\n" * 251,
                                               "engine/c.cc": "\n" * 400})
        self.assertEqual(len(found), 2)

    def test_document_paths(self):
        found = self.check(checks.document_paths, {
            "CHANGELOG.md": "`engine/gone.h` and [a link](server/gone.cc)\n```\ndeploy/gone.sh\n```\n"})
        self.assertEqual(len(found), 3)

    def test_formatting(self):
        shutil.copy(pathlib.Path(__file__).parents[2] / ".clang-format", self.root)
        try:
            found = self.check(checks.formatting, {"engine/a.cc": "int  a ;\n"})
        except checks.MissingTool as missing:
            self.skipTest(f"{missing} is not installed")
        self.assertTrue(found)

    def test_thread_safety(self):
        guarded = ('#include "absl/base/thread_annotations.h"\n'
                   '#include "absl/synchronization/mutex.h"\n'
                   "struct A { absl::Mutex m; int n ABSL_GUARDED_BY(m) = 0; };\n"
                   "int F(A& a) { %s return a.n; }\n")
        self.write("engine/good.cc", guarded % "absl::MutexLock lock(&a.m);")
        try:
            found = self.check(checks.thread_safety, {"engine/bad.cc": guarded % ""})
        except checks.MissingTool as missing:
            self.skipTest(f"{missing} is not installed")
        self.assertEqual(len(found), 1)
        self.assertIn("engine/bad.cc", found[0])

    def test_markers(self):
        found = self.check(checks.markers, {"engine/a.cc": "// TO" "DO: later\n#if" " 0\n#endif\n",
                                            "tests/b.cc": "TEST(A, DIS" "ABLED_B) {}\n",
                                            "deploy/c.sh": "mktemp /tmp/XXXXXX\n"})
        self.assertEqual(len(found), 3)

    def test_binaries(self):
        found = self.check(checks.binaries, {
            "engine/a.bin": b"\0", "models/demo/model.safetensors": b"\0" * 2000,
            "tests/engine/big.safetensors": b"\0" * (17 << 20), "README.md": "x" * (2 << 20)})
        self.assertEqual(len(found), 3)

    def test_top_level(self):
        self.assertEqual(len(self.check(checks.top_level, {"notes.txt": "", "src/a.cc": ""})), 2)

    def test_presets(self):
        shutil.copy(pathlib.Path(__file__).parents[2] / "CMakePresets.json", self.root)
        shutil.copy(pathlib.Path(__file__).parents[2] / "CMakeLists.txt", self.root)
        self.assertTrue(self.check(checks.presets, {"CMakePresets.json": '{"version": 6,}'}))


if __name__ == "__main__":
    unittest.main()
