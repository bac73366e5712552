"""Training and forward speed of our ResNets against timm's on torch, on the CPU, turn by turn.

    python -m tests.bench.bench_resnet [--threads 2] [--repeats 7] [--only r50x1@64 ...]

One JSON line a task: images a second of both (medians), and ours over theirs. A training step is
forward, cross entropy and all gradients, then plain SGD. The last line is the time from the start
of a process to the end of its first training step, compilation included.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time


CASES = {  # preset, batch, height and width
    "small_student@28": ("small_student", 128, 28),
    "small_teacher@28": ("small_teacher", 128, 28),
    "r50x1@64": ("r50x1", 16, 64),
    "r50x1@224": ("r50x1", 4, 224),
}
FIRST_STEP = (
    "from tests.bench.bench_resnet import jax_tasks; jax_tasks('small_student', 128, 28)['train']()"
)


def jax_tasks(preset, batch, size):
    """Our training step and forward pass, compiled and without arguments."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from distill.distances import cross_entropy
    from distill.vision.resnet import PRESETS, ResNet

    config = PRESETS[preset]
    model = jax.jit(lambda: ResNet(config, rngs=nnx.Rngs(0)))()
    shape = (batch, size, size, config.in_channels)
    images = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
    labels = jnp.arange(batch) % config.num_classes

    def loss(model, images):
        return cross_entropy(model(images)[0], labels).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(model, images):
        grads = jax.grad(loss)(model, images)
        return jax.tree.map(lambda p, g: p - 0.01 * g, model, grads)

    forward = jax.jit(lambda model, images: model(images)[0])
    state = [model]

    def train():
        state[0] = jax.block_until_ready(step(state[0], images))

    return {"train": train, "forward": lambda: forward(state[0], images).block_until_ready()}


def small_net(config):
    """A basic ResNet-v2 of one of our small configurations, of timm's parts."""
    import torch

    from tests.oracle import torch_timm

    torch_timm.import_timm()
    from timm.layers import GroupNormAct
    from timm.models.resnetv2 import DownsampleConv, PreActBasic

    conv = torch_timm.std_conv()
    norm = functools.partial(GroupNormAct, num_groups=config.num_groups)
    channels = config.width
    parts = [conv(config.in_channels, channels, 3, stride=config.stem_stride)]
    for stage, units in enumerate(config.stage_sizes):
        for unit in range(units):
            out, stride = config.width * 2**stage, 2 if stage and not unit else 1
            layers = dict(conv_layer=conv, norm_layer=norm, proj_layer=DownsampleConv)
            parts.append(PreActBasic(channels, out, stride=stride, **layers))
            channels = out
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(
        *parts, norm(channels), *head, torch.nn.Linear(channels, config.num_classes)
    )


def torch_tasks(preset, batch, size, layout):
    """The same of timm, eager, as torch users run it on a CPU."""
    import torch

    from distill.vision.resnet import PRESETS
    from tests.oracle import torch_timm

    config = PRESETS[preset]
    timm = torch_timm.import_timm()
    net = small_net(config) if config.unit == "basic" else timm.create_model("resnetv2_50x1_bit")
    net = net.train().to(memory_format=layout)
    images = torch.randn(batch, config.in_channels, size, size).to(memory_format=layout)
    labels = torch.arange(batch) % config.num_classes
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

    def train():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()

    def forward():
        with torch.no_grad():
            net(images)

    return {"train": train, "forward": forward}


def rates(tasks, batch, repeats):
    """Images a second of each task: the median of runs that take turns."""
    for run in tasks.values():
        run()
        run()
    seconds = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, run in tasks.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: batch / statistics.median(times) for name, times in seconds.items()}


def measure(case, repeats):
    import torch

    preset, batch, size = CASES[case]
    ours = jax_tasks(preset, batch, size)
    layouts = {"torch_nchw": torch.contiguous_format, "torch_nhwc": torch.channels_last}
    peers = {n: torch_tasks(preset, batch, size, layout) for n, layout in layouts.items()}
    for task in ("train", "forward"):
        tasks = {"jax": ours[task]} | {name: peer[task] for name, peer in peers.items()}
        speed = rates(tasks, batch, repeats)
        best = max(speed[name] for name in peers)
        row = {"case": case, "task": task, "batch": batch}
        row |= {f"{name}_images_per_s": round(value, 1) for name, value in speed.items()}
        print(json.dumps(row | {"ratio_to_best_torch": round(speed["jax"] / best, 3)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Both libraries size their pools by the cores they may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", FIRST_STEP], check=True)
    print(json.dumps({"case": "import to first step", "seconds": time.perf_counter() - start}))
    for case in args.only:
        measure(case, args.repeats)


if __name__ == "__main__":
    main()
