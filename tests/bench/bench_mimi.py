"""Mimi's speed against PyTorch's Moshi and Rust's, interleaved; prints JSON lines.

    python -m tests.bench.bench_mimi [--threads 1] [--parts stream offline memory]
        [--seconds 10 60] [--batch 1 16] [--only jax torch rust] [--repeats 30]

`stream` and `offline` give wall and CPU milliseconds for each 80 ms frame of audio, one line for
each implementation and task: the median and the least, and the ratio of each peer's median to
ours. CPU time counts when others use the machine. `memory` gives the peak of a process of its own
for each implementation and task, and the peak when it has loaded the weights only.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time


CODEBOOKS = 8
FRAME = 1920


def set_threads(threads: int) -> None:
    """Must come before any library makes its pool."""
    os.environ["NO_TORCH_COMPILE"] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    # XLA sizes its pool by the cores it may use; Rust's waiting threads then want them all.
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:threads])
    import jax

    jax.numpy.ones((256, 256)).sum().block_until_ready()
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), cores)


def waveform(batch: int, frames: int):
    import numpy as np

    noise = np.random.default_rng(0).standard_normal((batch, frames * FRAME, 1))
    return (0.3 * noise).astype(np.float32)


def random_codes(batch: int, frames: int, dtype):
    import numpy as np

    return np.random.default_rng(1).integers(0, 2048, (batch, CODEBOOKS, frames)).astype(dtype)


def durations(args, batch: int):
    """A large batch is measured at the shortest duration only."""
    if "offline" not in args.parts:
        return []
    return args.seconds if batch == 1 else args.seconds[:1]


def jax_tasks(path, args):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from moshijax.codec.chunks import decode_in_chunks, encode_in_chunks
    from moshijax.codec.config import PRESETS
    from moshijax.convert.mimi import load_mimi
    from moshijax.nn.streaming import make_step

    config = dataclasses.replace(PRESETS["mimi"], num_codebooks=CODEBOOKS)
    mimi = load_mimi(path, config, inference=True)
    encode = jax.jit(functools.partial(encode_in_chunks, num_codebooks=CODEBOOKS))
    decode = jax.jit(decode_in_chunks)
    for batch in args.batch:
        chunk = jnp.asarray(waveform(batch, 1))
        codes = jnp.asarray(random_codes(batch, 1, np.int32))
        steps = {
            "encode": (lambda m, x, s: m.encode(x, s, num_codebooks=CODEBOOKS), mimi.encoder),
            "decode": (lambda m, x, s: m.decode(x, s), mimi.decoder),
        }
        for name, (function, half) in steps.items() if "stream" in args.parts else ():
            step, state = make_step(function, mimi), [half.init_state(batch)]
            x = chunk if name == "encode" else codes

            def run(step=step, state=state, x=x):
                y, state[0] = step(x, state[0])
                jax.block_until_ready(y)

            yield f"stream {name}", batch, 1, run
        for seconds in durations(args, batch):
            frames = int(seconds * 12.5)
            audio = jnp.asarray(waveform(batch, frames))
            codes = jnp.asarray(random_codes(batch, frames, np.int32))
            yield (
                f"offline encode {seconds} s",
                batch,
                frames,
                lambda a=audio: encode(mimi, a).block_until_ready(),
            )
            yield (
                f"offline decode {seconds} s",
                batch,
                frames,
                lambda c=codes: decode(mimi, c).block_until_ready(),
            )


def torch_tasks(path, args):
    import numpy as np
    import torch
    from moshi.models import loaders

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    model = loaders.get_mimi(path, num_codebooks=CODEBOOKS)
    for batch in args.batch:
        if "stream" in args.parts:
            live = loaders.get_mimi(path, num_codebooks=CODEBOOKS)
            live.streaming_forever(batch)
            chunk = torch.from_numpy(waveform(batch, 1)).mT.contiguous()
            codes = torch.from_numpy(random_codes(batch, 1, np.int64))
            yield "stream encode", batch, 1, lambda m=live, x=chunk: m.encode(x)
            yield "stream decode", batch, 1, lambda m=live, c=codes: m.decode(c)
        for seconds in durations(args, batch):
            frames = int(seconds * 12.5)
            audio = torch.from_numpy(waveform(batch, frames)).mT.contiguous()
            codes = torch.from_numpy(random_codes(batch, frames, np.int64))
            yield f"offline encode {seconds} s", batch, frames, lambda a=audio: model.encode(a)
            yield f"offline decode {seconds} s", batch, frames, lambda c=codes: model.decode(c)


def rust_tasks(path, args):
    import numpy as np
    import rustymimi

    model = rustymimi.Tokenizer(str(path), num_codebooks=CODEBOOKS)
    if "stream" in args.parts:
        chunk = np.ascontiguousarray(waveform(1, 1).transpose(0, 2, 1))
        codes = random_codes(1, 1, np.uint32)
        yield "stream encode", 1, 1, lambda x=chunk: model.encode_step(x)
        yield "stream decode", 1, 1, lambda c=codes: model.decode_step(c)
    for seconds in durations(args, 1):
        frames = int(seconds * 12.5)
        audio = np.ascontiguousarray(waveform(1, frames).transpose(0, 2, 1))
        codes = random_codes(1, frames, np.uint32)
        yield f"offline encode {seconds} s", 1, frames, lambda a=audio: model.encode(a)
        yield f"offline decode {seconds} s", 1, frames, lambda c=codes: model.decode(c)


PEERS = {"jax": jax_tasks, "torch": torch_tasks, "rust": rust_tasks}


def measure(tasks, repeats):
    """Milliseconds for each frame of each task, turn by turn so that noise hits all alike."""
    times = {key: [] for key in tasks}
    for frames, run in tasks.values():
        for _ in range(3 if frames == 1 else 1):
            run()
    for turn in range(repeats):
        for key, (frames, run) in tasks.items():
            if frames > 1 and turn >= max(2, repeats // 10):
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            times[key].append((1e3 * wall / frames, 1e3 * cpu / frames))
    return times


def print_times(times, threads: int) -> None:
    for (name, batch, peer), samples in times.items():
        walls, cpus = zip(*samples, strict=True)
        wall, cpu = statistics.median(walls), statistics.median(cpus)
        line = {"task": name, "batch": batch, "threads": threads, "peer": peer}
        line |= {"wall_ms_per_frame": round(wall, 2), "cpu_ms_per_frame": round(cpu, 2)}
        line |= {"least_cpu_ms_per_frame": round(min(cpus), 2)}
        line["real_time_factor"] = round(80 * batch / wall, 2)
        if peer != "jax" and (name, batch, "jax") in times:
            ours = statistics.median(sample[1] for sample in times[name, batch, "jax"])
            line["cpu_ratio_to_jax"] = round(cpu / ours, 2)
        print(json.dumps(line), flush=True)


def peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def print_peaks(args) -> None:
    """Starts a process for each, since a peak is one of a whole process."""
    for peer in args.only:
        loads = [("stream", "1", batch) for batch in args.batch]
        loads += [("offline", str(seconds), 1) for seconds in args.seconds]
        loads += [("offline", str(args.seconds[0]), batch) for batch in args.batch if batch > 1]
        for part, seconds, batch in loads:
            if peer == "rust" and batch > 1:
                continue
            command = [sys.executable, "-m", "tests.bench.bench_mimi", "--only", peer]
            command += ["--parts", part, "--seconds", seconds, "--batch", str(batch)]
            command += ["--threads", str(args.threads), "--repeats", "2", "--peak"]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            line = {"peer": peer, "part": part, "batch": batch, "seconds": int(seconds)}
            print(json.dumps(line | json.loads(result.stdout)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parts = ["stream", "offline", "memory"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=["stream", "offline"])
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 60])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=30, help="frames; a tenth of it for clips")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--peak", action="store_true", help="print peak memory, not times")
    args = parser.parse_args()
    set_threads(args.threads)
    path = pathlib.Path(tempfile.gettempdir()) / "bench_mimi.safetensors"
    if not path.exists():
        from moshijax.codec.config import PRESETS
        from moshijax.convert.mimi import save_mimi
        from moshijax.convert.random import random_mimi

        save_mimi(random_mimi(PRESETS["mimi"]), path)
    if args.parts != ["memory"]:
        tasks = {}
        for peer in args.only:
            for name, batch, frames, run in PEERS[peer](path, args):
                tasks[name, batch, peer] = frames, run
        loaded = peak_mb()
        times = measure(tasks, args.repeats)
        if args.peak:
            print(json.dumps({"loaded_peak_mb": loaded, "peak_mb": peak_mb()}))
        else:
            print_times(times, args.threads)
    if "memory" in args.parts:
        print_peaks(args)


if __name__ == "__main__":
    main()
