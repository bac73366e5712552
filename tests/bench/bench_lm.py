"""A live step of a language model against Moshi's own on PyTorch, interleaved; JSON lines.

    python -m tests.bench.bench_lm [--presets moshi_small moshi_medium] [--threads 1]
        [--only jax torch] [--said 0 3000] [--batch 1] [--repeats 30] [--int8]

Wall and CPU milliseconds for a frame, median and least, and the peer's ratio to ours; CPU time
counts when others use the machine. `--said` is how many frames the session has behind it. Weights
are random, sampling is on. `--int8` adds ours with int8 weights. `floor_ms` is what reading the
weights once would take at the rate that a sum over 512 MiB reads memory at.
"""

import argparse
import json
import os
import statistics
import time

from tests.bench.bench_mimi import set_threads


def read_rate():
    """Bytes a second of a sum over an array that no cache holds."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((512, 1024, 256), jnp.float32)
    add = jax.jit(jnp.sum)
    add(x).block_until_ready()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        add(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return x.nbytes / min(times)


def random_model(preset):
    import jax
    from flax import nnx

    from moshijax.lm.moshi import Moshi
    from moshijax.lm.presets import PRESETS
    from moshijax.nn.transformer import unstack

    model = jax.jit(lambda: Moshi(PRESETS[preset], rngs=nnx.Rngs(0)))()
    return unstack(model)


def jax_run(preset, batch, said, int8=False):
    import jax
    import jax.numpy as jnp

    from moshijax.live.step import make_step
    from moshijax.lm.generate import Settings, init_state

    model = random_model(preset)
    if int8:
        from moshijax.nn.quant import quantize

        model = quantize(model, 8)
    state = init_state(model, batch)
    ended = [cache._replace(end=cache.end + said) for cache in state.temporal]
    box = [state._replace(temporal=tuple(ended), frames=state.frames + said)]
    step, key = make_step(model), jax.random.key(0)
    user_codes = jnp.zeros((batch, model.config.num_user_codebooks), jnp.int32)

    def run():
        frame, box[0] = step(box[0], user_codes, Settings(), key)
        frame.codes.block_until_ready()

    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    tables = sum(
        leaf.nbytes
        for part in (model.temporal, model.depth)
        for name in ("text_embedding", "audio_embeddings")
        for leaf in jax.tree.leaves(getattr(part, name))
    )
    return run, size - tables


def torch_run(preset, batch, threads):
    import torch
    from moshi.models.lm import LMGen

    from moshijax.lm.presets import PRESETS
    from tests.oracle import torch_lm

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    config = PRESETS[preset]
    generator = LMGen(torch_lm.load(None, config))
    generator.streaming_forever(batch)
    user_codes = torch.zeros((batch, config.num_user_codebooks, 1), dtype=torch.long)
    return lambda: generator.step(user_codes)


def measure(runs, repeats):
    times = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(3):
            run()
    for _ in range(repeats):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            times[name].append((1e3 * wall, 1e3 * cpu))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=["moshi_small"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--said", type=int, nargs="+", default=[0, 3000])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=["jax", "torch"], default=["jax", "torch"])
    parser.add_argument("--int8", action="store_true")
    args = parser.parse_args()
    set_threads(args.threads)
    os.environ["NO_TORCH_COMPILE"] = "1"
    rate = read_rate()
    for preset in args.presets:
        runs, weights = {}, 0
        for said in args.said if "jax" in args.only else ():
            runs["jax", said], weights = jax_run(preset, args.batch, said)
            if args.int8:
                runs["jax int8", said], _ = jax_run(preset, args.batch, said, int8=True)
        if "torch" in args.only:
            # It reads its whole cache whatever has been said.
            runs["torch", 0] = torch_run(preset, args.batch, args.threads)
        times = measure(runs, args.repeats)
        ours = statistics.median(s[1] for s in next(iter(times.values())))
        for (peer, said), samples in times.items():
            walls, cpus = zip(*samples, strict=True)
            line = {"preset": preset, "peer": peer, "said": said, "batch": args.batch}
            line |= {"threads": args.threads, "wall_ms": round(statistics.median(walls), 2)}
            line |= {"cpu_ms": round(statistics.median(cpus), 2), "least_ms": round(min(cpus), 2)}
            line["cpu_ratio_to_jax"] = round(statistics.median(cpus) / ours, 2)
            if peer == "jax":
                line["floor_ms"] = round(1e3 * weights / rate, 2)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
