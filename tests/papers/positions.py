#!/usr/bin/env python3
"""Times tokens at positions far into a session, as a client of a server sees them.

    positions.py --program build/cpu/evenflow --model models/demo --out FILE [--positions 1000,10000]
                 [-- serve's options]

For each position a prompt of as many random tokens is read, then 300 tokens are generated.
"""
import argparse
import json
import subprocess

import served

GENERATED = 300


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--positions", default="1000,10000,100000,300000,1000000")
    parser.add_argument("--out", required=True)
    parser.add_argument("options", nargs="*")
    args = parser.parse_args()
    rows = []
    with served.Process(args.program, args.model, "--max-prompt-tokens", "2000000",
                        *args.options) as server:
        for position in map(int, args.positions.split(",")):
            said = subprocess.run(
                [args.program, "bench", "serve", "--server", server.address, "--num-prompts", "1",
                 "--input-len", str(position), "--output-len", str(GENERATED), "--json"],
                stdout=subprocess.PIPE, check=True).stdout
            of = json.loads(said)
            rows.append({"position": position} | {key: of[key] for key in (
                "completed", "median_ttft_ms", "median_tpot_ms", "median_itl_ms", "p99_itl_ms")})
            print(rows[-1], flush=True)
    with open(args.out, "w") as fh:
        json.dump(rows, fh, indent=1)


if __name__ == "__main__":
    main()
