"""A checkpoint's folder: config.json and model.safetensors."""
import json
import os

from safetensors.torch import load_file, save_file


def save(config, weights, folder):
    """Writes weights as they are (bf16 or fp32) with their config."""
    os.makedirs(folder, exist_ok=True)
    save_file({name: w.contiguous() for name, w in weights.items()},
              os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(folder, "config.json"), "w") as fh:
        json.dump(config, fh, indent=2, sort_keys=True)
        fh.write("\n")


def load(folder, kind):
    """kind(config), a model, with the folder's weights in fp32."""
    with open(os.path.join(folder, "config.json")) as fh:
        model = kind(json.load(fh))
    weights = load_file(os.path.join(folder, "model.safetensors"))
    model.load_state_dict({name: w.float() for name, w in weights.items()})
    return model.eval()
