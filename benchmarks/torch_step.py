"""EC's update step as it is written plainly in PyTorch: what ours is timed beside.

The same network, modules, losses, batch and optimizer. Weights come from ours, so that a test can
compare losses and gradients.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.torch_resnet import ResNet
from benchmarks.torch_vision import load as torchvision
from ec_jax.models import torch_weights
from ec_jax.models.resnet import STAGE_SIZES

_SMALLEST = 1e-12  # length by which a vector is divided
_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class ViT(nn.Module):
    """timm's vision transformer; gives the patches' maps of four stages and the logits."""

    def __init__(self, depth: int, width: int, classes: int, size: int, patch: int):
        super().__init__()
        torchvision()
        from timm.models.vision_transformer import VisionTransformer

        self.made = VisionTransformer(
            img_size=size,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=max(width // 64, 1),
            num_classes=classes,
        )
        self.ends = [depth * (i + 1) // 4 for i in range(4)]

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """(maps of the stages, the feature that the head reads, logits) of images [b, c, h, w]."""
        made, maps = self.made, []
        x = made._pos_embed(made.patch_embed(x))
        for i, block in enumerate(made.blocks, 1):
            x = block(x)
            if i in self.ends:
                maps.append(self.map(x))
        pooled = made.norm(x)[:, 0]
        return maps, pooled, made.head(pooled)

    def watched(self) -> list[nn.Module]:
        """The last blocks of the stages."""
        return [self.made.blocks[i - 1] for i in self.ends]

    def map(self, out: Tensor) -> Tensor:
        """The map [b, c, h, w] of the tokens that a block gave."""
        tokens = out[:, 1:].transpose(1, 2)
        return tokens.unflatten(2, (int(tokens.shape[2] ** 0.5), -1))


class Module(nn.Module):
    """What reads a class out of a stage: convolutions (none: the mean alone), mean, classifier."""

    def __init__(self, before: int, widths: Sequence[int], strides: Sequence[int], classes: int):
        super().__init__()
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for width, stride in zip(widths, strides, strict=True):
            # Ours pads a stride's convolution at the end alone.
            self.convs.append(nn.Conv2d(before, width, 3, stride, 2 - stride, bias=False))
            self.norms.append(nn.BatchNorm2d(width))
            before = width
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(embedding [b, d], logits [b, classes]) of a map [b, c, h, w]."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.pad(x, (0, 1, 0, 1)) if conv.stride[0] == 2 else x
            x = F.relu(norm(conv(x)))
        embedding = x.mean((2, 3))
        return embedding, self.head(embedding)


class Network(nn.Module):
    """A backbone and the modules of all its stages but the last."""

    def __init__(self, backbone: nn.Module, modules: Sequence[Module]):
        super().__init__()
        self.backbone, self.aside = backbone, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(embeddings, logits) of every stage, for images [b, c, h, w]."""
        maps, pooled, last = self.backbone(x)
        seen = [module(m) for module, m in zip(self.aside, maps[:-1], strict=False)]
        return [e for e, _ in seen] + [pooled], [c for _, c in seen] + [last]


def from_ours(network: Any, variables: Mapping[str, Any], image_size: int) -> Network:
    """The same network in PyTorch, with the same weights.

    Args:
      network: ours: a ResNet of basic blocks or a ViT, with modules or without.
      variables: its own.
      image_size: height and width.
    """
    made, back = network.backbone, {c: tree.get("backbone", {}) for c, tree in variables.items()}
    channels = back["params"]["stem"]["kernel"].shape[2]
    if hasattr(made, "patch"):
        backbone = ViT(made.depth, made.width, made.num_classes, image_size, made.patch)
        layout, inside = "timm", backbone.made
    else:
        blocks = STAGE_SIZES[made.depth][0]
        backbone = ResNet(blocks, made.width, made.num_classes, channels)
        layout, inside = "torchvision", backbone
    state = torch_weights.to_state(back, torch_weights.of_variables(back, layout))
    inside.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    modules = []
    if network.modules is not None:
        stats = variables.get("batch_stats", {}).get("modules", {})
        for point, tree in variables["params"]["modules"].items():
            modules.append(_module(network.modules, point, tree, stats.get(point, {})))
    return Network(backbone, modules)


def _module(made: Any, point: str, params: Mapping, stats: Mapping) -> Module:
    i = made.points.index(point)
    convs = sum(name.startswith("Conv_") for name in params)
    widths, strides = (made.widths[i + 1 :], made.strides[i + 1 :]) if convs else ((), ())
    found = Module(made.widths[i], widths, strides, made.num_classes)
    with torch.no_grad():
        for j, (conv, norm) in enumerate(zip(found.convs, found.norms, strict=True)):
            kernel = np.asarray(params[f"Conv_{j}"]["kernel"]).transpose(3, 2, 0, 1)
            conv.weight.copy_(torch.tensor(kernel))
            ours = {**params[f"BatchNorm_{j}"], **stats[f"BatchNorm_{j}"]}
            for name, theirs in _NORM.items():
                getattr(norm, theirs).copy_(torch.tensor(np.asarray(ours[name])))
        found.head.weight.copy_(torch.tensor(np.asarray(params["head"]["kernel"]).T))
        found.head.bias.copy_(torch.tensor(np.asarray(params["head"]["bias"])))
    return found


