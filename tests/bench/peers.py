#!/usr/bin/env python3
"""Times peers' kernels at the shapes of bench_cuda_memory and bench_cuda_prefill.

Needs an NVIDIA GPU, PyTorch, Triton and flash-linear-attention (tried with fla 0.5.2); with vLLM's ReplaySSM
kernel in the Python path (vllm.model_executor.layers.fla.ops.fused_recurrent_replayssm) that one, too. Run it
on the same machine, right before or after those two. Prints microseconds of one layer's memory:

  decode:  one token of each of so many sessions, fused_recurrent_*, fp32 states, bf16 inputs. The calls of as
           many layers as make the states far larger than the second cache are one CUDA graph, as there, so
           neither Python nor launches count.
  prefill: a prompt of 4,096 tokens, chunk_* (bf16 inputs, fp32 state carried), likewise.

  replayssm: the gated delta rule's decode with a ring of 16 tokens beside the state (bf16), sessions out of
           phase, mean over 16 positions: a window like ours.

What a call needs and what it leaves are of the same kind as ours: q, k, v (and log decay, beta) after maps,
norms and rotary; a new state for the old one.
"""

import argparse
import json
import statistics

import torch

import fla
from fla.ops.delta_rule import chunk_delta_rule, fused_recurrent_delta_rule
from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule
from fla.ops.gla import chunk_gla, fused_recurrent_gla
from fla.ops.kda import chunk_kda, fused_recurrent_kda
from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

COLD_BYTES = 192 << 20


def gla_prefill(gk, **inputs):
    return chunk_gla(g=gk, **inputs)


def with_constant_decay(kernel):
    """Retention, as fla.ops.retention calls it, but for decays that are copied with each call."""
    gammas = {}

    def retention(q, **inputs):
        heads = q.shape[2]
        if heads not in gammas:
            gammas[heads] = (1 - torch.exp2(-5 - torch.arange(heads, device="cuda").float())).log()
        return kernel(q=q, g_gamma=gammas[heads], **inputs)

    return retention


# Memory: heads, key_dim, value_dim, inputs beside q, k, v, decode, prefill.
MEMORIES = {
    "retention": (8, 256, 512, (), with_constant_decay(fused_recurrent_simple_gla),
                  with_constant_decay(chunk_simple_gla)),
    "delta_rule": (32, 128, 128, ("beta",), fused_recurrent_delta_rule, chunk_delta_rule),
    "gated_delta_rule": (32, 128, 128, ("g", "beta"), fused_recurrent_gated_delta_rule,
                         chunk_gated_delta_rule),
    "gated_linear_attention": (4, 256, 512, ("gk",), fused_recurrent_gla, gla_prefill),
    "kimi_delta_rule": (32, 128, 128, ("channel_g", "beta"), fused_recurrent_kda, chunk_kda),
}


def make_inputs(memory, sessions, tokens):
    heads, key_dim, value_dim, extra, _, _ = MEMORIES[memory]

    def random(*shape):
        return torch.randn(sessions, tokens, heads, *shape, device="cuda", dtype=torch.bfloat16)

    inputs = {"q": torch.nn.functional.normalize(random(key_dim), dim=-1),
              "k": torch.nn.functional.normalize(random(key_dim), dim=-1), "v": random(value_dim)}
    for name in extra:
        if name == "beta":
            inputs[name] = torch.sigmoid(random())
        elif name == "g":
            inputs[name] = torch.nn.functional.logsigmoid(random().float())
        else:
            inputs[name.removeprefix("channel_")] = torch.nn.functional.logsigmoid(random(key_dim).float())
    return inputs


