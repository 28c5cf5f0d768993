"""Video: what a layer knows of one image, with what it does not know of the frames of a video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from iin.demo import uploads
from iin.demo.choosing import Look, generator, image, in_parts, judged, said, sample, within
from iin.demo.contract import Clip, Demo, DemoError, Number, Option, Progress, Shown, Upload
from iin.demo.grouping import encodes, judges, stages
from iin.system import Picture

__all__ = ["Video", "demos"]

NEEDS = "a run with a conditional flow (a LatentFlow with a representation) over an autoencoder"
RATE = 25.0
"""Frames a second of the sequence that is made where no video is given."""
STOPS = 4
"""Test images that it leads along."""
STRIP = 10
"""Frames that are shown side by side."""


def demos(runs: Sequence[Any]) -> list[Demo]:
    """One for each network over a first stage that encodes."""
    return [Video(network) for stage in stages(runs) for network in stage.networks if encodes(network.first)]


class Video(Look):
    """A video translated: each frame's invariances, with the representation of one image.

    Args:
        network: whose layers may be chosen.
    """

    name = "video"
    title = "Video translation"
    count = Number("frames", "Frames", low=2, high=uploads.FRAMES, default=48, help="the most that are used")
    about = (
        "What a layer knows of the chosen image is kept for the whole video; what it does not know is taken from each "
        "frame. So the image moves as the video does, as far as the layer cannot see it move. Without a video, a "
        "sequence that leads along some test images is taken."
    )

    def inputs(self) -> list[Option]:
        own = Upload(
            "video", "A video of your own", video=True, help="or several pictures, in the order of their names"
        )
        return [*super().inputs(), own]

    @torch.no_grad()
    def show(self, values: Mapping[str, Any], progress: Progress) -> Shown:
        run, layer = self.network.layers[values["layer"]], values["layer"]
        still = image(self.network.first, values)
        limit = int(values["frames"])
        lines = [f"The image that gives the representation: {said(self.network.first, values)}."]
        if values["video"] is None:
            clip, what = self._sequence(values, limit), f"A sequence of {limit} frames, along {STOPS} test images."
        else:
            clip, what = run.video(values["video"], limit)
        if not len(clip.frames):
            raise DemoError("a video without frames")
        lines += [what] if what else []
        frames, system, size = clip.frames, run.system, still.numel()
        v = in_parts(system.encode, frames, size, within(progress, 0.1, 0.5), "reading frames")
        made = sample(run, system.represent(still), v, within(progress, 0.5, 1.0), "making frames")

        gap = frames.new_zeros(*frames.shape[:3], max(1, frames.shape[3] // 16))
        wide = torch.cat([frames, gap, still.expand_as(frames), gap, made], dim=3)
        at = torch.linspace(0, len(frames) - 1, min(STRIP, len(frames))).round().long().tolist()
        shown = Shown(
            {
                "image": Picture(
                    torch.cat([still, system.reconstruct(still)])[None],
                    "Image and its reconstruction",
                    f"What {layer} knows of this image is kept.",
                ),
                "strip": Picture(
                    torch.stack([frames[at], made[at]]),
                    f"Frames: {layer}",
                    "In the top row frames of the video, evenly spread; below each, the chosen image's representation "
                    "with the frame's invariances.",
                    rows=(1,),
                    labels=("video", "made of both"),
                ),
            },
            lines,
            clips={"video": Clip(wide, clip.rate)},
        )
        shown.lines.append(
            f"{len(frames)} frames, {clip.rate:g} a second: at the left the video, in the middle the image, at the "
            "right what is made of both."
        )
        shown.figures |= {"frames": len(frames), "rate": clip.rate}
        if judges(run):
            names, _ = judged(run, torch.cat([still, frames, made]))
            before, after = names[1 : 1 + len(frames)], names[1 + len(frames) :]
            shown.figures["agreement/video"] = before.count(names[0]) / len(frames)
            shown.figures["agreement/made"] = after.count(names[0]) / len(frames)
            shown.lines.append(
                f"The network takes the image for {names[0]}; {before.count(names[0])} of the video's frames likewise, "
                f"and {after.count(names[0])} of those that were made."
            )
        return shown

    def _sequence(self, values: Mapping[str, Any], count: int) -> Clip:
        """Frames ``[count, C, H, W]`` along test images and back, on straight lines between their codes."""
        run = self.network.first
        source = generator(values)
        order = torch.randperm(len(run), generator=source)[:STOPS]
        stops = run.system.code(run.images.image[order.to(run.device)])
        stops = torch.cat([stops, stops[:1]])
        at = torch.linspace(0, len(stops) - 1, count, device=stops.device)
        before = at.long().clamp_max(len(stops) - 2)
        codes = torch.lerp(stops[before], stops[before + 1], (at - before)[:, None])
        size = run.images.image[0].numel()
        return Clip(in_parts(run.system.first_stage.decode, codes, size), RATE)
