"""timm's BiT ResNets as an oracle of ours; imports torch and timm only when called."""

import functools
import importlib

import numpy as np


@functools.cache
def import_timm():
    """The module timm, on a torch for which torchvision has no compiled operators, too."""
    import torch

    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        # The CPU build of torch lacks torchvision::nms and qnms; declared, they let it import.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        torch.torchvision_stub = library  # it lives as long as its Python object
    return importlib.import_module("timm")


def bit_net(config):
    """timm's network of one of our bottleneck configurations with zero pool padding."""
    import_timm()
    from timm.layers import GroupNormAct
    from timm.models.resnetv2 import ResNetV2

    assert config.unit == "bottleneck"
    assert config.pool_padding == "zero"
    widths = [4 * config.width * 2**b for b in range(len(config.stage_sizes))]
    return ResNetV2(
        layers=config.stage_sizes,
        channels=widths,
        num_classes=config.num_classes,
        in_chans=config.in_channels,
        stem_chs=config.width,
        stem_type="fixed",
        norm_layer=functools.partial(GroupNormAct, num_groups=config.num_groups),
        conv_layer=std_conv(),
    )


def std_conv():
    """The standardised convolution with the epsilon of big_vision; timm's own is 1e-8."""
    import_timm()
    from timm.layers import StdConv2d

    return functools.partial(StdConv2d, eps=1e-10)


def load(path, net):
    """Has timm read a file of the `bit` layout."""
    import torch

    for module in net.modules():
        if type(module).__name__ == "StdConv2d":
            module.eps = 1e-10
    with torch.no_grad():
        net.load_pretrained(str(path))
    return net.eval()


def run(net, images):
    """Features by our names, channels last, and the logits as a tensor with its graph."""
    import torch

    features = {}

    def keep(name):
        return lambda module, inputs, output: features.update(
            {name: output.detach().permute(0, 2, 3, 1).numpy().copy()}
        )

    hooks = [net.stem.register_forward_hook(keep("stem"))]
    for b, stage in enumerate(net.stages, 1):
        for u, block in enumerate(stage.blocks, 1):
            hooks.append(block.register_forward_hook(keep(f"stage{b}/unit{u:02d}")))
    hooks.append(net.norm.register_forward_hook(keep("pre_logits_2d")))
    logits = net(torch.from_numpy(np.asarray(images).transpose(0, 3, 1, 2).copy()))
    for hook in hooks:
        hook.remove()
    return logits, features | {"logits": logits.detach().numpy()}
