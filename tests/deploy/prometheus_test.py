"""A real Prometheus with deploy/prometheus.yml scrapes a server and answers for every latency and
state series, and to the queries of deploy/README.md: prometheus_test.py PROGRAM SOURCE_FOLDER.
Exits with 77 where Prometheus is not installed."""
import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

PROGRAM, SOURCE = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
MODEL = SOURCE / "tests" / "goldens" / "retnet-a"
LATENCIES = ("evenflow_time_to_first_token_seconds", "evenflow_inter_token_latency_seconds",
             "evenflow_e2e_request_latency_seconds", "evenflow_request_queue_time_seconds",
             "evenflow_step_duration_seconds")
STATES = ("evenflow_state_norm_bucket", "evenflow_state_max_abs", "evenflow_state_non_finite_total")
PATIENCE_SECONDS = 60


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def query(address, expression):
    """The values, or None while there is no answer."""
    url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return [result["value"][1] for result in json.load(answer)["data"]["result"]]
    except urllib.error.HTTPError as error:
        if error.code == 400:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
    except OSError:
        pass
    return None


def wait_for(address, expression, holds):
    until = time.monotonic() + PATIENCE_SECONDS
    values = None
    while time.monotonic() < until:
        values = query(address, expression)
        if values is not None and holds(values):
            print(f"{expression}: {values}")
            return
        time.sleep(0.5)
    raise AssertionError(f"{expression}: {values} after {PATIENCE_SECONDS} s")


def start_server():
    server = subprocess.Popen(
        [PROGRAM, "serve", "--model", MODEL, "--listen", "127.0.0.1:0", "--metrics-listen",
         "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    said = server.stdout.readline() + server.stdout.readline()
    return (server, re.search(r"listening on (\S+)", said)[1],
            re.search(r"metrics on http://([^/]+)/", said)[1])


def start_prometheus(folder, metrics):
    config = (SOURCE / "deploy" / "prometheus.yml").read_text()
    for given, tested in (("evenflow:9464", metrics), ("scrape_interval: 5s", "scrape_interval: 1s")):
        assert given in config, given
        config = config.replace(given, tested)
    (folder / "prometheus.yml").write_text(config)
    address = f"127.0.0.1:{free_port()}"
    with open(folder / "log", "w") as log:
        return address, subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml",
             f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"],
            stdout=log, stderr=log)


def check(address, listen):
    wait_for(address, 'up{job="evenflow"}', lambda values: values == ["1"])
    for seed in ("1", "2"):
        subprocess.run([PROGRAM, "generate", "--server", listen, "--tokens", "5,6,7",
                        "--max-tokens", "60", "--ignore-eos", "--seed", seed], check=True,
                       stdout=subprocess.DEVNULL, timeout=60)
    for series in LATENCIES:
        wait_for(address, f"histogram_quantile(0.5, {series}_bucket)",
                 lambda values: len(values) == 1 and float(values[0]) > 0)
    inspected = subprocess.run([PROGRAM, "inspect", "--model", MODEL, "--json"], check=True,
                               capture_output=True, text=True)
    layers = str(len(json.loads(inspected.stdout)["layers"]))
    for series in STATES:
        wait_for(address, f"count(count by (layer, plane) ({series}))",
                 lambda values: values == [layers])
    wait_for(address, "min(histogram_quantile(0.5, evenflow_state_norm_bucket)) > 0", len)
    guide = (SOURCE / "deploy" / "README.md").read_text()
    queries = re.findall(r"^(?:histogram_quantile|evenflow_)\S.*$", guide, re.MULTILINE)
    assert len(queries) >= 4, queries
    for expression in queries:
        wait_for(address, expression, len)


def main():
    if shutil.which("prometheus") is None:
        return 77
    server, listen, metrics = start_server()
    with tempfile.TemporaryDirectory() as folder:
        address, prometheus = start_prometheus(pathlib.Path(folder), metrics)
        try:
            check(address, listen)
        finally:
            prometheus.terminate()
            prometheus.wait(30)
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
