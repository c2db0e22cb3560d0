"""PyTorch's own models with random weights, and what they compute."""

import functools

import numpy as np
import torch

from benchmarks.torch_vision import load as torchvision


@functools.cache
def timm():
    """timm, which imports torchvision."""
    torchvision()
    import timm

    return timm


def cifar_resnet(classes=10):
    """A ResNet-18 for small images, as it is passed around: ``linear`` and ``shortcut``."""
    model = torchvision().resnet18(num_classes=classes)
    model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = torch.nn.Identity()
    return model


def randomized(model, seed=0):
    """The model in inference mode, with weights and statistics that are nobody's default."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            # Zeros and ones would hide a bias or a scale that is not read.
            scale = 0.1 if parameter.ndim < 2 or parameter.std() == 0 else 0.01
            parameter.add_(scale * torch.randn(parameter.shape, generator=draw))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.2 * torch.randn(buffer.shape, generator=draw))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=draw))
    return model.eval()


def arrays(model):
    """Its state dict as {name: array}."""
    return {name: value.numpy() for name, value in model.state_dict().items()}


def run(model, images, stages):
    """({stage: activation}, logits) of images [b, h, w, c]; maps have their channels last."""
    found = {}

    def keep(name, output):
        found[name] = output.numpy()

    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, n=name: keep(n, out))
        for name in stages
    ]
    with torch.no_grad():
        logits = model(torch.tensor(np.moveaxis(images, -1, 1).copy())).numpy()
    for hook in hooks:
        hook.remove()
    return found, logits
