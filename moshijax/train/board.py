"""TensorBoard's file of one run, by its own writer: numbers, sounds and images."""

import pathlib
import time

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event  # ty: ignore[missing-module-member]
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from moshijax.train.values import Figure, Sound


SCALAR = dict(plugin_data=dict(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR")


class Board:
    """Writes TensorBoard's events; the `Writer` that it exports knows numbers only."""

    def __init__(self, workdir: pathlib.Path) -> None:
        self._file = EventFileWriter(str(workdir))

    def close(self) -> None:
        """Writes what is still buffered."""
        self._file.close()

    def number(self, tag: str, value: float, step: int) -> None:
        """A point of a curve."""
        self._add(step, tag=tag, tensor=make_tensor_proto(np.float32(value)), metadata=SCALAR)

    def sample(self, tag: str, value: Sound | Figure, data: bytes, step: int) -> None:
        """A sound or an image, and the file that it was written as."""
        if isinstance(value, Sound):
            length, channels = value.samples.shape
            audio = dict(
                sample_rate=value.sample_rate,
                num_channels=channels,
                length_frames=length,
                encoded_audio_string=data,
                content_type="audio/wav",
            )
            self._add(step, tag=tag, audio=audio)
        else:
            height, width, channels = value.image.shape
            image = dict(height=height, width=width, colorspace=channels, encoded_image_string=data)
            self._add(step, tag=tag, image=image)

    def _add(self, step: int, **value: object) -> None:
        self._file.add_event(Event(wall_time=time.time(), step=step, summary=dict(value=[value])))
