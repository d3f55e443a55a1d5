"""`combcn predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tqdm.contrib.logging import logging_redirect_tqdm
from tyro.conf import Positional, arg

from combcn_core.cli.common import RunBar, Unchecked, load_weights, settings
from combcn_core.clips.video import open_reader
from combcn_core.measure.predict import MAX_FRAMES, SEEDS
from combcn_core.shot import InpaintConfig


@dataclass(frozen=True, kw_only=True)
class Predict(Unchecked, InpaintConfig):
    """Predict how well an object will come out of a clip, before it is removed: areas of the mask's
    shape are hidden elsewhere in the frame, filled, and compared with what was there."""

    clip: Positional[Annotated[Path, arg(metavar="INPUT")]]
    """Video file or folder of frames, as `combcn inpaint` takes it."""
    mask: Annotated[str, arg(metavar="MASK")]
    """What is to be removed, as `combcn inpaint` takes it."""
    output: Annotated[Path, arg(metavar="FOLDER")] = Path("combcn_prediction")
    """Where prediction.json, prediction.jpg and index.html go."""
    test_frames: int = MAX_FRAMES
    """Frames to look at, at most: those around the largest hole."""
    seeds: tuple[int, ...] = SEEDS
    """Each draws the place of one area. More give a surer mean, and take longer."""
    weights: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Weights of the networks: a name that comes with CombCN, or a .safetensors file."""
    network: bool = True
    """Let the networks paint what no frame shows, where --weights are given."""

    def config(self) -> InpaintConfig:
        return settings(self, InpaintConfig, network=None if self.network else False)

    def run(self) -> int:
        from combcn_core.measure.predict import describe_prediction, self_test_file

        config = self.config()
        open_reader(self.clip)  # before the weights are read, which may take longer
        model = load_weights(self.weights, self.network)
        with logging_redirect_tqdm(), RunBar(self.clip.name) as bar:
            prediction = self_test_file(
                self.clip,
                self.mask,
                self.output,
                model,
                config,
                seeds=self.seeds,
                max_frames=self.test_frames,
                progress=bar,
            )
        print("\n".join(describe_prediction(prediction)))
        print(f"{self.output / 'index.html'} shows the hidden areas.")
        return 0
