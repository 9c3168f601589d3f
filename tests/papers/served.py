"""A server of one checkpoint, asked through the Python client: what the measurements here share."""
import concurrent.futures
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import urllib.request

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "models" / "train"))
CLIENT = SOURCE / "clients" / "python"


def import_client(folder):
    """The package `evenflow`, with its stubs made below `folder`."""
    sys.path.insert(0, str(CLIENT))
    from generate_stubs import generate
    folder = pathlib.Path(folder)
    generate(folder)
    shutil.copytree(CLIENT / "evenflow", folder / "evenflow", dirs_exist_ok=True)
    sys.path[0] = str(folder)
    import evenflow
    return evenflow


class Process:
    """A running server; its addresses."""

    def __init__(self, program, model, *options):
        self.process = subprocess.Popen(
            [program, "serve", "--model", model, "--listen", "127.0.0.1:0", "--metrics-listen",
             "127.0.0.1:0", *options], stdout=subprocess.PIPE, text=True)
        said = self.process.stdout.readline() + self.process.stdout.readline()
        self.address = re.search(r"listening on (\S+)", said)[1]
        self.http = re.search(r"metrics on (http://[^/]+)/", said)[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.process.stdout.close()


class Server(Process):
    """With a client."""

    def __init__(self, program, evenflow, model, *options):
        super().__init__(program, model, *options)
        self.client = evenflow.Client(self.address)

    def __exit__(self, *of):
        self.client.close()
        super().__exit__(*of)

    def answers(self, prompts, cut=False):
        """The most likely token after each prompt [count, tokens]; cut: sent as two, parted at random."""
        chance = random.Random(1)
        parts = [chance.randrange(1, len(prompt)) if cut else 0 for prompt in prompts]

        def ask(prompt, part):
            greedy = {"max_tokens": 1, "temperature": 0}
            if part:
                with self.client.stream() as session:
                    session.read(prompt[:part].tolist())
                    pieces = list(session.generate(prompt[part:].tolist(), **greedy))
            else:
                pieces = self.client.generate(prompt.tolist(), **greedy)
            return [token for piece in pieces for token in piece.token_ids][0]

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            return list(pool.map(ask, prompts, parts))

    def series(self, name):
        """{labels: value} of a Prometheus series."""
        with urllib.request.urlopen(self.http + "/metrics", timeout=10) as answer:
            lines = re.findall(rf"^{name}{{(.*)}} (\S+)$", answer.read().decode(), re.MULTILINE)
        return {labels: float(value) for labels, value in lines}
