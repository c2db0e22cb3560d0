"""A ResNet for small images, of PyTorch alone: other packages' interpreters import it too."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A basic residual block, with torchvision's names."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or before != width:
            shortcut = nn.Conv2d(before, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [b, c, h, w] to [b, width, h/stride, w/stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A ResNet of basic blocks for small images; gives the maps of all stages and the logits."""

    def __init__(self, blocks: Sequence[int], width: int, classes: int, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages, before = len(blocks), width
        for i, count in enumerate(blocks):
            layers = []
            for j in range(count):
                layers.append(Block(before, width * 2**i, 2 if i and not j else 1))
                before = width * 2**i
            self.add_module(f"layer{i + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """(maps of the stages, the feature that the head reads, logits) of images [b, c, h, w]."""
        x, maps = F.relu(self.bn1(self.conv1(x))), []
        for layer in self.watched():
            x = layer(x)
            maps.append(x)
        pooled = x.mean((2, 3))
        return maps, pooled, self.fc(pooled)

    def watched(self) -> list[nn.Module]:
        """The stages."""
        return [self.get_submodule(f"layer{i + 1}") for i in range(self.stages)]

    def map(self, out: Tensor) -> Tensor:
        """The map [b, c, h, w] that a stage gave."""
        return out


class Classifier(nn.Module):
    """A ResNet as packages take it: it gives logits alone, and keeps those of training."""

    def __init__(self, backbone: ResNet):
        super().__init__()
        self.backbone, self._seen = backbone, []

    def forward(self, x: Tensor) -> Tensor:
        """Logits [b, classes] of images [b, c, h, w]."""
        logits = self.backbone(x)[-1]
        if self.training:
            self._seen.append(logits.detach())
        return logits

    def losses(self, labels: Tensor) -> list[float]:
        """The cross-entropy of every batch in training since the last call, of the same labels."""
        found = [float(F.cross_entropy(logits, labels)) for logits in self._seen]
        self._seen.clear()
        return found
