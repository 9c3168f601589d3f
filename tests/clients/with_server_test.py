"""The `evenflow` program end to end, clients against server: with_server_test.py PROGRAM SOURCE_FOLDER."""
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest
import urllib.request

PROGRAM, SOURCE = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
del sys.argv[1:3]
DEMO = SOURCE / "models" / "demo"


class Server:

    def __init__(self, model):
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--model", model, "--listen", "127.0.0.1:0", "--metrics-listen",
             "127.0.0.1:0", "--max-sessions", "4"], stdout=subprocess.PIPE, text=True)
        said = self.process.stdout.readline() + self.process.stdout.readline()
        self.address = re.search(r"listening on (\S+)", said)[1]
        self.http = re.search(r"metrics on (http://[^/]+)/", said)[1]

    def get(self, path):
        with urllib.request.urlopen(self.http + path, timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name):
        return sum(float(line.rsplit(" ", 1)[1]) for line in self.get("/metrics").splitlines()
                   if re.match(name + r"[{ ]", line))

    def client(self, *arguments, given=""):
        return subprocess.run([PROGRAM, *arguments, "--server", self.address], input=given,
                              capture_output=True, text=True, timeout=60)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.process.stdout.close()
        return code


class TokensTest(unittest.TestCase):
    """A model without tokenizer."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server(SOURCE / "tests" / "goldens" / "retnet-a")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, "SIGTERM must drain and exit with 0"

    def generate(self, *arguments):
        done = self.server.client("generate", "--tokens", "5,6,7", "--json", "--ignore-eos",
                                  *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_seed_reproduces_tokens(self):
        streams = [self.generate("--max-tokens", "20", "--seed", seed) for seed in "334"]
        tokens = [sum((message.get("token_ids", []) for message in stream), [])
                  for stream in streams]
        self.assertEqual([len(ids) for ids in tokens], [20] * 3)
        self.assertEqual(tokens[0], tokens[1])
        self.assertNotEqual(tokens[0], tokens[2])
        finish = streams[0][-1]["finish"]
        self.assertEqual(finish["reason"], "FINISH_REASON_LENGTH")
        self.assertEqual(finish["usage"], {"prompt_tokens": "3", "generated_tokens": "20"})
        self.assertEqual(streams[0][-1]["position"], "23")
        self.assertEqual(sum("finish" in message for message in streams[0]), 1)

    def test_errors(self):
        for arguments, code, says in [
                (["--tokens", "5", "--temperature", "-1"], "INVALID_ARGUMENT", "temperature"),
                (["--tokens", "99999999"], "INVALID_ARGUMENT", "99999999"),
                (["--tokens", "5", "--session", "nobody"], "NOT_FOUND", "nobody"),
                (["--tokens", "5", "--model", "other"], "NOT_FOUND", "other")]:
            with self.subTest(arguments):
                done = self.server.client("generate", *arguments)
                self.assertEqual(done.returncode, 1)
                self.assertRegex(done.stderr, rf"^evenflow: {code}: .*{says}.*\n$")

    def session(self, *arguments):
        done = self.server.client("session", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_session_keeps_its_memory(self):
        made = self.session("create", "ada", "--idle-timeout", "60")
        self.assertEqual((made["session_id"], made["position"]), ("ada", "0"))
        whole = self.generate("--max-tokens", "8", "--temperature", "0")
        first = self.generate("--max-tokens", "4", "--temperature", "0", "--session", "ada")
        then = self.server.client("generate", "--session", "ada", "--max-tokens", "4",
                                  "--temperature", "0", "--json", "--ignore-eos")
        self.assertEqual(then.returncode, 0, then.stderr)
        pieces = first + [json.loads(line) for line in then.stdout.splitlines()]
        self.assertEqual(sum((piece.get("token_ids", []) for piece in pieces), []),
                         sum((piece.get("token_ids", []) for piece in whole), []))
        self.assertEqual(self.session("get", "ada")["position"], "11")
        self.session("delete", "ada")
        self.assertIn("NOT_FOUND", self.server.client("session", "get", "ada").stderr)
        self.assertIn("PERMISSION_DENIED", self.server.client("session", "list").stderr)

    def test_control_c_frees_the_slot(self):
        client = subprocess.Popen([PROGRAM, "generate", "--server", self.server.address, "--tokens",
                                   "5", "--max-tokens", "1000000000", "--ignore-eos", "--json"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        client.stdout.readline()
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=30)
        self.assertEqual(client.returncode, 130)
        until = time.monotonic() + 10
        while self.server.metric("evenflow_state_slots_used") and time.monotonic() < until:
            time.sleep(0.05)
        self.assertEqual(self.server.metric("evenflow_state_slots_used"), 0)

    def test_bench_serve(self):
        done = self.server.client("bench", "serve", "--num-prompts", "12", "--input-len", "4",
                                  "--output-len", "6", "--request-rate", "200", "--ramp", "0.05",
                                  "--goodput", "ttft:60000", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual((report["completed"], report["failed"]), (12, 0))
        self.assertEqual((report["total_input_tokens"], report["total_output_tokens"]), (48, 72))
        self.assertGreater(report["median_ttft_ms"], 0)
        self.assertGreaterEqual(report["p99_e2el_ms"], report["p99_ttft_ms"])
        self.assertEqual(report["request_goodput"], report["request_throughput"])

    def test_http(self):
        self.assertEqual(self.server.get("/readyz"), "ready\n")
        self.generate("--max-tokens", "40")
        metrics = self.server.get("/metrics")
        for series in ("evenflow_time_to_first_token_seconds_bucket",
                       "evenflow_state_norm_bucket", "evenflow_generation_tokens_total"):
            self.assertIn(series, metrics)
        if shutil.which("promtool"):
            checked = subprocess.run(["promtool", "check", "metrics"], input=metrics, text=True,
                                     capture_output=True)
            self.assertEqual((checked.returncode, checked.stdout + checked.stderr), (0, ""))


class BenchStepTest(unittest.TestCase):

    def test_random_model(self):
        done = subprocess.run([PROGRAM, "bench", "step", "--random", "retnet-tiny", "--rows", "2",
                               "--steps", "500", "--prompt-tokens", "100", "--json"],
                              capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual(report["rows"], 2)
        for key in ("step_ms_median", "read_bandwidth", "fraction_of_bandwidth",
                    "prompt_token_ms", "prompt_speedup"):
            self.assertGreater(report[key], 0, key)
        self.assertLessEqual(report["fraction_of_bandwidth"], report["fraction_of_bandwidth_best"])


@unittest.skipUnless((DEMO / "tokenizer.json").exists(), "models/demo is not there")
class TextTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.server = Server(DEMO)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, "SIGTERM must drain and exit with 0"

    def test_generate_from_standard_input(self):
        done = self.server.client("generate", "--prompt", "-", "--max-tokens", "20", "--seed", "1",
                                  given="The computer is")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertGreater(len(done.stdout), 20)

    def test_chat(self):
        done = self.server.client("chat", "--max-tokens", "8", given="Hello.\nAnd then?\n/stats\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, r"position \d+, \d+ tokens read, \d+ written")


if __name__ == "__main__":
    unittest.main()
