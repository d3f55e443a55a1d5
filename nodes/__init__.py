"""The nodes of CombCN: each declares its inputs and outputs and calls `combcn_core`."""

from comfy_api.latest import ComfyExtension, io

from . import (
    evaluate,
    folders,
    inpaint,
    mask_files,
    masks,
    models,
    paint_mask,
    sample,
    stages,
    train,
    video,
)

NODES: list[type[io.ComfyNode]] = [
    models.LoadModel,
    models.SaveModel,
    sample.SampleClip,
    masks.PrepareMask,
    mask_files.LoadMaskSequence,
    paint_mask.PaintMask,
    masks.FollowMask,
    masks.TakeShadows,
    masks.MakeHoles,
    stages.Propagate,
    stages.Temporal,
    stages.UpsampleGuidance,
    stages.SpatialDetail,
    stages.SynthesizeTexture,
    inpaint.Inpaint,
    video.InpaintVideo,
    train.JointTrainer,
    evaluate.Evaluate,
    evaluate.Compare,
]


class CombCNExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        folders.register_models()
        return NODES
