#!/usr/bin/env python3
"""Random checkpoints of memories.py: logits of the training code against `evenflow logits`.

    check_logits.py --evenflow build/cpu/evenflow      # needs PyTorch, no GPU
"""
import argparse
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

import checkpoint
import memories
import recall

TOLERANCE = 1e-4  # relative: fp32 both sides, sums in other orders
OTHERS = {
    "log_linear delta": {"model_type": "log_linear", "transition": "delta"},
}
CONFIGS = {**recall.CONFIGS, **recall.LENGTHS, **recall.LAGS}
TOKENS = 90
WINDOW = 64  # within two windows, the server's power laws (vort) are exact


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--evenflow", required=True)
    args = parser.parse_args()
    wrong = 0
    convolved = {name + " conv": {**c, "use_short_conv": True, "num_heads": 2}
                 for name, c in {**CONFIGS, **OTHERS}.items()
                 if c["model_type"] not in ("retnet", "linear_attn")}
    for name, config in {**CONFIGS, **convolved}.items():
        torch.manual_seed(1)
        config = {**recall.SIZES, **config}
        model = memories.Decoder(config)
        for p in model.parameters():  # every parameter has to matter
            p.data = (p.data + 0.1 * torch.randn_like(p)).to(torch.bfloat16).float()
        tokens = torch.randint(config["vocab_size"], (1, TOKENS))
        with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            checkpoint.save(config, model.state_dict(), folder)
            out = os.path.join(folder, "logits.safetensors")
            subprocess.run([args.evenflow, "logits", "--model", folder, "--output", out, "--window",
                            str(WINDOW), "--tokens", ",".join(map(str, tokens[0].tolist()))],
                           check=True)
            served, ours = load_file(out)["logits"], model(tokens)[0]
            error = float((served - ours).abs().max() / ours.abs().max())
        wrong += error > TOLERANCE
        print(f"{name:24} {sum(p.numel() for p in model.parameters()):8} parameters, "
              f"relative error {error:.1e}{'' if error <= TOLERANCE else '  TOO LARGE'}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