def contrast(anchors: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor, t: float):
    """Each anchor is drawn to the samples of other classes, of its batch and of the others'."""
    anchors, others = F.normalize(anchors, eps=_SMALLEST), F.normalize(others, eps=_SMALLEST)
    scores = anchors @ torch.cat([anchors, others]).T / t
    itself = torch.eye(len(anchors), scores.shape[1], dtype=torch.bool, device=scores.device)
    positive = (torch.cat([labels, other_labels])[None] != labels[:, None]) & ~itself
    log = scores - scores.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    count = positive.sum(1)
    losses = -(log * positive).sum(1) / count.clamp(min=1)
    return losses[count > 0].mean()


class Trainer:
    """Steps of SGD with Nesterov's momentum over uint8 batches.

    Attributes:
      network: what is trained.
    """

    def __init__(self, network: Network, recipe: Any, mean: np.ndarray, std: np.ndarray):
        """``recipe`` is an ``optimizer`` group of our config."""
        self.network = network.to(memory_format=torch.channels_last)
        self._clip = recipe.clip
        self._mean, self._std = (torch.tensor(a)[:, None, None] for a in (mean, std))
        named = list(network.named_parameters())
        matrices = [p for name, p in named if p.ndim > 1 and name.endswith("weight")]
        others = [p for name, p in named if p.ndim < 2 or not name.endswith("weight")]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others}]
        how = {"lr": recipe.learning_rate, "momentum": recipe.momentum, "nesterov": True}
        self._optimizer = torch.optim.SGD(groups, **how)

    def compile(self) -> None:
        """Has ``torch.compile`` compile the network, if it is not yet; it does so when called."""
        if not hasattr(self.network, "_orig_mod"):
            self.network = torch.compile(self.network)

    def images(self, images: Tensor) -> Tensor:
        """uint8 [b, h, w, c] as what the network reads."""
        x = images.permute(0, 3, 1, 2).float() / 255
        return ((x - self._mean) / self._std).contiguous(memory_format=torch.channels_last)

    def loss(self, batch: Mapping[str, Mapping[str, Tensor]], ec: Any, weights: Sequence[float]):
        """EC's loss: ``ec`` is that group of our config."""
        retain, forget = batch["retain"], batch["forget"]
        x = self.images(torch.cat([retain["image"], forget["image"]]))
        n, total = len(retain["label"]), 0.0
        embeddings, logits = self.network(x)
        for weight, e, c in zip(weights, embeddings, logits, strict=True):
            kept = F.cross_entropy(c[:n], retain["label"])
            away = contrast(e[n:], forget["label"], e[:n], retain["label"], ec.temperature)
            total = total + weight * (kept + ec["lambda"] * away)
        return total

    def by_hooks(
        self, batch: Mapping[str, Mapping[str, Tensor]], ec: Any, weights: Sequence[float]
    ) -> Tensor:
        """The same loss as code with forward hooks computes it: a pass a stream.

        Where statistics of the batch are taken it is another one, as each stream has its own.
        """
        seen = {name: self._watched(batch[name]["image"]) for name in ("retain", "forget")}
        retain, forget = batch["retain"]["label"], batch["forget"]["label"]
        total = 0.0
        for weight, (kept, c), (gone, _) in zip(weights, *seen.values(), strict=True):
            away = contrast(gone, forget, kept, retain, ec.temperature)
            total = total + weight * (F.cross_entropy(c, retain) + ec["lambda"] * away)
        return total

    def _watched(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(embedding, logits) of every stage, of a pass through the backbone that hooks watch."""
        backbone, maps = self.network.backbone, []
        hooks = [
            layer.register_forward_hook(lambda _, given, out: maps.append(out))
            for layer in backbone.watched()
        ]
        _, pooled, last = backbone(self.images(images))
        for hook in hooks:
            hook.remove()
        maps = [backbone.map(out) for out in maps[:-1]]
        seen = [module(m) for module, m in zip(self.network.aside, maps, strict=True)]
        return [*seen, (pooled, last)]

    def supervised(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy of the network's own logits."""
        return F.cross_entropy(self.network(self.images(batch["image"]))[1][-1], batch["label"])

    def step(self, loss: Tensor) -> float:
        """Makes the update of a loss, and gives it."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self._clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._clip)
        self._optimizer.step()
        return float(loss.detach())