def time_calls(call, states, before=lambda replay: None, cycle=1):
    """Microseconds of a call: the median of cycles of replays of a graph with one for each state."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles and tunes
            call(states[0])
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for state in states:
                call(state)
        times = []
        for replay in range(13 if cycle == 1 else 4 * cycle):
            before(replay)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1e3 / len(states))
    return statistics.median(statistics.mean(times[i:i + cycle]) for i in range(cycle, len(times), cycle))


def measure(memory, sessions, tokens):
    heads, key_dim, value_dim, _, decode, prefill = MEMORIES[memory]
    inputs = make_inputs(memory, sessions, tokens)
    state_bytes = sessions * heads * key_dim * value_dim * 4
    layers = COLD_BYTES // state_bytes + 2 if tokens == 1 else 2
    states = [0.1 * torch.randn(sessions, heads, key_dim, value_dim, device="cuda") for _ in range(layers)]
    kernel = decode if tokens == 1 else prefill
    with torch.no_grad():
        return time_calls(lambda state: kernel(**inputs, initial_state=state, output_final_state=True), states)


def measure_replayssm(sessions):
    from vllm.model_executor.layers.fla.ops.fused_recurrent_replayssm import (
        fused_recurrent_gated_delta_rule_replayssm)
    heads, key_dim, value_dim = MEMORIES["gated_delta_rule"][:3]
    ring = 16

    def zeros(*shape, dtype=torch.bfloat16):
        return torch.zeros(*shape, device="cuda", dtype=dtype)

    layers = COLD_BYTES // (sessions * heads * key_dim * value_dim * 4) + 2
    slots = sessions + 1  # slot 0 stands for a row that is not there
    states = [{"initial_state": 0.1 * torch.randn(slots, heads, value_dim, key_dim, device="cuda"),
               "d_cache": zeros(slots, heads, ring, value_dim), "k_cache": zeros(slots, heads, ring, key_dim),
               "g_cache": zeros(slots, heads, ring, dtype=torch.float32)} for _ in range(layers)]
    mixed = torch.randn(sessions, 2 * heads * key_dim + heads * value_dim, device="cuda", dtype=torch.bfloat16)
    phases = 7 * torch.arange(sessions, device="cuda", dtype=torch.int32)
    written = phases % ring
    fixed = {"mixed_qkv": mixed, "a": zeros(sessions, heads), "b": zeros(sessions, heads),
             "A_log": zeros(heads, dtype=torch.float32), "dt_bias": zeros(heads, dtype=torch.float32),
             "scale": key_dim ** -0.5, "out": zeros(sessions, 1, heads, value_dim), "write_pos": written,
             "ssm_state_indices": torch.arange(1, slots, device="cuda", dtype=torch.int32),
             "use_qk_l2norm_in_kernel": True}
    return time_calls(lambda state: fused_recurrent_gated_delta_rule_replayssm(**fixed, **state), states,
                      before=lambda i: written.copy_((phases + i) % ring), cycle=ring)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--sessions", default="1,16,64,256")
    parser.add_argument("--prompt-tokens", type=int, default=4096, help="0: no prompts")
    parser.add_argument("--memory", choices=MEMORIES, action="append")
    args = parser.parse_args()
    counts = [int(sessions) for sessions in args.sessions.split(",")]
    cases = []  # memory, kind, sessions, tokens of each
    for memory in args.memory or MEMORIES:
        cases += [(memory, "decode", sessions, 1) for sessions in counts]
        cases += [(memory, "prefill", 1, args.prompt_tokens)] * (args.prompt_tokens > 0)
        cases += [(memory, "replayssm", sessions, 1) for sessions in counts] * (memory == "gated_delta_rule")
    if not args.json:
        print(f"{torch.cuda.get_device_name()}, fla {fla.__version__}, PyTorch {torch.__version__}")
    for memory, kind, sessions, tokens in cases:
        try:
            microseconds = measure_replayssm(sessions) if kind == "replayssm" else measure(memory, sessions, tokens)
        except Exception as error:  # a package that is missing, or of Triton's compiler: the others go on
            print(f"{memory} {kind} {sessions} x {tokens}: {type(error).__name__}: {error}"[:400])
            continue
        if args.json:
            print(json.dumps({"memory": memory, "kind": kind, "sessions": sessions, "tokens": tokens,
                              "step_us": microseconds}))
        else:
            print(f"{memory:24} {kind:10} {sessions:5} sessions x {tokens:5} {microseconds:10.2f} us", flush=True)


if __name__ == "__main__":
    main()
