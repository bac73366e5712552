"""Images per second and core of the input pipeline, ours against tf.data doing the same.

    python tests/bench/bench_input.py --peer-python TFENV/bin/python

JPEG files to inception crops of 224 pixels, flipped at random, as bytes, in batches. The
peer runs under another Python, one that has TensorFlow (2.21.0 was used); the variable
PEER_PYTHON names it as well. Both sides are bound to one core and take turns, over the
same files, made here: smooth noise of 375 x 500 pixels, about 60 kB each. Ours has seen
them all once: only then does it leave out what lies below a crop. Without a peer
only ours runs. A JSON line for each turn, then the medians and the median ratio, of
wall-clock time and of processor time (steadier where others use the machine too).
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np


RESOLUTION, BATCH, HEIGHT, WIDTH = 224, 64, 375, 500


def make_files(folder, count):
    import cv2
    import simplejpeg

    random = np.random.default_rng(0)
    for k in range(count):
        coarse = random.normal(size=(12, 16, 3)).astype(np.float32) * 50
        fine = random.normal(size=(HEIGHT, WIDTH, 3)).astype(np.float32) * 45
        image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) + 128
        image = np.clip(image + cv2.GaussianBlur(fine, (0, 0), 1.2), 0, 255).astype(np.uint8)
        data = simplejpeg.encode_jpeg(image, quality=92, colorspace="RGB", colorsubsampling="420")
        (folder / "a" / f"{k:03}.jpg").write_bytes(data)


def make_ours(folder):
    from distill.vision import data

    source = data.load(f"folder:{folder}", "all")
    batches = data.TrainBatches(
        source,
        {"model": ("student", RESOLUTION)},
        design="same/ic",
        batch_size=BATCH,
        seed=0,
        mixup=0.0,
        on_corrupt="stop",
    )
    step = iter(range(1 << 30))
    return lambda: batches.batch(next(step))


def make_peer(folder):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def render(path):
        data = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(data),
            tf.zeros([0, 0, 4]),
            min_object_covered=0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.05, 1),
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.stack([begin[0], begin[1], size[0], size[1]])
        image = tf.io.decode_and_crop_jpeg(data, window, channels=3)
        image = tf.cast(tf.image.resize(image, (RESOLUTION, RESOLUTION)), tf.uint8)
        return tf.image.random_flip_left_right(image)

    files = tf.data.Dataset.list_files(f"{folder}/*/*.jpg").repeat()
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    # Otherwise it works ahead on other threads while it is our turn.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_optimization.inject_prefetch = False
    rows = iter(files.map(render).batch(BATCH).with_options(options))
    return lambda: next(rows).numpy()


def speed(batch, batches):
    start, start_cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        batch()
    images = batches * BATCH
    return images / (time.perf_counter() - start), images / (time.process_time() - start_cpu)


def serve(folder, batches):
    """The peer's process: one turn for each line read."""
    batch = make_peer(folder)
    speed(batch, 2)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(*speed(batch, batches), flush=True)


def turns(flags, folder):
    """Yields (side, images per second) in turn."""
    command = [flags.peer_python, __file__, "--serve", folder, "--batches", str(flags.batches)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    peer = subprocess.Popen(command, stderr=subprocess.DEVNULL, **pipes) if command[0] else None
    if peer and peer.stdout.readline() != "ready\n":
        raise SystemExit(f"{flags.peer_python} could not run the peer; does it have TensorFlow?")
    ours = make_ours(folder)
    speed(ours, 2)
    for _ in range(flags.rounds):
        yield "ours", speed(ours, flags.batches)
        if peer:
            peer.stdin.write("go\n")
            peer.stdin.flush()
            yield "peer", tuple(map(float, peer.stdout.readline().split()))
    if peer:
        peer.stdin.close()
        peer.wait()


def run():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=os.environ.get("PEER_PYTHON"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, default=8, help="of 64 images, in a turn")
    parser.add_argument("--files", type=int, default=128)
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    os.sched_setaffinity(0, {flags.core})
    if flags.serve:
        serve(flags.serve, flags.batches)
        return
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "a").mkdir()
        make_files(pathlib.Path(folder), flags.files)
        speeds = {"ours": [], "peer": []}
        for side, value in turns(flags, folder):
            speeds[side].append(value)
            line = dict(zip(("images_per_s", "images_per_cpu_s"), np.round(value, 1), strict=True))
            print(json.dumps({"side": side, **line}))
    for unit, column in (("s", 0), ("cpu_s", 1)):
        values = {side: [row[column] for row in rows] for side, rows in speeds.items() if rows}
        result = {side: round(statistics.median(rows), 1) for side, rows in values.items()}
        if "peer" in values:
            ratios = [a / b for a, b in zip(values["ours"], values["peer"], strict=True)]
            result["median_ratio"] = round(statistics.median(ratios), 3)
        print(json.dumps({"median": f"images_per_{unit}", **result}))


if __name__ == "__main__":
    run()
