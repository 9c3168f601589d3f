"""Writes the goldens that flash-linear-attention itself made: its checkpoint format, its logits.

    python3 tests/oracle/make_fla_goldens.py [DIR]   (DIR: default tests/goldens)

Needs flash-linear-attention 0.5.2 with torch and transformers, but no GPU: Triton's interpreter runs its kernels.
Every parameter is random and exact in bf16; activations are fp32. log_linear-a, norm-a, vla-a and vort-a, models that
flash-linear-attention does not have, come from other float64 references.
"""
import os
import sys
import zlib

os.environ['TRITON_INTERPRET'] = '1'

import numpy as np
import torch
from triton.runtime import autotuner

from checkpoint_files import store, write_safetensors
from make_goldens import random_values


def interpret_autotuned_kernels():
    """One configuration each, and no keys that the interpreter does not see."""
    create = autotuner.Autotuner.__init__

    def create_one(self, fn, arg_names, configs, key, *args, **kwargs):
        create(self, fn, arg_names, configs[:1], [k for k in key if k in arg_names], *args, **kwargs)
    autotuner.Autotuner.__init__ = create_one


interpret_autotuned_kernels()
import fla.models
from transformers import AutoModelForCausalLM

VOCAB = 128
SIZES = {'hidden_size': 64, 'num_hidden_layers': 2, 'vocab_size': VOCAB, 'fuse_norm': False,
         'fuse_cross_entropy': False, 'fuse_linear_cross_entropy': False}
MLP = {'intermediate_size': 96, 'fuse_swiglu': False, 'attn_mode': 'fused_recurrent'}


def make(root, name, config, length=80):
    """The interpreter knows the recurrent kernels only; `length`: what the model reads with these."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    model = AutoModelForCausalLM.from_config(config).float().eval()
    for tensor_name, tensor in model.named_parameters():
        values = torch.tensor(random_values(rng, tensor_name, tuple(tensor.shape)), dtype=torch.bfloat16)
        tensor.data = values.float()
    tokens = rng.integers(0, VOCAB, length)
    with torch.no_grad():
        logits = model(torch.tensor(tokens[None]), use_cache=False).logits[0].numpy()
    directory = os.path.join(root, name)
    model._tied_weights_keys = None     # older than the transformers that reads them
    model.bfloat16().save_pretrained(directory)
    os.remove(os.path.join(directory, 'generation_config.json'))
    write_safetensors(directory + '/golden.safetensors',
                      {'logits': ('F32', logits.shape, store(logits, 'F32')),
                       'tokens': ('I32', tokens.shape, tokens.astype('<i4').tobytes())})
    print(name, np.linalg.norm(logits))


def main(root):
    m = fla.models
    make(root, 'retnet-a', m.RetNetConfig(num_heads=2, **SIZES | MLP))
    make(root, 'linear_attn-a', m.LinearAttentionConfig(num_heads=2, **SIZES | MLP))
    make(root, 'gla-a', m.GLAConfig(num_heads=2, **SIZES | MLP))
    make(root, 'hgrn2-a', m.HGRN2Config(expand_ratio=32, **SIZES | MLP))
    make(root, 'delta_net-a', m.DeltaNetConfig(num_heads=1, **SIZES | MLP))
    make(root, 'gated_deltanet-a', m.GatedDeltaNetConfig(num_heads=1, head_dim=64, **SIZES | MLP))
    make(root, 'kda-a', m.KDAConfig(num_heads=1, head_dim=64, **SIZES | MLP))
    make(root, 'mamba2-a', m.Mamba2Config(num_heads=4, head_dim=32, state_size=64, n_groups=1, **SIZES))
    make(root, 'rwkv7-a', m.RWKV7Config(head_dim=32, decay_low_rank_dim=16, gate_low_rank_dim=24, a_low_rank_dim=12,
                                        v_low_rank_dim=8, intermediate_size=96, **SIZES), length=63)


if __name__ == '__main__':
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.dirname(__file__)), 'goldens'))
